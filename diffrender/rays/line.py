"""Attenuation line integrals: the p in Beer and Lambert's I = I0 exp(-p), for every ray of a camera.

Joseph's method on the trilinear interpolant; `line_kernel` holds the fused kernels, `line_torch` their plain twin.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import BackendError, GeometryError, ImageError, LabelError, SettingError
from diffrender.pose import check_xi
from diffrender.rays.pencil import PAD, Pencil, pencil_of

BACKENDS = ("auto", "torch", "warp")
MOST_LABELS = 128


@dataclass(frozen=True, eq=False)
class Prepared:
    """A volume made ready for rays: a padded copy, so that a ray's inner loop needs no bounds test. Made by `prepare`.

    Attributes:
        padded: (k + 4, j + 4, i + 4), int16, float32 or float64, as stored.
        scale, offset: stored * scale + offset is the attenuation [1/mm].
        values: what it was made of when that carries a gradient, else None.
        base_shape: (k, j, i) of the finest level.
        base_from_level: (4, 4) voxel indices of this level to those of the finest.
    """

    padded: Shaped[Tensor, "kp jp ip"]
    scale: float
    offset: float
    values: Tensor | None
    base_shape: tuple[int, int, int]
    base_from_level: Float[np.ndarray, "4 4"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i) of this level, without the pad."""
        k, j, i = self.padded.shape
        return k - 2 * PAD, j - 2 * PAD, i - 2 * PAD

    @property
    def air(self) -> float:
        """The stored value that means no attenuation."""
        return _air(self.scale, self.offset, self.padded.dtype)

    @property
    def real(self) -> torch.dtype:
        """The precision of the arithmetic and of the result."""
        return torch.float64 if self.padded.dtype == torch.float64 else torch.float32

    @cached_property
    def coarser(self) -> "Prepared":
        """The next level of the pyramid: means of 2 x 2 x 2 voxels, air beyond an odd end. Without gradient."""
        shape = tuple(-(-n // 2) for n in self.shape)
        padded = torch.full([n + 2 * PAD for n in shape], self.air, dtype=self.padded.dtype, device=self.padded.device)
        _, j, i = (2 * n for n in shape)
        for k in range(shape[0]):  # slice by slice: a float copy of the whole would double the memory
            pair = self.padded[PAD + 2 * k : PAD + 2 * k + 2, PAD : PAD + j, PAD : PAD + i].to(self.real).mean(0)
            mean = pair.reshape(j // 2, 2, i // 2, 2).mean((1, 3))
            padded[PAD + k, PAD:-PAD, PAD:-PAD] = mean if padded.is_floating_point() else mean.round()
        step = np.diag([2.0, 2.0, 2.0, 1.0])
        step[:3, 3] = 0.5
        return Prepared(padded, self.scale, self.offset, None, self.base_shape, self.base_from_level @ step)

    def level(self, n: int) -> "Prepared":
        """Level n of the pyramid: 0 is the finest, each next has half the voxels along each axis. It is kept."""
        return self if n == 0 else self.coarser.level(n - 1)


@dataclass(frozen=True, eq=False)
class PreparedLabels:
    """Labels made ready for rays: which set of labels each voxel belongs to. Made by `prepare_labels`.

    Attributes:
        groups: (k + 4, j + 4, i + 4) int16; 0 is the empty set.
        starts, members: set n has the labels members[starts[n]:starts[n + 1]], as indices into `ids`.
        ids: the labels.
    """

    groups: Integer[Tensor, "kp jp ip"]
    starts: Integer[Tensor, "sets_and_end"]
    members: Integer[Tensor, "entries"]
    ids: tuple[int, ...]


def prepare(
    values: Shaped[Tensor, "k j i"], scale: float = 1.0, offset: float = 0.0, floor: float | None = None
) -> Prepared:
    """Make a volume ready for many renders: a padded copy, and a resolution pyramid on demand; the caller holds it.

    Args:
        values: what is stored; int16, float32 and float64 stay as they are, other types become float32.
        scale, offset: stored * scale + offset = linear attenuation [1/mm], so that int16 HU stay int16.
        floor: stored values below this count as this (HU below air would attenuate less than nothing).
    Raises: ImageError where `values` is no volume, SettingError where scale is zero.
    A gradient flows through the result into `values`.
    """
    if values.ndim != 3 or 0 in values.shape:
        raise ImageError(f"A volume has three axes (k, j, i), none empty; these values have {list(values.shape)}.")
    if scale == 0 or not np.isfinite([scale, offset]).all():
        raise SettingError(
            f"stored * scale + offset must be the attenuation; scale {scale}, offset {offset} cannot be."
        )
    carries = values.requires_grad and torch.is_grad_enabled()
    exact = -offset / scale
    whole = values.dtype == torch.int16 and abs(exact - round(exact)) < 1e-6 * max(1, abs(exact)) and abs(exact) < 32767
    if not whole and values.dtype not in (torch.float32, torch.float64):
        values = values.float()  # also int16 in which air is no whole number
    if carries and floor is not None:
        values = values.clamp(min=floor)
    k, j, i = values.shape
    air = _air(scale, offset, values.dtype)
    padded = torch.empty((k + 2 * PAD, j + 2 * PAD, i + 2 * PAD), dtype=values.dtype, device=values.device)
    for axis in range(3):
        padded.narrow(axis, 0, PAD).fill_(air)
        padded.narrow(axis, padded.shape[axis] - PAD, PAD).fill_(air)
    inner = padded[PAD:-PAD, PAD:-PAD, PAD:-PAD]
    inner.copy_(values.detach())
    if floor is not None and not carries:
        inner.clamp_(min=floor if inner.is_floating_point() else math.ceil(floor))
    return Prepared(padded, float(scale), float(offset), values if carries else None, (k, j, i), np.eye(4))


def line_integrals(
    values: Shaped[Tensor, "k j i"] | Prepared,
    world_from_voxel: Float[Tensor, "4 4"],
    camera: Camera | Sequence[Camera],
    xi: Float[Tensor, "*n six"] | None = None,
    backend: str = "auto",
    centre: Float[Tensor, "3"] | None = None,
    pixels: Float[Tensor, "m 2"] | None = None,
) -> Float[Tensor, "*batch_and_image"]:
    """Integrate attenuation along the ray of every pixel.

    Args:
        values: linear attenuation [1/mm], or what `prepare` made of a volume (any level of its pyramid).
        world_from_voxel: the lattice of the finest level, RAS [mm].
        camera: one, or a sequence of cameras with images of one size.
        xi: motion of the volume (t [mm], r [rad]), (6,) or (n, 6): one for all, or one for each camera.
        backend: "auto" takes the fused kernels where they run, "torch" the plain twin, "warp" the kernels or an error.
        centre: RAS [mm] about which the volume turns; by default the middle of its lattice.
        pixels: (row, column) positions [px from the image's corner] of sparse rays; by default all pixel centres.
    Returns: p [no unit]: (h, w), or (m,) for sparse rays; one more leading axis for a sequence of cameras or of
        motions. In the dtype of floating input, float32 otherwise. Differentiable in `values` and in `xi`.
    Raises: GeometryError, ImageError, SettingError, BackendError.
    Rays start at the source, inside the volume too, and do not end at the image plane; outside the outermost voxel
    centres values fall to air within one voxel.
    Source: Joseph, IEEE TMI 1 (1982) 192, doi:10.1109/TMI.1982.4307572.
    """
    q = values if isinstance(values, Prepared) else prepare(values)
    view = _view(q, world_from_voxel, camera, xi, centre, pixels)
    engine = _engine(backend, q)
    p = _Integral.apply(q.values, view.xi, q, view.pencils, engine)[0]
    p = p.reshape(view.leading + view.pencils[0].size)
    half = not isinstance(values, Prepared) and values.is_floating_point() and values.dtype != p.dtype
    return p.to(values.dtype) if half else p  # pyright: ignore[reportAttributeAccessIssue]


def line_integrals_with_jacobian(
    values: Shaped[Tensor, "k j i"] | Prepared,
    world_from_voxel: Float[Tensor, "4 4"],
    camera: Camera | Sequence[Camera],
    centre: Float[Tensor, "3"] | None = None,
    xi: Float[Tensor, "*n six"] | None = None,
    backend: str = "auto",
    pixels: Float[Tensor, "m 2"] | None = None,
) -> tuple[Float[Tensor, "*batch_and_image"], Float[Tensor, "*batch_and_image_and_6"]]:
    """Integrate attenuation, and in the same pass its derivative in the volume's motion, ray by ray.

    Args: as `line_integrals`; `xi` is where the derivative is taken, by default at rest.
    Returns: p (h, w) and J (h, w, 6) = d p / d xi [1/mm, 1/rad], exactly the derivative of this p; detached.
    """
    q = values if isinstance(values, Prepared) else prepare(values.detach())
    view = _view(q, world_from_voxel, camera, xi, centre, pixels)
    engine = _engine(backend, q)
    parts = [engine.project(q, pencil, jacobian=True) for pencil in view.pencils]
    shape = view.leading + view.pencils[0].size
    p, j = (torch.stack([part[n] for part in parts]) for n in range(2))
    return p.reshape(shape), j.reshape(*shape, 6)


def prepare_labels(labels: Shaped[Tensor, "*n k j i"], ids: Sequence[int]) -> PreparedLabels:
    """Make labels ready for rays.

    Args:
        labels: ids (k, j, i), or (n, k, j, i) bool where structures overlap.
        ids: the labels wanted; for layers, the id of each layer in order.
    Raises: LabelError for more than 128 labels.
    """
    if len(ids) > MOST_LABELS:
        raise LabelError(f"{len(ids)} labels are asked for; one pass projects up to {MOST_LABELS}. Take them in parts.")
    if labels.ndim == 4:
        groups, sets = _sets_of_layers(labels)
    else:
        groups, sets = _sets_of_ids(labels, ids)
    padded = torch.zeros([n + 2 * PAD for n in groups.shape], dtype=groups.dtype, device=labels.device)
    padded[PAD:-PAD, PAD:-PAD, PAD:-PAD] = groups
    starts = np.cumsum([0, *(len(s) for s in sets)])
    members = [label for s in sets for label in s] or [0]
    on = {"dtype": torch.int32, "device": labels.device}
    return PreparedLabels(padded, torch.tensor(starts, **on), torch.tensor(members, **on), tuple(ids))


def integrate_with_labels(
    q: Prepared,
    labels: PreparedLabels,
    world_from_voxel: Float[Tensor, "4 4"],
    camera: Camera,
    backend: str = "auto",
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "label h w"]]:
    """Integrate attenuation, and in the same pass the path through every label.

    A label's path is the line integral of its indicator, interpolated as the volume is; so the paths of labels that
    fill the volume add up to the path through the volume.

    Returns: p [no unit], and the path in each label [mm], float32, in the order of `labels.ids`. Without gradient.
    """
    if labels.groups.shape != q.padded.shape:
        raise LabelError(f"Labels of {list(labels.groups.shape)} and volume of {list(q.padded.shape)} (padded) differ.")
    view = _view(q, world_from_voxel, camera, None, None, None)
    p, lengths = _engine(backend, q).project_labels(q, labels, view.pencils[0])
    size = view.pencils[0].size
    return p.reshape(size), lengths.reshape(len(labels.ids), *size)


def _air(scale: float, offset: float, stored: torch.dtype) -> float:
    # 0.02 / 2e-5 is 999.9999999999999, and filling whole numbers with it would cut it to 999
    return -offset / scale if stored.is_floating_point else float(round(-offset / scale))


@dataclass(frozen=True, eq=False)
class _View:
    pencils: list[Pencil]
    xi: Tensor | None
    leading: tuple[int, ...]


def _view(
    q: Prepared,
    world_from_voxel: Tensor,
    camera: Camera | Sequence[Camera],
    xi: Tensor | None,
    centre: Tensor | None,
    pixels: Tensor | None,
) -> _View:
    cameras = [camera] if isinstance(camera, Camera) else list(camera)
    if not cameras or len({c.image_size for c in cameras}) != 1:
        sizes = sorted({c.image_size for c in cameras})
        raise GeometryError(
            f"A batch needs cameras whose images have one size; these have {sizes or 'no camera at all'}."
        )
    lattice = torch.as_tensor(world_from_voxel).detach().cpu().numpy().astype(np.float64)
    motions = np.zeros((1, 6)) if xi is None else check_xi(xi).detach().cpu().numpy().astype(np.float64).reshape(-1, 6)
    leading: tuple[int, ...] = () if isinstance(camera, Camera) and (xi is None or xi.ndim == 1) else (1,)
    if len(cameras) > 1 and len(motions) > 1 and len(cameras) != len(motions):
        raise GeometryError(
            f"{len(cameras)} cameras and {len(motions)} motions do not pair; give as many, or one of either."
        )
    count = max(len(cameras), len(motions))
    k, j, i = q.base_shape
    middle = lattice @ [(i - 1) / 2, (j - 1) / 2, (k - 1) / 2, 1.0]
    about = middle[:3] if centre is None else torch.as_tensor(centre).detach().cpu().numpy().astype(np.float64)
    positions = None if pixels is None else torch.as_tensor(pixels).detach().cpu().numpy()
    level = lattice @ q.base_from_level
    pencils = [
        pencil_of(cameras[n % len(cameras)], level, q.shape, motions[n % len(motions)], about, positions)
        for n in range(count)
    ]
    return _View(pencils, xi, (count,) if leading else ())


class _Integral(torch.autograd.Function):
    """p with hand-written adjoints; `engine` is `line_torch` or `line_warp`, both with the same three functions."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor | None, xi: Tensor | None, q: Prepared, pencils: list[Pencil], engine: ModuleType
    ) -> tuple[Tensor]:
        wants_pose = xi is not None and xi.requires_grad
        parts = [engine.project(q, pencil, jacobian=wants_pose) for pencil in pencils]
        ctx.q, ctx.pencils, ctx.engine, ctx.xi = q, pencils, engine, xi
        ctx.jacobians = [j for _, j in parts] if wants_pose else None
        return (torch.stack([p.reshape(-1) for p, _ in parts]),)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        g_values = g_xi = None
        if ctx.needs_input_grad[0]:
            g_values = torch.zeros(ctx.q.shape, dtype=ctx.q.real, device=g.device)
            for pencil, part in zip(ctx.pencils, g, strict=True):
                ctx.engine.adjoint(ctx.q, pencil, part.to(ctx.q.real).contiguous(), g_values)
        if ctx.needs_input_grad[1]:
            rows = [part.to(j) @ j.reshape(-1, 6) for j, part in zip(ctx.jacobians, g, strict=True)]
            g_xi = torch.stack(rows).to(ctx.xi)
            g_xi = g_xi.sum(0) if ctx.xi.ndim == 1 else g_xi
            if ctx.xi.ndim == 2 and len(ctx.xi) == 1:
                g_xi = g_xi.sum(0, keepdim=True)
        return g_values, g_xi, None, None, None


def _engine(backend: str, q: Prepared) -> ModuleType:
    if backend not in BACKENDS:
        raise SettingError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}.")
    if backend != "torch":
        engine = importlib.import_module("diffrender.rays.line_warp")
        problem = engine.why_not(q)
        if problem is None:
            return engine
        if backend == "warp":
            raise BackendError(
                f"The warp backend was asked for and cannot run: {problem} backend='auto' goes on without it."
            )
    return importlib.import_module("diffrender.rays.line_torch")


def _sets_of_ids(labels: Tensor, ids: Sequence[int]) -> tuple[Tensor, list[list[int]]]:
    # 0 is the empty set, n + 1 the set of ids[n] alone. A table look-up, slice by slice: it indexes with int64.
    table = np.zeros(max([*ids, int(labels.max())]) + 1, dtype=np.int16)
    for n, label in enumerate(ids):
        table[label] = n + 1
    look_up = torch.from_numpy(table).to(labels.device)
    groups = torch.empty(labels.shape, dtype=torch.int16, device=labels.device)
    for k in range(len(labels)):
        groups[k] = look_up[labels[k].long()]
    return groups, [[], *([n] for n in range(len(ids)))]


def _sets_of_layers(layers: Tensor) -> tuple[Tensor, list[list[int]]]:
    # Every distinct combination of layers that occurs is one set; refined layer by layer, so memory stays one map.
    groups = torch.zeros(layers.shape[1:], dtype=torch.int32, device=layers.device)
    sets: list[list[int]] = [[]]
    for n, layer in enumerate(layers):
        if not layer.any():
            continue
        inside = groups[layer]
        present = torch.unique(inside)
        renamed = torch.zeros(len(sets), dtype=torch.int32, device=layers.device)
        for old in present.tolist():
            renamed[old] = len(sets)
            sets.append([*sets[old], n])
        if len(sets) > 32767:
            raise LabelError("The labels overlap in more than 32767 different ways; project fewer of them at a time.")
        groups[layer] = renamed[inside.long()]
    return groups.to(torch.int16), sets
