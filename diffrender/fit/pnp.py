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

ROTATIONS = 60  # to begin from, spread over all; four or more points have at most a few poses that look right
MATCHING_STEPS = 60
REFINED = 16  # of the best matches, those refined in the images
KEPT = 3  # of the different poses that they lead to
REFINING_STEPS = 25
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
    best = torch.argsort(misses)[:REFINED]
    ones = torch.ones(len(seen.points), dtype=torch.float64)
    poses = _descended(seen, _poses(rotations[best], translations[best]), ones)
    errors = (_projected(seen, poses) - seen.pixels).norm(dim=2).nan_to_num(torch.inf)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for n in torch.argsort(errors.square().mean(1)).tolist():
        if len(found) == KEPT or not bool(torch.isfinite(errors[n]).all()):
            break
        if any(_alike(poses[n], other) for other, _, _ in found):
            continue
        weighted = _weighted(seen, poses[n])
        if not any(_alike(weighted[0], other) for other, _, _ in found):
            found.append(weighted)
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
    across = torch.eye(3, dtype=torch.float64) - d[:, :, None] * d[:, None, :]
    total = across.sum(0)
    shift = torch.linalg.pinv(total)
    centre = seen.points.mean(0)
    body = seen.points - centre
    rotations = _spread_rotations(ROTATIONS)
    for _ in range(MATCHING_STEPS):
        turned = torch.einsum("bij,nj->bni", rotations, body)
        offset = torch.einsum("nij,bnj->bi", across, seen.sources - turned) @ shift
        places = turned + offset[:, None]
        depth = torch.einsum("ni,bni->bn", d, places - seen.sources).clamp(
            min=1.0
        )  # a line has a behind, a ray has none
        nearest = seen.sources + depth[..., None] * d
        rotations = _turning(body, nearest - nearest.mean(1, keepdim=True))
    turned = torch.einsum("bij,nj->bni", rotations, body)
    offset = torch.einsum("nij,bnj->bi", across, seen.sources - turned) @ shift
    reach = turned + offset[:, None] - seen.sources
    misses = torch.einsum("nij,bnj->bni", across, reach).square().sum((1, 2))
    behind = (torch.einsum("ni,bni->bn", d, reach) <= 0).any(1)
    misses = torch.where(behind, torch.inf, misses)
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


