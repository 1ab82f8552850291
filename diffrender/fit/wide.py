"""Where a body might be when nobody knows: every orientation, and for each the place where its picture fits best.

For one orientation the body is drawn once per view. Sliding that picture over the frame (a normalised
cross-correlation, by FFT) says how well each shift fits; a place in space is a shift in every view at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import SettingError

SUPPORT = 0.05  # of its largest value: where a drawn body counts as there
SMOOTH = 0.06  # of the image's height: what is wider is no bone


@dataclass(frozen=True)
class WideSettings:
    """How finely the search looks.

    Attributes:
        turn: from one orientation to the next [degrees]; refinement has to catch half of it.
        reach: how far from the middle the body may be, along each axis of the world [mm].
        step: from one place to the next [mm].
        keep: how many candidates are returned, best first.
        apart: two candidates nearer than this [degrees] with places nearer than twice `step` count as one.
    """

    turn: float = 20.0
    reach: float = 80.0
    step: float = 5.0
    keep: int = 24
    apart: float = 15.0

    def __post_init__(self):
        for name in ("turn", "reach", "step", "apart"):
            if not getattr(self, name) > 0:
                raise SettingError(f"{name} of a wide search is above zero, not {getattr(self, name)!r}.")
        if self.keep < 1:
            raise SettingError(f"A wide search keeps at least one candidate, not {self.keep!r}.")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pose worth refining: `moved_from_body` (4, 4) [mm], and its mean normalised correlation over the views."""

    moved_from_body: Float[Tensor, "4 4"]
    score: float


def rotations(step: float) -> Float[np.ndarray, "n 3 3"]:
    """Rotations evenly spread over all orientations, about `step` [degrees] from one to the next.

    Source: Alexa, Super-Fibonacci Spirals: Fast, Low-Discrepancy Sampling of SO(3), CVPR 2022.
    """
    n = int(np.ceil(8 * np.pi**2 / np.radians(step) ** 3))  # cells of that width fill the volume of all rotations
    s = np.arange(n) + 0.5
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    near, far = np.sqrt(s / n), np.sqrt(1 - s / n)
    x, y, z, w = near * np.sin(alpha), near * np.cos(alpha), far * np.sin(beta), far * np.cos(beta)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def search(
    images: Sequence[Float[Tensor, "h w"]],
    weights: Sequence[Float[Tensor, "h w"]],
    cameras: Sequence[Camera],
    cast: Callable[[Float[Tensor, "4 4"], Camera], Float[Tensor, "h w"]],
    centre: Float[Tensor, "3"],
    middle: Float[Tensor, "3"],
    settings: WideSettings | None = None,
    turns: Float[np.ndarray, "n 3 3"] | None = None,
) -> list[Candidate]:
    """Look everywhere: candidates for a local fit, best first.

    Args:
        images: a frame per view, bone bright, small (64 to 128 px): the search does not need more.
        weights: for each frame 1 where it shows the patient, 0 outside the collimation, on tools and text.
        cameras: theirs.
        cast: draws the body, moved by a rigid matrix, for a camera; bone bright.
        centre: of the body at rest, RAS [mm].
        middle: of where to look, RAS [mm].
        turns: orientations to try; by default all, `settings.turn` apart.
    Returns: at most `settings.keep` candidates.
    One view hardly shows depth: give a `middle` whose depth is about right, and a fit does the rest.
    """
    settings = settings or WideSettings()
    turns = rotations(settings.turn) if turns is None else turns
    frames = [
        _Slid(image.numpy().astype(np.float64), weight.numpy().astype(np.float64), camera)
        for image, weight, camera in zip(images, weights, cameras, strict=True)
    ]
    line = np.arange(-settings.reach, settings.reach + settings.step / 2, settings.step)
    shifts = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    home = middle.numpy()
    shifts = shifts[np.logical_and.reduce([frame.sees(home + shifts) for frame in frames])]
    offsets = [frame.offsets(home, shifts) for frame in frames]
    found = []
    for turn in turns:
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = home - turn @ centre.numpy()
        drawn = torch.from_numpy(matrix)
        scores = np.mean(
            [
                frame.score(cast(drawn, camera).numpy(), at)
                for frame, camera, at in zip(frames, cameras, offsets, strict=True)
            ],
            axis=0,
        )
        best = int(np.argmax(scores))
        matrix[:3, 3] += shifts[best]
        found.append(Candidate(torch.from_numpy(matrix), float(scores[best])))
    return _apart(sorted(found, key=lambda one: -one.score), centre, settings)


