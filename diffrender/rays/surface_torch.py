"""The plain torch twin of the surface kernels: the same whole numbers for what a face covers, the same depths.

Faces whose bounding boxes have about one size are tried against all pixel centres of such a box at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from diffrender.rays.projected import Motion, Placing, Projected, places_of, turned

DEPTH_BITS = 30  # depths are added as whole numbers of 2**-30 mm: any order of faces gives the same sum
GRAZING = 0.05  # |n . d| in a gradient is at least this (3 degrees), where its inverse has a heavy tail
SAMPLES = 2_000_000  # of pixel centres at once: about 100 MB


@dataclass(frozen=True, eq=False)
class Hits:
    """Pixels that faces cover.

    Attributes:
        face: which face.
        ray: which pixel.
        sign: of the face's turn on the image: 1 where the ray leaves, before a camera that does not mirror.
        weights: how near the crossing is to each of the face's corners; they add up to 1.
    """

    face: Int64[Tensor, "hit"]
    ray: Int64[Tensor, "hit"]
    sign: Int64[Tensor, "hit"]
    weights: Float[Tensor, "hit 3"]


def put(vertices: Float[Tensor, "v 3"], placing: Placing) -> tuple[Float[Tensor, "v 3"], Int32[Tensor, "v 2"], bool]:
    """Vertices in the camera's frame, float64, their places on its image, and whether all of them have one."""
    body = vertices.to(torch.float64) - torch.from_numpy(placing.origin).to(vertices.device)
    points = turned(body, placing.turn, placing.shift)
    at = turned(points, placing.image)
    seen = (at[:, 2] >= placing.near).all() and (at[:, :2].abs() <= placing.reach * at[:, 2:]).all()
    return points, places_of(at, placing.bits), bool(seen)


def splat(
    seen: Projected, motion: Motion | None = None
) -> tuple[Int64[Tensor, "ray"], Int32[Tensor, "ray"], Float[Tensor, "ray p"] | None]:
    """The crossings of every ray: their signed depths [2**-30 mm] and their signs, summed; with `motion`, also how the
    path lengths change with its parameters [mm]."""
    on, count = seen.points.device, seen.pencil.count
    depths = torch.zeros(count, dtype=torch.int64, device=on)
    signs = torch.zeros(count, dtype=torch.int32, device=on)
    rates = None if motion is None else _rates(seen.points, motion)
    jacobian = None if rates is None else torch.zeros((count, rates.shape[1]), dtype=torch.float64, device=on)
    for hits in hits_of(seen):
        z = depths_of(seen.points, seen, hits)
        depths.index_add_(0, hits.ray, hits.sign * (z * 2**DEPTH_BITS + 0.5).long())
        signs.index_add_(0, hits.ray, hits.sign.int())
        if rates is not None and jacobian is not None:
            normals, levers = _levers(seen, hits)
            at_crossing = (rates[seen.faces[hits.face]] * hits.weights[:, :, None, None]).sum(1)
            moves = (at_crossing * normals[:, None]).sum(-1)
            jacobian.index_add_(0, hits.ray, levers[:, None] * moves)
    return depths, signs, jacobian if motion is None or jacobian is None else jacobian.to(motion.basis.dtype)


def finish(
    seen: Projected, factor: int, depths: Int64[Tensor, "ray"], signs: Int32[Tensor, "ray"], own: torch.dtype
) -> tuple[Float[Tensor, "ray"], Bool[Tensor, "ray"], bool]:
    """Lengths [mm], in the type `own`; whether a ray's crossings do not balance; and whether there is such a ray."""
    unbalanced = signs != seen.winding
    lengths = seen.ray_lengths() * (factor * depths) * 0.5**DEPTH_BITS
    return lengths.to(own), unbalanced, bool(unbalanced.any())


def adjoint(seen: Projected, into_body: Float[np.ndarray, "3 3"], g: Float[Tensor, "ray"]) -> Float[Tensor, "n 3"]:
    """The gradient of sum(g L) in the points, in the frame of the body, where `into_body` turns normals outward too."""
    out = torch.zeros_like(seen.points)
    for hits in hits_of(seen):
        normals, levers = _levers(seen, hits)
        pull = (g[hits.ray] * levers)[:, None] * normals
        for corner in range(3):
            out.index_add_(0, seen.faces[hits.face, corner], hits.weights[:, corner, None] * pull)
    return turned(out, into_body)


def outward(vertices: Float[Tensor, "v 3"], origin: Float[np.ndarray, "3"], faces: Int64[Tensor, "f 3"]) -> int:
    """-1 for a surface that is inside out, one that encloses a negative volume; 1 otherwise."""
    body = vertices.to(torch.float64) - torch.from_numpy(origin).to(vertices.device)
    a, b, c = body[faces].unbind(1)
    return -1 if float((a * torch.linalg.cross(b, c)).sum()) < 0 else 1


