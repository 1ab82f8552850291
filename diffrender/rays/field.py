"""What is marched through: a lattice of colours and extinction, or of numbers, the table that classifies them, and what
each voxel changes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffrender.errors import ImageError, SettingError
from diffrender.rays.pencil import Pencil
from diffrender.volume import check_affine

ACCUMULATORS = ("alpha", "mip", "mean", "mida")
STORED = (torch.int16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Table:
    """Classifies numbers: colours and extinction at evenly spaced entries, linear between them, held beyond the ends.

    Attributes:
        entries: (bins, channel) for one number a voxel, (bins, bins, channel) for two; the last channel is the
            extinction kappa [1/mm], at least 0, those before it are colours.
        ranges: (low, high), the number of the first and of the last entry, for each axis of bins in order.
    Raises: SettingError where the parts do not fit each other.
    """

    entries: Float[Tensor, "*bins channel"]
    ranges: tuple[tuple[float, float], ...]

    def __post_init__(self):
        axes = self.entries.ndim - 1
        if axes not in (1, 2) or len(self.ranges) != axes or self.entries.shape[-1] < 1:
            raise SettingError(
                f"A table has one or two axes of bins, a range for each, and channels; this one has the shape "
                f"{list(self.entries.shape)} and {len(self.ranges)} ranges."
            )
        for bins, (low, high) in zip(self.entries.shape, self.ranges, strict=False):
            if bins < 2 or not low < high:
                raise SettingError(
                    f"An axis of a table needs two bins and a rising range; {bins} bins, {low} to {high}."
                )


@dataclass(frozen=True, eq=False)
class Field:
    """What a ray meets on its way.

    Attributes:
        values: without a table (channel, k, j, i), colours and, last, extinction kappa [1/mm] (pre-classified); with a
            table of one axis numbers (k, j, i), with two axes (2, k, j, i) (post-classified). int16 (numbers only),
            float16, float32 or float64.
        world_from_voxel: (4, 4), RAS [mm]; voxel centres at integers.
        table: what makes colours and extinction of the numbers, at every sample; or None.
        change: (channel, k, j, i), of what a table of one axis says, interpolated to every sample: added to its
            colours, and, last, a gain of at least 0 times its extinction (0 ... 0, 1 changes nothing). Floating-point,
            of any precision, since the steep part of the picture is the table's; or None.
    Raises: ImageError, GeometryError, SettingError.
    """

    values: Shaped[Tensor, "*channel k j i"]
    world_from_voxel: Float[Tensor, "4 4"]
    table: Table | None = None
    change: Shaped[Tensor, "..."] | None = None  # its shape is checked in words

    def __post_init__(self):
        axes = 2 if self.table is None else self.table.entries.ndim - 1
        expected = 3 if self.table is not None and axes == 1 else 4
        values = self.values
        if values.ndim != expected or 0 in values.shape or (self.table is not None and axes == 2 and len(values) != 2):
            kind = "(channel, k, j, i) without a table" if self.table is None else f"for a table of {axes} axes"
            raise ImageError(f"A field's values {kind} cannot have the shape {list(values.shape)}.")
        if values.dtype not in STORED or (self.table is None and not values.is_floating_point()):
            raise ImageError(f"A field holds floating-point values, or int16 numbers with a table; not {values.dtype}.")
        world = torch.as_tensor(self.world_from_voxel, dtype=torch.float64).detach().cpu()
        check_affine(world, "world_from_voxel")
        object.__setattr__(self, "world_from_voxel", world)
        if self.table is not None and self.table.entries.device != values.device:
            raise SettingError(f"The values lie on {values.device}, their table on {self.table.entries.device}.")
        self._check_change()

    def _check_change(self) -> None:
        change, table = self.change, self.table
        if change is None:
            return
        if table is None or table.entries.ndim != 2:
            raise SettingError("A change is one of a table of one axis; without one, change the values themselves.")
        expected = [self.channels, *self.shape]
        if list(change.shape) != expected:
            raise ImageError(
                f"A change holds what is added to each colour of the table and, last, a gain, at every voxel: "
                f"{expected} here, and this one {list(change.shape)}."
            )
        if change.dtype not in STORED or not change.is_floating_point():
            raise ImageError(f"A change holds float16, float32 or float64, not {change.dtype}.")
        if change.device != self.values.device:
            raise SettingError(f"The values lie on {self.values.device}, their change on {change.device}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i)."""
        k, j, i = self.values.shape[-3:]
        return k, j, i

    @property
    def channels(self) -> int:
        """How many: colours and extinction."""
        return len(self.values) if self.table is None else self.table.entries.shape[-1]

    @property
    def voxel_size(self) -> float:
        """d_v of eq. 4: the smallest step from voxel to voxel [mm]."""
        return float(self.world_from_voxel[:3, :3].norm(dim=0).min())

    @property
    def real(self) -> torch.dtype:
        """The precision of the arithmetic and of the result."""
        parts = (self.values, None if self.table is None else self.table.entries, self.change)
        precise = any(part is not None and part.dtype == torch.float64 for part in parts)
        return torch.float64 if precise else torch.float32

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What engines derive from a field that is drawn many times (never from one that is trained)."""
        return {}


@dataclass(frozen=True)
class MarchSettings:
    """How a ray is sampled and its samples put together.

    Attributes:
        sampling_rate: s of eq. 4, samples per voxel: a step is the smallest voxel size / s.
        accumulate: "alpha" (eq. 5, 6), "mip" (the sample of the greatest extinction alone), "mean" (of all samples), or
            "mida" (Bruckner & Gröller, Comput. Graph. Forum 28 (2009) 775, doi:10.1111/j.1467-8659.2009.01474.x).
        weighted: colour counts by the opacity of its sample, as in VTK; False: the paper's literal c_i dt (eq. 2).
        start: of a ray's first sample behind its entry into the volume, in steps, above 0 and at most 1. VTK's is 1.
            With jitter it is drawn for each ray (eq. 7).
        backend: "auto" takes the fused kernels where they run, "torch" the plain twin, "warp" the kernels or an error.
    Raises: SettingError.
    """

    sampling_rate: float = 1.0
    accumulate: str = "alpha"
    weighted: bool = True
    start: float = 1.0
    backend: str = "auto"

    def __post_init__(self):
        if not 0 < self.sampling_rate < float("inf"):
            raise SettingError(f"sampling_rate is a number of samples a voxel, above 0, not {self.sampling_rate}.")
        if not 0 < self.start <= 1:
            raise SettingError(f"start is a part of a step, above 0 and at most 1, not {self.start}.")
        offered: Sequence[tuple[str, str, Sequence[str]]] = (
            ("accumulate", self.accumulate, ACCUMULATORS),
            ("backend", self.backend, ("auto", "torch", "warp")),
        )
        for name, value, choices in offered:
            if value not in choices:
                raise SettingError(f"{name} is one of {', '.join(choices)}, not {value!r}.")


@dataclass(frozen=True, eq=False)
class Rays:
    """One camera's rays and where they are sampled.

    Attributes:
        pencil: the rays, in padded voxel coordinates (index + PAD).
        step: dt [mm].
        start: (ray,) of the first sample behind the entry, in steps; or one number for all.
    """

    pencil: Pencil
    step: float
    start: Float[Tensor, "ray"] | float


@dataclass(frozen=True, eq=False)
class Gradients:
    """Where a way back adds what it finds; None for what is not wanted.

    Attributes:
        values: as the field's values, in its arithmetic's precision.
        entries: as the table's entries, likewise.
        pose: (6,) float64, in the motion of the field.
        change: as the field's change, in its arithmetic's precision.
    """

    values: Tensor | None
    entries: Tensor | None
    pose: Float[Tensor, "6"] | None
    change: Tensor | None = None


def check_finite(values: Tensor, what: str) -> None:
    """Raises: ImageError where `values` hold NaN or infinity: one of them blackens every ray."""
    if values.is_floating_point() and not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ImageError(f"{what} holds {bad} values that are NaN or infinite; replace them (air is -1000 HU).")
