"""Where a body might be when nobody knows: every orientation, and for each the place where its picture fits best.

For one orientation the body is drawn once per view. Sliding that picture over the frame (a normalised correlation of
gradients, by FFT) says how well each shift fits; a place in space is a shift in every view at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import fft, ndimage
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import SettingError
from diffrender.fit.cut import pixels_of
from diffrender.xray import Radiograph

SUPPORT = 0.05  # of its largest value: where a drawn body counts as there
NEIGHBOURS = 0.06  # of the image's height: the standard deviation of the neighbourhood that a gradient is measured by
LEAST = 0.25  # of the frame's usual gradient: a flat place is not stretched further
FLOOR = 0.1  # of the frame's mean square: a flat place correlates with anything once it is divided by its own contrast
BLUR = 0.7  # px that pictures are smoothed by: half a turn from one orientation to the next moves edges by more
EDGE = 2  # px about a drawn body that belong to it: the rim's outside is half of an edge
RIM = 0.03  # of the frame's height: so far from the collimation's edge the beam falls off, and that is no bone


@dataclass(frozen=True)
class WideSettings:
    """How finely the search looks.

    Attributes:
        turn: from one orientation to the next [degrees]; refinement has to catch half of it.
        reach: how far from the middle the body may be, along each axis of the world [mm]; by default half as far as
            the widest frame shows. Places that a frame does not see are never looked at.
        step: from one place to the next [mm].
        keep: how many candidates are returned, best first. The right one need not be among the first few: an edge of
            something else can suit a coarse picture better, and refinement tells.
    """

    turn: float = 20.0
    reach: float | None = None
    step: float = 4.0
    keep: int = 150

    def __post_init__(self):
        for name in ("turn", "reach", "step"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"{name} of a wide search is above zero, not {value!r}.")
        if self.keep < 1:
            raise SettingError(f"A wide search keeps at least one candidate, not {self.keep!r}.")


@dataclass(frozen=True, eq=False)
class Sought:
    """A body that is looked for.

    Attributes:
        cast: draws it, moved by a rigid matrix (4, 4), for a camera: (h, w), bone bright.
        centre: of the body at rest, RAS [mm].
        radius: of a ball about `centre` that holds it [mm].
        cut: (k, 3) RAS [mm], at rest, where it was cut off: its picture ends there and the frame does not.
    """

    cast: Callable[[Float[Tensor, "4 4"], Camera], Float[Tensor, "h w"]]
    centre: Float[Tensor, "3"]
    radius: float
    cut: Float[Tensor, "k 3"]


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


def without_rim(radiograph: Radiograph) -> Radiograph:
    """The radiograph with the collimation's rim not exposed, where the beam falls off."""
    if radiograph.exposed is None:
        return radiograph
    inside = np.asarray(ndimage.distance_transform_edt(radiograph.exposed.numpy()))
    within = inside > RIM * radiograph.exposed.shape[0]
    return replace(radiograph, exposed=torch.from_numpy(within)) if within.any() else radiograph


def search(
    images: Sequence[Float[Tensor, "h w"]],
    weights: Sequence[Float[Tensor, "h w"]],
    cameras: Sequence[Camera],
    body: Sought,
    middle: Float[Tensor, "3"],
    settings: WideSettings | None = None,
    turns: Float[np.ndarray, "n 3 3"] | None = None,
) -> list[Candidate]:
    """Look everywhere: candidates for a local fit, best first.

    Args:
        images: a frame per view, bone bright, small (64 to 128 px): the search does not need more.
        weights: for each frame 1 where it shows the patient, 0 outside the collimation, on tools and text.
        cameras: theirs.
        body: what is looked for.
        middle: of where to look, RAS [mm].
        turns: orientations to try; by default all, `settings.turn` apart.
    Returns: at most `settings.keep` candidates, no two of the same orientation.
    Raises: SettingError where no place lies in all frames.
    One view hardly shows depth: of places that look the same the one nearest to `middle` is taken; a fit does the rest.
    """
    settings = settings or WideSettings()
    turns = rotations(settings.turn) if turns is None else turns
    frames = [
        _Slid(image.numpy().astype(np.float64), weight.numpy().astype(np.float64), camera, body, middle)
        for image, weight, camera in zip(images, weights, cameras, strict=True)
    ]
    home = middle.numpy()
    shifts = _places(frames, home, settings)
    offsets = [frame.offsets(home, shifts) for frame in frames]
    found = []
    for turn in turns:
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = home - turn @ body.centre.numpy()
        drawn = torch.from_numpy(matrix.copy())
        scores = np.mean([frame.scores(drawn)[at] for frame, at in zip(frames, offsets, strict=True)], axis=0)
        best = int(np.argmax(scores))
        matrix[:3, 3] += shifts[best]
        found.append(Candidate(torch.from_numpy(matrix), float(scores[best])))
    return sorted(found, key=lambda one: -one.score)[: settings.keep]


def _places(
    frames: "Sequence[_Slid]", home: Float[np.ndarray, "3"], settings: WideSettings
) -> Float[np.ndarray, "place 3"]:
    """Shifts from the middle that all frames see [mm], the nearest first."""
    reach = max(frame.field for frame in frames) / 2 if settings.reach is None else settings.reach
    line = float(settings.step) * np.arange(-math.floor(reach / settings.step), math.floor(reach / settings.step) + 1)
    shifts = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    shifts = shifts[np.logical_and.reduce([frame.sees(home + shifts) for frame in frames])]
    if not len(shifts):
        raise SettingError(
            f"No place within {reach:.0f} mm of {home.round().tolist()} (RAS) is seen by all frames. Are they of one "
            "patient at one time, and their geometries in one world?"
        )
    return shifts[np.argsort((shifts**2).sum(1), kind="stable")]


