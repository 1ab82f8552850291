"""Materials and how they attenuate: mass attenuation and energy absorption, from tables of the elements."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import SettingError

_DATA = Path(__file__).with_name("data")
LOWEST, HIGHEST = 10.0, 150.0  # [keV], what the tables span


@dataclass(frozen=True)
class Material:
    """What it is made of.

    Attributes:
        density: [g/cm3] as tabulated; tissue in a CT has the density that its HU tell.
        composition: {element: share of the mass}, adding up to 1.
        source: where the numbers are from.
    """

    name: str
    density: float
    composition: Mapping[str, float]
    source: str


def mass_attenuation(
    material: str | Material, energies: Float[Tensor, "e"] | Sequence[float] | float
) -> Float[Tensor, "e"]:
    """Total mass attenuation mu/rho [cm2/g], coherent scatter included, at `energies` [keV]; float64.

    Raises: SettingError for a material that is not in `MATERIALS`, and outside 10 to 150 keV.
    Source: xraylib (Schoonjans et al., Spectrochim. Acta B 66 (2011) 776), within 0.1 % of NISTIR 5632; a mixture is
        the mean of its elements, weighted with their mass.
    """
    return _mixed("mass_attenuation.csv", material, energies)


def energy_absorption(
    material: str | Material, energies: Float[Tensor, "e"] | Sequence[float] | float
) -> Float[Tensor, "e"]:
    """Mass energy absorption mu_en/rho [cm2/g] at `energies` [keV]: for kerma and dose; float64.

    Fluorescence counts as leaving. Within 0.2 % of NISTIR 5632 for air, water and aluminium, 5 % for lead above its
    edge.

    Raises: as `mass_attenuation`.
    """
    return _mixed("energy_absorption.csv", material, energies)


def material_named(name: str) -> Material:
    """The material of that name. Raises: SettingError, with the names there are."""
    if name not in MATERIALS:
        raise SettingError(f"There is no material {name!r}; there are {', '.join(MATERIALS)}.")
    return MATERIALS[name]


def _mixed(table: str, material: str | Material, energies: Float[Tensor, "e"] | Sequence[float] | float) -> Tensor:
    made_of = material_named(material) if isinstance(material, str) else material
    wanted = np.atleast_1d(np.asarray(energies, dtype=np.float64))
    inside = (wanted >= LOWEST) & (wanted <= HIGHEST)  # false for NaN too
    if not inside.all():
        raise SettingError(
            f"{made_of.name} is asked for at {wanted[~inside][0]:g} keV; attenuation is tabulated from {LOWEST:g} to "
            f"{HIGHEST:g} keV, the range of diagnostic X-rays."
        )
    nodes, elements = _table(table)
    if missing := [e for e in made_of.composition if e not in elements]:
        raise SettingError(f"{made_of.name} holds {', '.join(missing)}; the tables have {', '.join(elements)}.")
    # Straight lines between logarithms: attenuation is nearly a power of the energy between two edges.
    at = np.log(wanted)
    shares = ((share, np.exp(np.interp(at, nodes, elements[e]))) for e, share in made_of.composition.items())
    return torch.from_numpy(np.asarray(sum(share * value for share, value in shares), dtype=np.float64))


@cache
def _table(name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logarithms of the energies [keV], rising, and for each element those of its coefficient [cm2/g]."""
    rows = list(csv.reader(lines_of(name)))
    numbers = np.log(np.array(rows[1:], dtype=np.float64))
    return numbers[:, 0], dict(zip(rows[0][1:], numbers[:, 1:].T, strict=True))


def lines_of(name: str) -> list[str]:
    """The lines of a table of ours, without those that say where it is from."""
    return [line for line in (_DATA / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _materials() -> dict[str, Material]:
    found = {}
    for row in csv.DictReader(lines_of("materials.csv")):
        shares = {e: float(w) for e, w in (part.split(":") for part in row["composition"].split())}
        whole = sum(shares.values())
        composition = {element: share / whole for element, share in shares.items()}
        found[row["name"]] = Material(row["name"], float(row["density"]), composition, row["source"])
    return found


MATERIALS: dict[str, Material] = _materials()