class _Slid:
    """A frame over which pictures are slid."""

    def __init__(self, image: np.ndarray, weights: np.ndarray, camera: Camera):
        self.camera, self.size, self.weights = camera, image.shape, weights
        self.wide = (2 * image.shape[0], 2 * image.shape[1])
        self.sigma = SMOOTH * image.shape[0]
        known = ndimage.gaussian_filter(weights, self.sigma, mode="nearest").clip(1e-6)
        sharp = weights * (image - ndimage.gaussian_filter(weights * image, self.sigma, mode="nearest") / known)
        self.image = np.fft.rfft2(sharp, self.wide)
        self.energy = np.fft.rfft2(sharp**2, self.wide)
        # A flat place correlates with anything once it is divided by its own contrast.
        self.floor = 0.1 * (sharp**2).sum() / weights.sum().clip(1e-6)

    def sees(self, points: np.ndarray) -> np.ndarray:
        """Whether each place lies within the frame."""
        at = self.camera.project(torch.from_numpy(points)).numpy()
        return np.asarray(((at > 0) & (at < np.array(self.size))).all(1))

    def offsets(self, home: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far each shift in space moves a picture drawn at home, as an index into a wrapped correlation."""
        at = self.camera.project(torch.from_numpy(np.concatenate([home[None], home + shifts]))).numpy()
        moved = np.round(at[1:] - at[0]).astype(int)
        return moved[:, 0] % self.wide[0], moved[:, 1] % self.wide[1]

    def score(self, drawn: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Normalised cross-correlation of the drawn body's picture with the frame, at each shift."""
        there = drawn > SUPPORT * drawn.max()
        there = ndimage.binary_dilation(there, iterations=2)  # the rim's outside is half of an edge
        drawn = drawn.astype(np.float64)
        sharp = (drawn - ndimage.gaussian_filter(drawn, self.sigma, mode="nearest")) * there
        sharp -= there * (sharp.sum() / max(there.sum(), 1))
        norm = np.sqrt((sharp**2).sum())
        if norm == 0:
            return np.full(len(at[0]), -1.0)
        match = np.fft.irfft2(self.image * np.conj(np.fft.rfft2(sharp, self.wide)), self.wide)
        energy = np.fft.irfft2(self.energy * np.conj(np.fft.rfft2(there.astype(np.float64), self.wide)), self.wide)
        floor = self.floor * there.sum()
        return match[at] / (norm * np.sqrt(np.maximum(energy[at], 0) + floor))


def _apart(found: Sequence[Candidate], centre: Tensor, settings: WideSettings) -> list[Candidate]:
    """The best of those that lie apart."""
    kept: list[Candidate] = []
    for one in found:
        if not any(_close(one.moved_from_body, other.moved_from_body, centre, settings) for other in kept):
            kept.append(one)
            if len(kept) == settings.keep:
                break
    return kept


def _close(a: Tensor, b: Tensor, centre: Tensor, settings: WideSettings) -> bool:
    turn = torch.rad2deg(torch.arccos((((a[:3, :3].T @ b[:3, :3]).trace() - 1) / 2).clamp(-1, 1)))
    way = (a[:3, :3] @ centre + a[:3, 3] - b[:3, :3] @ centre - b[:3, 3]).norm()
    return bool(turn < settings.apart and way < 2 * settings.step)