def _rates(points: Float[Tensor, "n 3"], motion: Motion) -> Float[Tensor, "n p 3"]:
    """How every point moves with each parameter, in the camera's frame."""
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    of_pose = torch.einsum("nij,vj->vni", torch.from_numpy(motion.rates).to(points), homogeneous)
    of_shape = motion.basis.to(points).transpose(1, 2) @ torch.from_numpy(motion.into_body.copy()).to(points)
    return torch.cat([of_pose, of_shape], 1)


def depths_of(points: Float[Tensor, "n 3"], seen: Projected, hits: Hits) -> Float[Tensor, "hit"]:
    """Depths of the crossings [mm]: where rays meet the faces' planes; differentiable in `points` by autograd.

    A crossing lies in its face, so between its corners: this holds rounding down where a face is on edge.
    """
    a, b, c = points[seen.faces[hits.face]].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    slope = (normal * _rays(seen, hits)).sum(1)
    z = ((normal * a).sum(1) / slope).nan_to_num(0.0)
    corners = torch.stack([a[:, 2], b[:, 2], c[:, 2]]).detach()
    return torch.minimum(torch.maximum(z, corners.amin(0)), corners.amax(0))


def hits_of(seen: Projected) -> Iterator[Hits]:
    """All pixel centres that faces cover, in portions that fit into memory."""
    height, width = seen.pencil.size
    unit = (1 << seen.bits) - 1
    places = seen.places[seen.faces].long()
    low = ((places.amin(1) + unit) >> seen.bits).clamp(min=0)
    high = (places.amax(1) >> seen.bits).minimum(low.new_tensor([width - 1, height - 1]))
    side1, side2 = places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]
    area = side1[:, 0] * side2[:, 1] - side1[:, 1] * side2[:, 0]
    some = torch.nonzero((low <= high).all(1) & (area != 0))[:, 0]
    size = (high - low + 1)[some]
    # Powers of two that hold a box: faces of one class waste at most three quarters of the pixels tried.
    classes = torch.ceil(torch.log2(size.double())).long()
    order = classes[:, 0] * 64 + classes[:, 1]
    for key in torch.unique(order).tolist():
        columns, rows = 1 << key // 64, 1 << key % 64
        members = some[order == key]
        for part in members.split(max(1, SAMPLES // (rows * columns))):
            yield from _covered(seen, part, places[part], low[part], high[part], area[part], (rows, columns))


def _covered(
    seen: Projected, faces: Tensor, places: Tensor, low: Tensor, high: Tensor, area: Tensor, box: tuple[int, int]
) -> Iterator[Hits]:
    on = places.device
    rows, columns = (torch.arange(n, device=on) for n in box)
    row, column = low[:, 1, None] + rows, low[:, 0, None] + columns
    inside = ((row <= high[:, 1, None])[:, :, None]) & ((column <= high[:, 0, None])[:, None, :])
    y, x = (row << seen.bits)[:, :, None], (column << seen.bits)[:, None, :]
    turn = area.sign()
    functions = []
    for corner in range(3):  # the edge opposite each corner, run so that the inside is where it is above zero
        u, v = places[:, (corner + 1) % 3], places[:, (corner + 2) % 3]
        u, v = (torch.where(turn[:, None] > 0, *pair) for pair in ((u, v), (v, u)))
        du, dv = (v - u).unbind(1)
        # On an edge a centre counts as if it lay a little to the right and less below.
        own = (dv < 0) | ((dv == 0) & (du > 0))
        du, dv, ux, uy, less = (n[:, None, None] for n in (du, dv, u[:, 0], u[:, 1], (~own).long()))
        functions.append(du * (y - uy) - dv * (x - ux) - less)
        inside &= functions[-1] >= 0
    n, r, c = torch.nonzero(inside, as_tuple=True)
    shares = torch.stack([e[n, r, c].double() for e in functions], 1) / seen.points[seen.faces[faces[n]], 2]
    total = shares.sum(1, keepdim=True)
    weights = torch.where(total > 0, shares / total, 1 / 3)
    yield Hits(faces[n], row[n, r] * seen.pencil.size[1] + column[n, c], turn[n], weights)


def _rays(seen: Projected, hits: Hits) -> Float[Tensor, "hit 3"]:
    """Directions in the camera's frame, of depth 1."""
    columns, row_step, column_step, row, column, distance = seen.pencil.detector.tolist()
    r, c = (hits.ray // int(columns)).double(), (hits.ray % int(columns)).double()
    x, y = (c + 0.5 - column) * column_step / distance, (r + 0.5 - row) * row_step / distance
    return torch.stack([x, y, torch.ones_like(x)], 1)


def _levers(seen: Projected, hits: Hits) -> tuple[Float[Tensor, "hit 3"], Float[Tensor, "hit"]]:
    """The faces' normals [mm2], as long as they come, and 1 / |n . d|, held where a ray grazes its face."""
    a, b, c = seen.points[seen.faces[hits.face]].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    q = _rays(seen, hits)
    slope = (normal * q).sum(1).abs() / q.norm(dim=1)
    least = GRAZING * normal.norm(dim=1)
    # A face without area, which rounding on the image gave some, pulls nowhere.
    return normal, torch.where(least > 0, 1 / slope.maximum(least), 0.0)
