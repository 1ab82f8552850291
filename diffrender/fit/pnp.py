"""Where a rigid set of points lies, from where it is seen: one view or several, with the exact cameras.

Lines of sight and points are matched first (orthogonal iteration from many rotations, which finds its way from
anywhere), then the distances in the images are made small (Gauss-Newton with damping, robust).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.pose import cross_matrix

ROTATIONS = 60  # to begin from, spread over all; four or more points have at most a few poses that look right
MATCHING_STEPS = 60
REFINED = 4  # of the best matches, those refined in the images
REFINING_STEPS = 30
TUNING = 4.685  # of Tukey's weights: 95 % of the efficiency of least squares where errors are Gaussian
LEAST_SPREAD = 1.0  # px: marks are set no better


@dataclass(frozen=True, eq=False)
class Sighting:
    """Points of the body and where they were seen, one entry an observation.

    Attributes:
        points: (n, 3) in the body's frame [mm].
        pixels: (n, 2) (row, column) [px].
        projections: (n, 3, 4) of the camera that saw it, world [mm] to (column, row, 1) times depth.
        sources, directions: (n, 3) of the line of sight, world [mm], unit.
    """

    points: Float[Tensor, "n 3"]
    pixels: Float[Tensor, "n 2"]
    projections: Float[Tensor, "n 3 4"]
    sources: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]


def sighting(cameras: Sequence[Camera], views: Sequence[int], points: Tensor, pixels: Tensor) -> Sighting:
    """`points` (n, 3) seen at `pixels` (n, 2) of the cameras `views` (n,)."""
    rays = [cameras[v].rays(pixels[n]) for n, v in enumerate(views)]
    sources, directions = (torch.stack([ray[i] for ray in rays]) for i in (0, 1))
    projections = torch.stack([cameras[v].projection() for v in views])
    return Sighting(points.double(), pixels.double(), projections, sources, directions)


def solve(seen: Sighting) -> list[tuple[Float[Tensor, "4 4"], Float[Tensor, "n"], Float[Tensor, "n"]]]:
    """The poses that explain what was seen, best first: (world_from_body, error of each observation [px], its weight).

    Only poses before the cameras count; poses within a degree or two of each other are one.
    Source: Lu, Hager, Mjolsness, IEEE PAMI 22 (2000) 610 (orthogonal iteration); Beaton and Tukey's weights.
    """
    rotations, translations, misses = _matched(seen)
    order = torch.argsort(misses)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for n in order.tolist():
        if len(found) == REFINED:
            break
        start = _pose(rotations[n], translations[n])
        if not _in_front(seen, start) or any(_alike(start, pose) for pose, _, _ in found):
            continue
        pose, errors, weights = _refined(seen, start)
        if _in_front(seen, pose) and not any(_alike(pose, other) for other, _, _ in found):
            found.append((pose, errors, weights))
    return sorted(found, key=lambda one: _cost(one[1]))


def root_mean_square(errors: Float[Tensor, "n"], weights: Float[Tensor, "n"]) -> float:
    """Of the observations in their weights [px]."""
    return math.sqrt(float((weights * errors.square()).sum() / weights.sum().clamp(min=1e-9)))


def _cost(errors: Float[Tensor, "n"]) -> float:
    """For the order: an outlier counts, but not by its square."""
    return float(errors.clamp(max=50 * LEAST_SPREAD + 3 * float(errors.median())).mean())


def _matched(seen: Sighting) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"], Float[Tensor, "b"]]:
    """Orthogonal iteration from many rotations at once: points to the nearest places on their lines."""
    d = seen.directions
    along = d[:, :, None] * d[:, None, :]
    across = torch.eye(3, dtype=torch.float64) - along
    total = across.sum(0)
    shift = torch.linalg.pinv(total)
    centre = seen.points.mean(0)
    body = seen.points - centre
    rotations = _spread_rotations(ROTATIONS)
    for _ in range(MATCHING_STEPS):
        turned = torch.einsum("bij,nj->bni", rotations, body)
        offset = torch.einsum("nij,bnj->bi", across, seen.sources - turned) @ shift
        places = turned + offset[:, None]
        nearest = seen.sources + torch.einsum("nij,bnj->bni", along, places - seen.sources)
        rotations = _turning(body, nearest - nearest.mean(1, keepdim=True))
    turned = torch.einsum("bij,nj->bni", rotations, body)
    offset = torch.einsum("nij,bnj->bi", across, seen.sources - turned) @ shift
    misses = torch.einsum("nij,bnj->bni", across, turned + offset[:, None] - seen.sources).square().sum((1, 2))
    return rotations, offset - rotations @ centre, misses


def _turning(body: Float[Tensor, "n 3"], places: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 3 3"]:
    """The rotations that bring `body` nearest to `places` (Kabsch)."""
    u, _, v = torch.linalg.svd(torch.einsum("bni,nj->bij", places, body))
    sign = torch.linalg.det(u @ v)
    u = torch.cat([u[..., :2], u[..., 2:] * sign[:, None, None]], dim=-1)
    return u @ v


def _spread_rotations(count: int) -> Float[Tensor, "b 3 3"]:
    """Rotations evenly spread over all of them. Source: super-Fibonacci spirals, Alexa, CVPR 2022."""
    s = torch.arange(count, dtype=torch.float64) + 0.5
    r, big = (s / count).sqrt(), (1 - s / count).sqrt()
    alpha, beta = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / 1.533751168755204288118041
    x, y, z, w = r * alpha.sin(), r * alpha.cos(), big * beta.sin(), big * beta.cos()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _refined(seen: Sighting, pose: Float[Tensor, "4 4"]) -> tuple[Tensor, Tensor, Tensor]:
    """Least squares in the images, damped; then with weights that let outliers go."""
    weights = torch.ones(len(seen.points), dtype=torch.float64)
    pose = _descended(seen, pose, weights)
    if len(seen.points) > 4:  # with four nothing can be told from an outlier
        for _ in range(5):
            errors = (_projected(seen, pose) - seen.pixels).norm(dim=1)
            spread = max(LEAST_SPREAD, 1.4826 * float(errors.median()))
            weights = (1 - (errors / (TUNING * spread)).square()).clamp(min=0).square()
            if int((weights > 0.1).sum()) < 4:
                weights = torch.ones_like(weights)
                break
            if float(weights.min()) > 0.5:  # no outlier: least squares is the better estimate
                weights = torch.ones_like(weights)
                break
            pose = _descended(seen, pose, weights)
    return pose, (_projected(seen, pose) - seen.pixels).norm(dim=1), weights


def _descended(seen: Sighting, pose: Tensor, weights: Tensor) -> Tensor:
    damping = 1e-3
    residual = _projected(seen, pose) - seen.pixels
    cost = float((weights * residual.square().sum(1)).sum())
    for _ in range(REFINING_STEPS):
        jacobian = _jacobian(seen, pose)
        weighted = weights[:, None, None] * jacobian
        hessian = torch.einsum("nri,nrj->ij", weighted, jacobian)
        gradient = torch.einsum("nri,nr->i", weighted, residual)
        step = -torch.linalg.solve(hessian + damping * torch.diag(hessian.diagonal().clamp(min=1e-12)), gradient)
        tried = _stepped(seen, pose, step)
        away = _projected(seen, tried) - seen.pixels
        new = float((weights * away.square().sum(1)).sum())
        if math.isfinite(new) and new < cost:
            done = cost - new < 1e-8 * cost + 1e-16
            pose, residual, cost, damping = tried, away, new, max(damping / 5, 1e-9)
            if done:
                break
        else:
            damping *= 8
            if damping > 1e8:
                break
    return pose


def _seen_from(seen: Sighting, world: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """(column, row, 1) times depth."""
    return torch.einsum("nij,nj->ni", seen.projections[:, :, :3], world) + seen.projections[:, :, 3]


def _projected(seen: Sighting, pose: Float[Tensor, "4 4"]) -> Float[Tensor, "n 2"]:
    """(row, column) [px]; NaN behind the source."""
    column, row, depth = _seen_from(seen, seen.points @ pose[:3, :3].T + pose[:3, 3]).unbind(1)
    pixels = torch.stack([row / depth, column / depth], dim=1)
    return torch.where(depth[:, None] > 0, pixels, torch.nan)


def _jacobian(seen: Sighting, pose: Tensor) -> Float[Tensor, "n 2 6"]:
    """d (row, column) / d (translation [mm], rotation [rad] about the points' middle), world axes."""
    world = seen.points @ pose[:3, :3].T + pose[:3, 3]
    homogeneous = _seen_from(seen, world)
    depth = homogeneous[:, 2, None, None]
    linear = seen.projections[:, :, :3]
    by_place = (linear[:, :2] - homogeneous[:, :2, None] / depth * linear[:, 2:]) / depth
    # r x arm along each of the three axes of r; then (column, row) to (row, column)
    by_turn = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[None], (world - world.mean(0))[:, None])
    return torch.cat([by_place, by_place @ by_turn.transpose(1, 2)], dim=2).flip(1)


def _stepped(seen: Sighting, pose: Tensor, step: Tensor) -> Tensor:
    centre = (seen.points @ pose[:3, :3].T + pose[:3, 3]).mean(0)
    rotation = torch.linalg.matrix_exp(cross_matrix(step[3:]))
    return _pose(rotation @ pose[:3, :3], rotation @ (pose[:3, 3] - centre) + centre + step[:3])


def _pose(rotation: Tensor, translation: Tensor) -> Float[Tensor, "4 4"]:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def _in_front(seen: Sighting, pose: Tensor) -> bool:
    return bool(torch.isfinite(_projected(seen, pose)).all())


def _alike(a: Tensor, b: Tensor) -> bool:
    """Within 2 degrees and 5 mm."""
    trace = float((a[:3, :3] @ b[:3, :3].T).diagonal().sum())
    angle = math.acos(max(-1.0, min(1.0, (trace - 1) / 2)))
    return angle < math.radians(2) and float((a[:3, 3] - b[:3, 3]).norm()) < 5