class _Slid:
    """A frame over which pictures of a body are slid."""

    def __init__(self, image: np.ndarray, weights: np.ndarray, camera: Camera, body: Sought, middle: Tensor):
        self.camera, self.size, self.weights, self.body = camera, image.shape, weights, body
        depth = float((middle - camera.source) @ camera.direction)
        nearest = max(depth - body.radius, depth / 2)
        pixel = min(camera.pixel_size) / camera.source_to_detector
        self.field = max(n * step for n, step in zip(image.shape, camera.pixel_size, strict=True))
        self.field *= depth / camera.source_to_detector
        width = min(2 * math.ceil(body.radius / (nearest * pixel) + EDGE + 1), 2 * max(image.shape))
        row, column = camera.project(middle[None])[0].tolist()
        self.corner = (round(row - width / 2), round(column - width / 2))
        self.window = _cropped(camera, self.corner, width)
        self.wide = tuple(16 * math.ceil((n + width) / 16) for n in image.shape)  # quick to transform
        steep = _stretched(image, weights)
        energy = (steep**2).sum(0)
        self.floor = FLOOR * energy.sum() / weights.sum().clip(1e-6)
        self.spectrum, self.energy = self._spectrum(steep), self._spectrum(energy)

    def sees(self, points: Float[np.ndarray, "place 3"]) -> Bool[np.ndarray, "place"]:
        """Whether each place lies where the beam reached the frame."""
        at = np.floor(np.nan_to_num(self.camera.project(torch.from_numpy(points)).numpy(), nan=-1.0)).astype(int)
        inside = np.asarray(((at >= 0) & (at < np.array(self.size))).all(1))
        row, column = np.where(inside[:, None], at, 0).T
        return inside & (self.weights[row, column] > 0)

    def offsets(self, home: Float[np.ndarray, "3"], shifts: Float[np.ndarray, "place 3"]) -> Int[np.ndarray, "place"]:
        """How far each shift in space moves a picture drawn at home, as an index into a wrapped, flat correlation."""
        at = self.camera.project(torch.from_numpy(np.concatenate([home[None], home + shifts]))).numpy()
        moved = np.round(at[1:] - at[0]).astype(int) + np.array(self.corner)
        return (moved[:, 0] % self.wide[0]) * self.wide[1] + moved[:, 1] % self.wide[1]

    def scores(self, moved: Float[Tensor, "4 4"]) -> Float[np.ndarray, "offset"]:
        """Normalised correlation of gradients of the body's picture with the frame, at each offset."""
        drawn = self.body.cast(moved, self.window).numpy().astype(np.float64)
        there = ndimage.binary_dilation(drawn > SUPPORT * max(drawn.max(), 1e-12), iterations=EDGE)
        cut = pixels_of(self.body.cut @ moved[:3, :3].T + moved[:3, 3], self.window).numpy()
        open_ = there & np.logical_not(ndimage.binary_dilation(cut, iterations=EDGE + 1))
        there = open_ if 2 * open_.sum() > there.sum() else there
        steep = np.stack([*np.gradient(ndimage.gaussian_filter(drawn, BLUR))]) * there
        size = np.sqrt((steep**2).sum())
        if size == 0:
            return np.full(math.prod(self.wide), -1.0)
        match = self._correlated(self.spectrum, self._spectrum(steep))
        energy = self._correlated(self.energy, self._spectrum(there)).clip(0)
        return (match / (size * np.sqrt(energy + self.floor * there.sum()))).ravel()

    def _spectrum(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(fft.rfft2(images.astype(np.float32), self.wide))

    def _correlated(self, frame: np.ndarray, picture: np.ndarray) -> Float[np.ndarray, "h w"]:
        """Sum over channels, in the frequency domain: one transform back for all."""
        product = frame * np.conj(picture)
        return np.asarray(fft.irfft2(product.reshape(-1, *product.shape[-2:]).sum(0), self.wide))


def _stretched(image: Float[np.ndarray, "h w"], weights: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "2 h w"]:
    """Gradients over how steep their neighbourhood is: the steepest edge of a frame is seldom of the body."""
    known = ndimage.gaussian_filter(weights, BLUR, mode="nearest").clip(1e-6)
    smooth = ndimage.gaussian_filter(weights * image, BLUR, mode="nearest") / known
    steep = np.stack([*np.gradient(smooth)]) * (ndimage.minimum_filter(weights, 3, mode="nearest") > 0)
    square, sigma = (steep**2).sum(0), NEIGHBOURS * image.shape[0]
    known = ndimage.gaussian_filter(weights, sigma, mode="nearest").clip(1e-3)
    local = ndimage.gaussian_filter(square, sigma, mode="nearest") / known
    return steep / np.sqrt(local + LEAST**2 * square.sum() / weights.sum().clip(1e-6) + 1e-300)


def _cropped(camera: Camera, corner: tuple[int, int], width: int) -> Camera:
    """The camera for a square window of its image, which may reach beyond it."""
    row, column = camera.principal_point
    return replace(camera, image_size=(width, width), principal_point=(row - corner[0], column - corner[1]))
