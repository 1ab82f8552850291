"""Spectra of X-ray tubes: how many photons of each energy leave the tube, and what a filter does to them."""

import csv
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import PathError, SettingError
from diffrender.physics.materials import (
    HIGHEST,
    LOWEST,
    energy_absorption,
    lines_of,
    mass_attenuation,
    material_named,
)

THIN = 0.5  # [mm Al] that the table was made with
KEV_IN_JOULE = 1.602176634e-16


@no_type_check  # lists and arrays are taken too, and checked in words
@dataclass(frozen=True, eq=False)
class Spectrum:
    """Photons of each energy.

    Attributes:
        energies: (e,) float64, the middles of the bins [keV], rising.
        fluence: (e,) float64, photons in each bin, per mm2 and mAs at 1 m from the focus without air; of a file, in the
            file's own unit, so that only ratios mean something.
        kvp: tube voltage [kV]; None where it is unknown.
        name: what it is, for pages and provenance.
    Raises: SettingError for energies that do not rise or lie outside 10 to 150 keV, and for fluence that is negative,
        not a number, or nowhere above zero.
    """

    energies: Float[Tensor, "e"]
    fluence: Float[Tensor, "e"]
    kvp: float | None = None
    name: str = "spectrum"

    def __post_init__(self):
        for field in ("energies", "fluence"):
            object.__setattr__(self, field, torch.as_tensor(getattr(self, field), dtype=torch.float64))
        energies, fluence = self.energies, self.fluence
        if energies.ndim != 1 or energies.shape != fluence.shape or not len(energies):
            raise SettingError(
                f"{self.name} needs as many energies as fluences, and at least one; it has {list(energies.shape)} and "
                f"{list(fluence.shape)}."
            )
        for n, (energy, photons) in enumerate(zip(energies.tolist(), fluence.tolist(), strict=True)):
            before = energies[n - 1].item() if n else None
            if fault := _fault(energy, photons, before):
                raise SettingError(f"{self.name}, bin {n + 1}: {fault}")
        if not fluence.sum() > 0:
            raise SettingError(f"{self.name} has no photons at all: every fluence is zero.")

    @property
    def mean_energy(self) -> float:
        """Mean over the photons [keV]."""
        return float((self.energies * self.fluence).sum() / self.fluence.sum())

    @property
    def air_kerma(self) -> float:
        """Air kerma in free air [uGy per mAs at 1 m]; of a file, in the unit that its fluence gives."""
        return float((self.fluence * _kerma_of_a_photon(self.energies)).sum())

    def filtered(self, material: str, mm: float) -> "Spectrum":
        """What passes through `mm` of a material, at its tabulated density. Raises: SettingError."""
        if not 0 <= mm < math.inf:
            raise SettingError(f"A filter is 0 mm thick or more; {mm} mm of {material} is none.")
        per_mm = mass_attenuation(material, self.energies) * material_named(material).density / 10.0
        name = f"{self.name}, {mm:g} mm {material}"
        return replace(self, fluence=self.fluence * torch.exp(-mm * per_mm), name=name)

    def half_value_layer(self, material: str = "aluminium") -> float:
        """Thickness [mm] of a material that halves the air kerma (the first half-value layer, in narrow beam)."""
        per_mm = mass_attenuation(material, self.energies) * material_named(material).density / 10.0
        kerma = self.fluence * _kerma_of_a_photon(self.energies)
        low, high = 0.0, math.log(2) / float(per_mm[kerma > 0].min())  # the hardest photon's own is the longest
        for _ in range(60):
            middle = (low + high) / 2
            passes = (kerma * torch.exp(-middle * per_mm)).sum() > kerma.sum() / 2
            low, high = (middle, high) if passes else (low, middle)
        return (low + high) / 2

    def __repr__(self) -> str:
        return f"Spectrum({self.name}, {len(self.energies)} bins, mean {self.mean_energy:.1f} keV)"


def tube_spectrum(kvp: float, aluminium: float = 2.5, copper: float = 0.0) -> Spectrum:
    """What a tungsten tube with an anode angle of 12 degrees emits.

    Args:
        kvp: tube voltage [kV], 40 to 150; constant potential, as of today's generators.
        aluminium: total filtration [mm], the tube's own included; from 0.5 on.
        copper: additional filter [mm].
    Raises: SettingError.
    Source: SpekPy 2 (Poludniowski et al., Med. Phys. 48 (2021) 3630), tabulated for each kV behind 0.5 mm of aluminium;
        the rest of the filtration is attenuation. Between two voltages the fluence is interpolated in every bin.
    """
    voltages, energies, table = _tubes()
    if not voltages[0] <= kvp <= voltages[-1]:
        raise SettingError(
            f"The tube voltage is {kvp:g} kVp; spectra are tabulated from {voltages[0]:g} to {voltages[-1]:g} kVp."
        )
    if not THIN <= aluminium < math.inf:
        raise SettingError(
            f"The filtration is {aluminium:g} mm of aluminium; the table begins at {THIN:g} mm (a tube above 70 kVp "
            "has 2.5 mm or more by law)."
        )
    n = min(int(kvp - voltages[0]), len(voltages) - 2)
    share = kvp - voltages[n]
    fluence = (1 - share) * table[n] + share * table[n + 1]
    kept = fluence > 0
    bare = Spectrum(torch.from_numpy(energies[kept]), torch.from_numpy(fluence[kept]), float(kvp))
    through = bare.filtered("aluminium", aluminium - THIN).filtered("copper", copper)
    behind = f"{kvp:g} kVp, {aluminium:g} mm Al" + (f", {copper:g} mm Cu" if copper else "")
    return replace(through, name=behind)


