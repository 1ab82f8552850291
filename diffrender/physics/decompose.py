"""From Hounsfield units to materials: how much of what each voxel holds, so that other energies can be asked for.

A CT knows one number for each voxel. A ladder of HU says which materials it stands for; on every rung the densities are
such that their attenuation at the CT's effective energy gives the HU back, and straight lines between rungs keep that.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from diffrender.errors import SettingError
from diffrender.physics.attenuation import HU_AIR
from diffrender.physics.materials import mass_attenuation, material_named
from diffrender.volume import Volume

# Organs that take up contrast medium, and hollow ones that are filled with it: there, bright is iodine and not bone.
CONTRAST_LABELS = (
    *("*aorta*", "*arter*", "*vein*", "*vena*", "*venous*", "*vessel*", "*trunk*", "heart*", "*atrium*", "*atrial*"),
    *("*kidney*", "*liver*", "*spleen*", "*bladder*", "*stomach*", "*duodenum*", "*bowel*", "*colon*", "*esophagus*"),
)
BEYOND = 1e6  # HU: the last rung, higher than any CT goes


@no_type_check  # lists are taken too
@dataclass(frozen=True)
class Decomposition:
    """Which HU stand for which materials.

    Attributes:
        energy: effective energy of the CT's beam [keV]; 65 to 75 for 120 kVp.
        lung: up to this HU a voxel is lung tissue and air.
        fat: from this HU on it is fat; in between, both.
        bone: from this HU on a voxel holds bone. Soft tissue alone, up to here, may be somewhat denser than it is
            tabulated; above, bone takes its place little by little until all is cortical bone.
        metal: from this HU on a voxel begins to be metal, and at the second one it is metal alone.
        full_metal: from this HU on metal has its full density, whatever the HU say; None for never. A CT that stores 12
            bits ends at 3071, where titanium would have 12 000; with 3050 its implants are as opaque as they are.
        metal_kind: "titanium", "steel", "cobalt-chrome", or another of `MATERIALS`.
        contrast: where a label is named for an organ that takes contrast medium, this HU is where iodine begins.
        contrast_labels: patterns (of fnmatch) for the names of these labels; () for none. HU alone cannot tell iodine
            from spongy bone, so without such labels all that is bright is bone.
    """

    energy: float = 70.0
    lung: float = -250.0
    fat: float = -130.0
    bone: float = 100.0
    metal: tuple[float, float] = (2500.0, 3000.0)
    full_metal: float | None = None
    metal_kind: str = "titanium"
    contrast: float = 100.0
    contrast_labels: tuple[str, ...] = CONTRAST_LABELS

    def __post_init__(self):
        if isinstance(self.contrast_labels, str):
            raise SettingError(f"contrast_labels are patterns, such as ({self.contrast_labels!r},), not one string.")
        for name in ("metal", "contrast_labels"):  # lists are meant well, and would not be found again in a cache
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.metal) != 2:
            raise SettingError(f"metal is two HU, where metal begins and where it is alone, not {self.metal}.")


def decompose(
    hu: Shaped[Tensor, "*shape"],
    settings: Decomposition | None = None,
    contrast: Bool[Tensor, "*shape"] | None = None,
) -> dict[str, Float[Tensor, "*shape"]]:
    """How dense each material is in every voxel [g/cm3].

    Args:
        hu: Hounsfield units of any real type; what lies below -1000 counts as air, which is nothing here: the open
            field passes through air as well.
        contrast: voxels where what is brighter than blood is iodine in blood; see `contrast_of`.
    Returns: {material: density}, materials that nowhere occur left out (of air alone: soft tissue of no density);
        float64 of float64, else float32. Straight in HU between rungs, continuous, and differentiable in `hu`
        (gradient 0 below -1000).
    Raises: SettingError for settings whose rungs do not rise.
    Source: mixtures on straight lines between tissues of known composition, as in Schneider, Bortfeld and Schlegel,
        Phys. Med. Biol. 45 (2000) 459, doi:10.1088/0031-9155/45/2/314.
    """
    ladder = ladder_of(settings or Decomposition())
    values = (hu if hu.dtype == torch.float64 else hu.to(torch.float32)).clamp(min=HU_AIR)
    rungs = torch.from_numpy(ladder.rungs).to(values)
    steps = len(rungs) - 1
    step = (torch.bucketize(values.detach().contiguous(), rungs, right=True) - 1).clamp(0, steps - 1)
    above_rung = values - rungs[step]
    if contrast is not None:
        step = step + steps * contrast
    taken = torch.bincount(step.flatten(), minlength=2 * steps) > 0
    found = {}
    for name, densities in ladder.densities.items():
        table = torch.from_numpy(densities).to(values)
        foot, slope = table[:, :-1].flatten(), (table.diff(dim=1) / rungs.diff()).flatten()
        if (taken & ((foot > 0) | (slope > 0))).any():
            density = foot[step] + slope[step] * above_rung
            if density.any():
                found[name] = density
    return found or {"soft-tissue": values * 0.0}  # of air alone there is an image too


@dataclass(frozen=True, eq=False)
class Ladder:
    """HU and what they stand for.

    Attributes:
        rungs: (n,) HU, rising.
        densities: {material: (2, n) g/cm3 at the rungs}, the second row where there may be contrast medium.
    """

    rungs: Float[np.ndarray, "n"]
    densities: Mapping[str, Float[np.ndarray, "2 n"]]


@lru_cache(maxsize=32)
def ladder_of(settings: Decomposition) -> Ladder:
    """The ladder that the settings mean. Raises: SettingError where its rungs do not rise."""
    without, within = _without_contrast(settings), _within_contrast(settings)
    for rungs in (without, within):
        hu = [rung for rung, _ in rungs]
        if not all(low < high for low, high in pairwise(hu)):
            raise SettingError(
                f"The rungs of a decomposition must rise, and these are {', '.join(f'{h:.0f}' for h in hu)} HU (air, "
                f"lung, fat, soft tissue or blood, bone or contrast, metal, at {settings.energy:g} keV). Change lung, "
                "fat, bone, contrast or metal."
            )
    shared = np.array(sorted({hu for rungs in (without, within) for hu, _ in rungs}))
    names = dict.fromkeys(name for rungs in (without, within) for _, parts in rungs for name in parts)
    densities = {
        name: np.stack(
            [
                np.interp(shared, [hu for hu, _ in rungs], [parts.get(name, 0.0) for _, parts in rungs])
                for rungs in (without, within)
            ]
        )
        for name in names
    }
    return Ladder(shared, densities)


def contrast_of(volume: Volume, settings: Decomposition | None = None) -> Bool[Tensor, "k j i"] | None:
    """The voxels of labels that are named for organs with contrast medium; None where there are none."""
    patterns = (settings or Decomposition()).contrast_labels
    names = {label: volume.label_name(label).lower().replace(" ", "_") for label in volume.label_ids}
    chosen = [label for label, name in names.items() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not chosen or volume.labels is None:
        return None
    if volume.labels.ndim == 4:
        return volume.labels[[volume.label_ids.index(label) for label in chosen]].any(0)
    return torch.isin(volume.labels, torch.tensor(chosen, dtype=volume.labels.dtype, device=volume.labels.device))


# HU and what they stand for, {material: g/cm3}
Rungs = list[tuple[float, dict[str, float]]]


def _without_contrast(settings: Decomposition) -> Rungs:
    def alone(material: str, hu: float) -> tuple[float, dict[str, float]]:
        return hu, {material: _density(material, hu, settings.energy)}

    def tabulated(material: str) -> tuple[float, dict[str, float]]:
        return _hu(material, settings.energy), {material: material_named(material).density}

    return [
        (HU_AIR, {}),
        alone("lung", settings.lung),
        alone("adipose", settings.fat),
        tabulated("adipose"),
        tabulated("soft-tissue"),
        alone("soft-tissue", settings.bone),
        tabulated("cortical-bone"),
        alone("cortical-bone", settings.metal[0]),
        *_metal(settings),
    ]


def _metal(settings: Decomposition) -> Rungs:
    metal, start, full = settings.metal_kind, settings.metal[1], settings.full_metal
    rungs = [(hu, {metal: _density(metal, hu, settings.energy)}) for hu in (start, BEYOND)]
    if full is None:
        return rungs
    return [rungs[0], *((hu, {metal: material_named(metal).density}) for hu in (full, BEYOND))]


def _within_contrast(settings: Decomposition) -> Rungs:
    blood, per_iodine = _hu("blood", settings.energy), _density("iodine", 0.0, settings.energy) / 1000.0
    full = material_named("blood").density

    def bright(hu: float) -> tuple[float, dict[str, float]]:
        return hu, {"blood": full, "iodine": (hu - blood) * per_iodine}

    return [
        *_without_contrast(settings)[:4],
        (blood, {"blood": full}),
        (settings.contrast, {"blood": _density("blood", settings.contrast, settings.energy)}),
        bright(2 * settings.contrast),  # by here the blood is as dense as it is, and all the rest is iodine
        bright(settings.metal[0]),
        *_metal(settings),  # leads of pacemakers, stents, clips
    ]


def _density(material: str, hu: float, energy: float) -> float:
    """Density [g/cm3] at which a material has that many HU."""
    water, own = (float(mass_attenuation(name, energy)) for name in ("water", material))
    return (1.0 + hu / 1000.0) * water * material_named("water").density / own


def _hu(material: str, energy: float) -> float:
    """HU of a material at its tabulated density."""
    return 1000.0 * (material_named(material).density / _density(material, 0.0, energy) - 1.0)