def _weighted(seen: Sighting, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least squares again with weights that let outliers go: (pose, error of each [px], its weight)."""
    weights = torch.ones(len(seen.points), dtype=torch.float64)
    errors = (_projected(seen, pose[None])[0] - seen.pixels).norm(dim=1)
    for _ in range(5 if len(seen.points) > 4 else 0):  # with four nothing can be told from an outlier
        spread = max(LEAST_SPREAD, 1.4826 * float(errors.median()))
        tried = (1 - (errors / (TUNING * spread)).square()).clamp(min=0).square()
        if int((tried > 0.1).sum()) < 4 or float(tried.min()) > 0.1:  # none left, or no outlier
            break
        weights = tried
        pose = _descended(seen, pose[None], weights)[0]
        errors = (_projected(seen, pose[None])[0] - seen.pixels).norm(dim=1)
    return pose, errors, weights


def _descended(seen: Sighting, poses: Tensor, weights: Tensor) -> Tensor:
    """Damped Gauss-Newton in the images, of several poses (b, 4, 4) at once, each with its own damping."""
    damping = torch.full((len(poses),), 1e-3, dtype=torch.float64)
    residual = _projected(seen, poses) - seen.pixels
    cost = _sum_of_squares(residual, weights)
    for _ in range(REFINING_STEPS):
        jacobian = _jacobian(seen, poses).nan_to_num()
        weighted = weights[:, None, None] * jacobian
        hessian = torch.einsum("bnri,bnrj->bij", weighted, jacobian)
        gradient = torch.einsum("bnri,bnr->bi", weighted, residual.nan_to_num())
        scale = hessian.diagonal(dim1=1, dim2=2).clamp(min=1e-9)
        step = -torch.linalg.solve(hessian + torch.diag_embed(damping[:, None] * scale), gradient)
        tried = _stepped(seen, poses, step)
        away = _projected(seen, tried) - seen.pixels
        new = _sum_of_squares(away, weights)
        better = new < cost
        gain = float(torch.where(better, (cost - new) / new.clamp(min=1e-16), torch.zeros_like(new)).max())
        poses = torch.where(better[:, None, None], tried, poses)
        residual = torch.where(better[:, None, None], away, residual)
        cost = torch.minimum(new, cost)
        damping = torch.where(better, damping / 5, damping * 8).clamp(1e-9, 1e9)
        if (gain < 1e-9 and float(damping.min()) > 1e-2) or float(cost.max()) < 1e-18:
            break
    return poses


def _sum_of_squares(residual: Tensor, weights: Tensor) -> Tensor:
    """(b,); infinite behind the source."""
    return (weights * residual.square().sum(2)).sum(1).nan_to_num(torch.inf)


def _places(seen: Sighting, poses: Tensor) -> Tensor:
    """(b, n, 3) world [mm]."""
    return torch.einsum("bij,nj->bni", poses[:, :3, :3], seen.points) + poses[:, None, :3, 3]


def _seen_from(seen: Sighting, world: Tensor) -> Tensor:
    """(b, n, 3): (column, row, 1) times depth."""
    return torch.einsum("nij,bnj->bni", seen.projections[:, :, :3], world) + seen.projections[:, :, 3]


def _projected(seen: Sighting, poses: Tensor) -> Tensor:
    """(b, n, 2): (row, column) [px]; NaN behind the source."""
    column, row, depth = _seen_from(seen, _places(seen, poses)).unbind(2)
    pixels = torch.stack([row, column], dim=2) / depth[..., None]
    return torch.where(depth[..., None] > 0, pixels, torch.nan)


def _jacobian(seen: Sighting, poses: Tensor) -> Tensor:
    """(b, n, 2, 6): d (row, column) / d (translation [mm], rotation [rad] about the points' middle), world axes."""
    world = _places(seen, poses)
    homogeneous = _seen_from(seen, world)
    depth = homogeneous[..., 2, None, None]
    linear = seen.projections[:, :, :3]
    by_place = (linear[:, :2] - homogeneous[..., :2, None] / depth * linear[:, 2:]) / depth
    # r x arm along each of the three axes of r; then (column, row) to (row, column)
    arms = (world - world.mean(1, keepdim=True))[:, :, None]
    by_turn = torch.linalg.cross(
        torch.eye(3, dtype=torch.float64).expand(*arms.shape[:2], 3, 3), arms.expand(-1, -1, 3, 3)
    )
    return torch.cat([by_place, by_place @ by_turn.transpose(2, 3)], dim=3).flip(2)


def _stepped(seen: Sighting, poses: Tensor, steps: Tensor) -> Tensor:
    centre = _places(seen, poses).mean(1)
    crosses = torch.linalg.cross(
        steps[:, None, 3:].expand(-1, 3, 3), torch.eye(3, dtype=torch.float64).expand(len(steps), 3, 3)
    )
    rotation = torch.linalg.matrix_exp(crosses.transpose(1, 2))
    moved = torch.einsum("bij,bj->bi", rotation, poses[:, :3, 3] - centre) + centre + steps[:, :3]
    return _poses(rotation @ poses[:, :3, :3], moved)


def _poses(rotations: Tensor, translations: Tensor) -> Tensor:
    """(b, 4, 4)."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(rotations), 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotations, translations
    return poses


def _alike(a: Tensor, b: Tensor) -> bool:
    """Within 2 degrees and 5 mm."""
    trace = float((a[:3, :3] @ b[:3, :3].T).diagonal().sum())
    angle = math.acos(max(-1.0, min(1.0, (trace - 1) / 2)))
    return angle < math.radians(2) and float((a[:3, 3] - b[:3, 3]).norm()) < 5
