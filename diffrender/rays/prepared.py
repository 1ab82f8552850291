"""A volume and its labels made ready for many rays: padded once, so that a ray's inner loop needs no bounds test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from diffrender.errors import ImageError, LabelError, SettingError
from diffrender.rays.pencil import PAD
from diffrender.volume import tensor_of

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
        if n != int(n) or n < 0:
            raise SettingError(f"A level of the pyramid is a whole number from 0, the finest, not {n}.")
        return self if n == 0 else self.coarser.level(n - 1)

    def __repr__(self) -> str:
        k, j, i = self.shape
        dtype = str(self.padded.dtype).removeprefix("torch.")
        return f"Prepared({i} x {j} x {k} voxels (i x j x k), {dtype}, * {self.scale:.6g} + {self.offset:.6g} = 1/mm)"


@dataclass(frozen=True, eq=False)
class PreparedLabels:
    """Labels made ready for rays: which set of labels each voxel belongs to. Made by `prepare_labels`.

    Attributes:
        groups: (k + 4, j + 4, i + 4) int16, the number of a set, 0 the empty one; -1 - number where the eight voxels
            from this one to the next along i, j and k are not all of one set, so that a ray reads one number mostly.
        starts, members: set n has the labels members[starts[n]:starts[n + 1]], as indices into `ids`.
        ids: the labels.
        box: the lowest and the highest (i, j, k) of the padded array where a ray can meet a label.
    """

    groups: Integer[Tensor, "kp jp ip"]
    starts: Integer[Tensor, "sets_and_end"]
    members: Integer[Tensor, "entries"]
    ids: tuple[int, ...]
    box: tuple[list[int], list[int]]


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
    values = tensor_of(values)
    if values.is_complex():
        raise ImageError(f"Attenuation is a real number; these values are {values.dtype}.")
    if values.ndim != 3 or 0 in values.shape:
        raise ImageError(f"A volume has three axes (k, j, i), none empty; these values have {list(values.shape)}.")
    if scale == 0 or not np.isfinite([scale, offset]).all():
        raise SettingError(
            f"stored * scale + offset must be the attenuation; scale {scale}, offset {offset} cannot be."
        )
    if floor is not None and not math.isfinite(floor):
        raise SettingError(f"floor is the stored value below which nothing counts, a finite number, not {floor}.")
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
    padded = np.zeros([n + 2 * PAD for n in groups.shape], dtype=np.int16)
    padded[PAD:-PAD, PAD:-PAD, PAD:-PAD] = groups.cpu().numpy()
    box = _box_of(padded)
    _mark_mixed(padded)
    starts = np.cumsum([0, *(len(s) for s in sets)])
    members = [label for s in sets for label in s] or [0]
    on = {"dtype": torch.int32, "device": labels.device}
    return PreparedLabels(
        torch.from_numpy(padded).to(labels.device),
        torch.tensor(starts, **on),
        torch.tensor(members, **on),
        tuple(ids),
        box,
    )


def _air(scale: float, offset: float, stored: torch.dtype) -> float:
    # 0.02 / 2e-5 is 999.9999999999999, and filling whole numbers with it would cut it to 999
    return -offset / scale if stored.is_floating_point else float(round(-offset / scale))


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


def _box_of(groups: Integer[np.ndarray, "kp jp ip"]) -> tuple[list[int], list[int]]:
    """Lowest and highest (i, j, k) of the box that holds all labels, a voxel wider on each side."""
    labelled = groups != 0
    where = [np.flatnonzero(labelled.any(axis=others)) for others in ((0, 1), (0, 2), (1, 2))]
    if not len(where[0]):
        return [0, 0, 0], [0, 0, 0]
    return [int(w[0]) - 1 for w in where], [int(w[-1]) + 1 for w in where]


def _mark_mixed(groups: Integer[np.ndarray, "kp jp ip"]) -> None:
    """Turn the number of a set into -1 - number where its cell of eight voxels is not all of it; in place."""
    for k in range(0, len(groups) - 1, 16):  # some slices at a time, the last of them still plain, to spare memory
        plain = groups[k : k + 17]
        row = np.zeros(plain.shape, dtype=bool)
        np.not_equal(plain[:, :, :-1], plain[:, :, 1:], out=row[:, :, :-1])
        face = row.copy()
        face[:, :-1] |= row[:, 1:]
        face[:, :-1] |= plain[:, :-1] != plain[:, 1:]
        mixed = face[:-1] | face[1:]
        mixed |= plain[:-1] != plain[1:]
        np.copyto(groups[k : k + len(mixed)], -1 - plain[:-1], where=mixed)
