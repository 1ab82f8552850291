"""Edges of the predicted picture found again in the frame: how a fit comes near from a centimetre off.

Bone edges are narrow. From a start 10 mm off, the slope of any similarity leads to the next edge, not to the right one,
and a fit ends there, whatever the optimiser. So before the first stage places on the model's contour are looked for in
the frame, each with the patch of the predicted picture around it, and pose and shape move so that contours go where
they were found. Only the way along the contour's normal counts, since along the contour a patch looks like its
neighbours.
Sources: active shape models (Cootes et al., Comput. Vis. Image Underst. 61 (1995) 38, doi:10.1006/cviu.1995.1004), here
with patches predicted by the model instead of learned profiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from diffrender.fit.evidence import mixed
from diffrender.fit.frames import Frame
from diffrender.fit.scene import Scene, vertex_normals

GRAZING = 0.2  # |n . ray| below which a vertex lies on the contour
PLACES = 400  # on the contour of each view; more say the same twice
LEAST_LIKE = 0.3  # correlation of a patch from which it counts
WORTH = 0.3  # of a place, as an independent number: neighbours' patches overlap
FAR = 0.1  # of correlation: what the farthest place searched must be more alike than the nearest
FLAT = 0.2  # of the usual variance: a flat place correlates with anything once divided by its own
ROBUST = 1.5  # deviations beyond which a place counts less (Cauchy)
REWEIGHTED = 4  # times


@dataclass(frozen=True)
class Round:
    """How places are looked for: lengths on the image plane [mm].

    Attributes:
        size: of the frames' longer side [px], at least, where there are so many.
        patch: half-width of what is compared.
        reach: how far it is looked for.
        deviation: of a place found from where the model's contour can be.
        times: how often, each from where the last one led.
    """

    size: int
    patch: float
    reach: float
    deviation: float
    times: int


ROUNDS = (Round(48, 23.0, 33.0, 9.0, 4), Round(96, 16.0, 14.0, 4.7, 4), Round(96, 14.0, 9.0, 3.5, 3))


@dataclass(frozen=True, eq=False)
class Matches:
    """Places on a contour and where they were found.

    Attributes:
        vertices: their numbers.
        normals: (n, 2) unit, (row, column) on the image plane.
        moved: (n,) [mm on the image plane], from where the model has them to where they were found, along the normal.
        alike: (n,) correlation there.
    """

    vertices: Int64[Tensor, "n"]
    normals: Float[Tensor, "n 2"]
    moved: Float[Tensor, "n"]
    alike: Float[Tensor, "n"]


def matched(
    scene: Scene,
    x: Float[Tensor, "n"],
    levels: Sequence[Sequence[Frame]],
    precision: Float[Tensor, "n n"],
    free: Tensor,
    seed: int = 0,
) -> Float[Tensor, "n"]:
    """x moved so that the model's contours lie on their likes in the frames.

    Args:
        levels: the frames at each size, coarse first.
        precision: of the prior of x, whose mean is 0.
        free: (n,) bool, what may move.
        seed: of the choice of places.
    """
    random = torch.Generator().manual_seed(seed)
    for one in ROUNDS:
        frames = next((level for level in levels if _size(level) >= one.size), levels[-1])
        for _ in range(one.times):
            x = x + _step(scene, x, frames, precision, free, one, random)
    return x


def _step(
    scene: Scene,
    x: Tensor,
    frames: Sequence[Frame],
    precision: Tensor,
    free: Tensor,
    how: Round,
    random: torch.Generator,
) -> Tensor:
    """One least-squares step: towards the places found in all views, held by the prior."""
    hessian, gradient = precision.clone(), -(precision @ x)
    for view, frame in enumerate(frames):
        found = matches_in(scene, x, view, frame, how, random)
        if not len(found.vertices):
            continue
        rates = _image_rates(scene, x, frame, found)
        trust = WORTH * (found.alike - LEAST_LIKE).clamp(min=0) / how.deviation**2
        weights = trust
        for _ in range(REWEIGHTED):
            step = _solved(hessian + (rates * weights) @ rates.T, gradient + (rates * weights) @ found.moved, free)
            left = (found.moved - step @ rates) / (ROBUST * how.deviation)
            weights = trust / (1 + left.square())
        hessian, gradient = hessian + (rates * weights) @ rates.T, gradient + (rates * weights) @ found.moved
    return _solved(hessian, gradient, free)


def matches_in(
    scene: Scene, x: Float[Tensor, "n"], view: int, frame: Frame, how: Round, random: torch.Generator
) -> Matches:
    """Where places on the model's contour are found in one frame."""
    camera = frame.camera
    shells = scene.pictures(x, camera, view)
    predicted = frame.high_passed(mixed(shells, None, frame, "correlation")[0].to(torch.float64))
    target = frame.high_passed(frame.image.to(torch.float64)) * frame.weights
    vertices = scene.mesh(x).vertices.to(torch.float64)
    normals = vertex_normals(vertices, scene.model.faces)
    rays = F.normalize(vertices - camera.source, dim=1)
    at = camera.project(vertices)
    patch = [max(2, round(how.patch / step)) for step in camera.pixel_size]
    reach = [max(1, round(how.reach / step)) for step in camera.pixel_size]
    size = torch.tensor(camera.image_size)
    inside = ((at > torch.tensor(patch)) & (at < size - torch.tensor(patch))).all(1)
    chosen = (((normals * rays).sum(1).abs() < GRAZING) & inside).nonzero()[:, 0]
    chosen = chosen[torch.randperm(len(chosen), generator=random)[:PLACES]]
    across = normals[chosen] @ camera.world_from_camera[:3, :2].flip(1)  # (row, column): the camera's y, then its x
    across = F.normalize(across, dim=1)
    shift, alike = _found(predicted, target, at[chosen].floor().long(), patch, reach)
    moved = (shift * torch.tensor(camera.pixel_size, dtype=torch.float64) * across).sum(1)
    return Matches(chosen, across, moved, alike)