def monochromatic(energy: float) -> Spectrum:
    """Photons of one energy [keV]. Raises: SettingError outside 10 to 150 keV."""
    return Spectrum(torch.tensor([float(energy)]), torch.ones(1), None, f"{energy:g} keV")


def read_spectrum(path: str | Path) -> Spectrum:
    """Read a spectrum from text: energy [keV] and photons on every line.

    Separators are commas, semicolons, tabs or spaces (next to a semicolon or a tab a comma is a decimal comma); lines
    that begin with # and one line of headings are passed over, and so are bins without photons outside 10 to 150 keV.

    Raises: PathError where the file is not there or holds no numbers; SettingError that names the line where energies
        do not rise, repeat or lie outside 10 to 150 keV, or where photons are negative or not a number.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = "is no text" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise PathError(
            f"{path} {what}; a spectrum is a text file with an energy [keV] and photons on each line."
        ) from None
    energies: list[float] = []
    fluence: list[float] = []
    headed = False
    for number, line in enumerate(text.splitlines(), start=1):
        fields = _fields(line)
        if not fields:
            continue
        try:
            energy, photons = (float(field) for field in fields)
        except ValueError:
            if not headed and not energies:
                headed = True
                continue
            raise SettingError(
                f"{path}, line {number}: an energy [keV] and a number of photons are expected, found {line.strip()!r}."
            ) from None
        if photons == 0 and not LOWEST <= energy <= HIGHEST:
            continue
        if fault := _fault(energy, photons, energies[-1] if energies else None):
            raise SettingError(f"{path}, line {number}: {fault}")
        energies.append(energy)
        fluence.append(photons)
    if not energies:
        raise PathError(f"{path} holds no spectrum: there is no line with an energy [keV] and a number of photons.")
    if not sum(fluence) > 0:
        raise SettingError(f"{path} has no photons at all: every one of its {len(fluence)} bins is zero.")
    return Spectrum(torch.tensor(energies), torch.tensor(fluence), None, Path(path).name)


def _fields(line: str) -> list[str]:
    line = line.strip()
    if line.startswith("#"):
        return []
    if ";" in line or "\t" in line:
        return line.replace(",", ".").replace(";", " ").split()
    return line.replace(",", " ").split()


def _fault(energy: float, photons: float, before: float | None) -> str | None:
    """What is wrong with one bin of a spectrum, if anything."""
    if not (math.isfinite(energy) and math.isfinite(photons)):
        return f"the energy is {energy} keV and the photons are {photons}; both must be finite numbers."
    if photons < 0:
        return f"{photons:g} photons at {energy:g} keV; a spectrum has none below zero. Was a background subtracted?"
    if not LOWEST <= energy <= HIGHEST:
        return (
            f"{photons:g} photons at {energy:g} keV; attenuation is known from {LOWEST:g} to {HIGHEST:g} keV. Write "
            "energies in keV, and leave out what lies outside."
        )
    if before is not None and energy <= before:
        how = "repeats" if energy == before else "comes after"
        return f"the energy {energy:g} keV {how} {before:g} keV; energies rise from line to line."
    return None


def _kerma_of_a_photon(energies: Float[Tensor, "e"]) -> Float[Tensor, "e"]:
    """Air kerma [uGy] of one photon per mm2: E mu_en/rho; cm2/g is 1e2 mm2 over 1e-3 kg."""
    return energies * KEV_IN_JOULE * energy_absorption("air", energies) * 1e5 * 1e6


@cache
def _tubes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tube voltages [kV], one apart; the middles of the bins [keV]; and fluence (voltage, bin) behind `THIN`."""
    rows = list(csv.reader(lines_of("tube_spectra.csv")))
    numbers = np.array([[float(cell or 0) for cell in row] for row in rows[1:]])
    return np.array(rows[0][1:], dtype=np.float64), numbers[:, 0], np.ascontiguousarray(numbers[:, 1:].T)
