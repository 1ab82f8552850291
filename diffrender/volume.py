"""A volume: numbers on a lattice in the patient, with or without labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from diffrender.errors import GeometryError, ImageError, LabelError

# Angles of voxel axes are read from single-precision files; 1e-4 is 0.006 degrees, 0.05 mm over half a metre.
SHEAR_TOLERANCE = 1e-4
VALUE_TYPES = (torch.int16, torch.float32, torch.float16, torch.float64)


@no_type_check  # the types are those it has once made; arrays and lists are taken too, and checked in words
@dataclass(frozen=True, eq=False)  # a tensor's == is no yes or no
class Volume:
    """Numbers on a lattice: arrays are (k, j, i), `world_from_voxel` maps (i, j, k, 1) to RAS [mm].

    Voxel centres lie at integers.

    Attributes:
        values: (k, j, i), int16 or float32, in `unit`, as read.
        world_from_voxel: (4, 4) float64; RAS [mm]. Axes at right angles; oblique and left-handed ones are welcome.
        labels: ids (k, j, i), 0 is background; or (n, k, j, i) bool where structures overlap.
        names: {id: name}. For (n, k, j, i) labels its keys are the ids of the layers, in order; without it 1 to n.
        unit: "HU", or what the numbers are ("arbitrary" for MR): attenuation is made of HU alone.
        source: where it came from, as typed; for messages and provenance.
        header: DICOM attributes {keyword: value} that a derived image carries on; never printed.
    Raises: GeometryError, ImageError, LabelError where the parts do not fit each other.
    Arrays and lists are taken for tensors; memory is shared, not copied.
    """

    values: Shaped[Tensor, "k j i"]
    world_from_voxel: Float[Tensor, "4 4"]
    labels: Shaped[Tensor, "k j i"] | Bool[Tensor, "n k j i"] | None = None
    names: Mapping[int, str] | None = None
    unit: str = "HU"
    source: str | None = None
    header: Mapping[str, Any] | None = None

    def __post_init__(self):
        values = tensor_of(self.values)
        object.__setattr__(self, "values", values if values.dtype in VALUE_TYPES else _supported(values))
        # a copy, unlike the values: whoever changes his matrix afterwards would pass by the checks
        lattice = torch.as_tensor(self.world_from_voxel, dtype=torch.float64).clone()
        object.__setattr__(self, "world_from_voxel", lattice)
        object.__setattr__(self, "labels", None if self.labels is None else _label_tensor(self.labels))
        object.__setattr__(self, "names", None if self.names is None else _names(self.names))
        _check_lattice(self)
        _check_labels(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i)."""
        k, j, i = self.values.shape
        return k, j, i

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along (k, j, i) [mm], the order of the array."""
        i, j, k = self.world_from_voxel[:3, :3].norm(dim=0).tolist()
        return k, j, i

    @property
    def orientation(self) -> str:
        """Where i, j and k grow to, as three letters: "RAS", "LPS"; the nearest ones when oblique."""
        return "".join(_letter(column) for column in self.world_from_voxel[:3, :3].T.tolist())

    @property
    def centre(self) -> Float[Tensor, "3"]:
        """Middle of the voxel lattice, RAS [mm]."""
        middle = [(n - 1) / 2 for n in reversed(self.shape)]
        return self.world_from_voxel @ torch.tensor([*middle, 1.0], dtype=torch.float64) @ _DROP.T

    @property
    def corners(self) -> Float[Tensor, "8 3"]:
        """The corners of the box that the voxels fill (half a voxel beyond the outermost centres), RAS [mm]."""
        ends = [(-0.5, n - 0.5) for n in reversed(self.shape)]
        points = torch.cartesian_prod(*[torch.tensor(end, dtype=torch.float64) for end in ends])
        return points @ self.world_from_voxel[:3, :3].T + self.world_from_voxel[:3, 3]

    @cached_property
    def label_ids(self) -> tuple[int, ...]:
        """The ids that occur, rising; for overlapping layers the id of each layer, in order."""
        if self.labels is None:
            return ()
        if self.labels.ndim == 4:
            return tuple(self.names) if self.names else tuple(range(1, len(self.labels) + 1))
        return tuple(int(n) for n in torch.unique(self.labels).tolist() if n != 0)

    def label_name(self, label: int) -> str:
        """What label `label` is called; "label 7" without a table."""
        return (self.names or {}).get(label, f"label {label}")

    def mask(self, label: int) -> Bool[Tensor, "k j i"]:
        """The voxels of one label. Raises: LabelError for an id that does not occur."""
        if self.labels is None or label not in self.label_ids:
            raise LabelError(f"Label {label} does not occur in this volume; it has {list(self.label_ids) or 'none'}.")
        return self.labels[self.label_ids.index(label)] if self.labels.ndim == 4 else self.labels == label

    def __repr__(self) -> str:
        low, high = self.values.amin().item(), self.values.amax().item()
        size = self.values.element_size() * self.values.numel()
        spacing = " x ".join(f"{s:.4g}" for s in reversed(self.spacing))
        extent = " x ".join(str(n) for n in reversed(self.shape))
        labels = f", {len(self.label_ids)} labels" if self.labels is not None else ""
        dtype = str(self.values.dtype).removeprefix("torch.")
        return (
            f"Volume({extent} voxels (i x j x k), {spacing} mm, {self.orientation}{_obliqueness(self)}, "
            f"{low:.6g} to {high:.6g} {self.unit}, {dtype}, {size / 2**20:.1f} MiB{labels})"
        )


_DROP = torch.eye(4, dtype=torch.float64)[:3]


def tensor_of(array: Any) -> Tensor:
    """Arrays of any byte order, strides and number as a tensor that torch of 2.2 computes with; shared if it can be."""
    if isinstance(array, np.ndarray):
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype in (np.uint16, np.uint32, np.uint64):  # torch knows them by name, and hardly computes with them
            array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
    return torch.as_tensor(array)


def _label_tensor(labels: Any) -> Tensor:
    labels = tensor_of(labels)
    if labels.is_floating_point() or labels.is_complex():
        raise LabelError("Labels are whole numbers (ids) or layers of yes and no; these are floating-point values.")
    if labels.ndim == 4 and labels.dtype != torch.bool:
        if labels.numel() and (labels.amin() < 0 or labels.amax() > 1):
            raise LabelError(
                f"Layers (n, k, j, i) say yes or no, 1 or 0; these hold {labels.amin().item()} to "
                f"{labels.amax().item()}."
            )
        return labels.bool()
    return labels


def _names(names: Any) -> dict[int, str]:
    try:
        table = {int(key): str(name) for key, name in names.items()}
        if any(isinstance(key, float) and key != int(key) for key in names):
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise LabelError(f"Names are a table {{id: name}} whose ids are whole numbers; found {names!r}.") from None
    return table


def _supported(values: Tensor) -> Tensor:
    """int16 where every number fits, float32 otherwise; complex and bool are no volumes."""
    if values.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ImageError(f"A volume cannot hold {values.dtype} values; it holds int16 or float32 numbers (HU).")
    if values.is_floating_point():
        return values.float()
    if values.numel() and (values.amin() < -32768 or values.amax() > 32767):
        return values.float()
    return values.to(torch.int16)


def _check_lattice(volume: Volume) -> None:
    if volume.values.ndim != 3 or 0 in volume.values.shape:
        raise ImageError(
            f"A volume has three axes (k, j, i), none empty; these values have {list(volume.values.shape)}."
        )
    check_affine(volume.world_from_voxel, "world_from_voxel")


def check_affine(world_from_voxel: Float[Tensor, "4 4"], what: str) -> None:
    """Refuse a lattice that is singular or sheared. `what` begins the message: a file, or the argument's name.

    Raises: GeometryError.
    """
    if world_from_voxel.shape != (4, 4) or not torch.isfinite(world_from_voxel).all():
        raise GeometryError(f"{what} must be a finite 4 x 4 matrix; it is {world_from_voxel.tolist()}.")
    if (world_from_voxel[3] - torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)).abs().max() > 1e-9:
        raise GeometryError(f"{what} must end with the row 0 0 0 1; it ends with {world_from_voxel[3].tolist()}.")
    axes = world_from_voxel[:3, :3]
    spacing = axes.norm(dim=0)
    if spacing.min() <= 1e-9 or (axes / spacing.clamp(min=1e-12)).det().abs() < 1e-6:
        raise GeometryError(
            f"{what} is singular: the steps along i, j and k are {[f'{s:.4g}' for s in spacing.tolist()]} mm and do "
            "not span space, so voxels have no volume. Its header is damaged; export the volume again."
        )
    cosines = ((axes / spacing).T @ (axes / spacing) - torch.eye(3, dtype=torch.float64)).abs().max().item()
    if cosines > SHEAR_TOLERANCE:
        angle = np.degrees(np.arccos(min(cosines, 1.0)))
        raise GeometryError(
            f"{what} is sheared: two of its voxel axes meet at {angle:.2f} degrees, not 90. Lengths along rays would "
            "come out wrong. Resample the volume onto a lattice with right angles first (a gantry tilt must be undone)."
        )


def _check_labels(volume: Volume) -> None:
    labels = volume.labels
    if labels is None:
        return
    if labels.ndim not in (3, 4) or tuple(labels.shape[-3:]) != volume.shape:
        raise LabelError(
            f"The labels have shape {list(labels.shape)} and the volume {list(volume.shape)}; labels are given on the "
            "volume's own lattice. `read_volume(path, labels=...)` resamples labels from another one."
        )
    if labels.ndim == 4 and volume.names is not None and len(volume.names) != len(labels):
        raise LabelError(
            f"The table names {len(volume.names)} labels and there are {len(labels)} layers; give one name a layer."
        )
    if labels.ndim == 4 and volume.names is not None and 0 in volume.names:
        raise LabelError("A layer has the id 0, which is the background; number layers from 1.")


def _letter(direction: list[float]) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return "RAS"[axis] if direction[axis] > 0 else "LPI"[axis]


def _obliqueness(volume: Volume) -> str:
    axes = volume.world_from_voxel[:3, :3]
    largest = (axes / axes.norm(dim=0)).abs().max(dim=0).values.min().item()
    angle = np.degrees(np.arccos(min(largest, 1.0)))
    return f", oblique by {angle:.1f} degrees" if angle > 0.1 else ""