def _found(
    predicted: Float[Tensor, "h w"],
    target: Float[Tensor, "h w"],
    at: Int64[Tensor, "n 2"],
    patch: Sequence[int],
    reach: Sequence[int],
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]:
    """How far each patch of one image about `at` lies in the other (row, column) [px], and its correlation there."""
    if not len(at):
        return torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    patches = _windows(predicted, at, patch)
    patches = patches - patches.mean((1, 2), keepdim=True)
    searched = _windows(target, at, [p + r for p, r in zip(patch, reach, strict=True)])
    products = F.conv2d(searched[None].float(), patches[:, None].float(), groups=len(at))[0].to(searched)
    ones = torch.ones(1, 1, *patches.shape[1:], dtype=searched.dtype)
    count = ones.numel()
    total, squares = (F.conv2d(one[:, None], ones)[:, 0] for one in (searched, searched.square()))
    variance = (squares - total.square() / count).clamp(min=0)
    size = patches.square().sum((1, 2)).sqrt()[:, None, None] * (variance + FLAT * variance.median()).sqrt()
    alike = products / size.clamp(min=1e-12)
    rows, columns = (torch.arange(-r, r + 1, dtype=torch.float64) for r in reach)
    away = (rows / reach[0]).square()[:, None] + (columns / reach[1]).square()
    best = (alike - FAR * away).flatten(1).argmax(1)
    shift = torch.stack([rows[best // len(columns)], columns[best % len(columns)]], 1)
    return shift, alike.flatten(1).gather(1, best[:, None])[:, 0]


def _windows(image: Float[Tensor, "h w"], at: Int64[Tensor, "n 2"], half: Sequence[int]) -> Float[Tensor, "n p q"]:
    """The image around each pixel, zeros outside."""
    padded = F.pad(image, (half[1], half[1], half[0], half[0]))
    rows, columns = (at[:, n, None] + torch.arange(2 * half[n] + 1) for n in range(2))
    return padded[rows[:, :, None], columns[:, None, :]]


def _image_rates(scene: Scene, x: Tensor, frame: Frame, found: Matches) -> Float[Tensor, "p n"]:
    """How each place moves along its normal on the image plane with x [mm per unit of x]."""
    camera = frame.camera
    seen = camera.projection()
    places = scene.mesh(x).vertices[found.vertices].to(torch.float64)
    column, row, depth = (places @ seen[:, :3].T + seen[:, 3]).unbind(1)
    of_row = (seen[1, :3] - (row / depth)[:, None] * seen[2, :3]) / depth[:, None]
    of_column = (seen[0, :3] - (column / depth)[:, None] * seen[2, :3]) / depth[:, None]
    along = (
        of_row * (found.normals[:, 0] * camera.pixel_size[0])[:, None]
        + of_column * (found.normals[:, 1] * camera.pixel_size[1])[:, None]
    )
    return torch.einsum("pnd,nd->pn", scene.vertex_rates(x, found.vertices), along)


def _solved(hessian: Tensor, gradient: Tensor, free: Tensor) -> Tensor:
    step = torch.zeros_like(gradient)
    step[free] = torch.linalg.solve(hessian[free][:, free], gradient[free])
    return step


def _size(level: Sequence[Frame]) -> int:
    return max(max(frame.camera.image_size) for frame in level)
