"""Scatter as a superposition of kernels: every narrow beam spreads as it does behind as much water as it met.

The kernels are our own Monte Carlo's (Testing/tables/make_scatter.py), tabulated by energy, thickness and air gap.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.physics.blur import gaussian_rows
from diffrender.physics.materials import mass_attenuation
from diffrender.physics.settings import Grid
from diffrender.physics.spectra import Spectrum

COARSE = 64  # pixels of the longer side on which scatter is spread: its finest Gaussian is wider than one of them
# Mean energy of the scattered signal to that of the primary, 60 to 80 keV behind 180 to 220 mm of water (same script).
SCATTERED_ENERGY = 0.82
_DATA = Path(__file__).with_name("data")


@dataclass(frozen=True, eq=False)
class Kernels:
    """How the narrow beams of one spectrum spread onto the detector behind water, across one air gap.

    Attributes:
        thicknesses: (t,), rising from 0 [mm of water].
        amplitudes: (t, g) scattered signal to primary signal that each Gaussian holds.
        widths: (g,) standard deviations of the Gaussians [mm].
    """

    thicknesses: Float[Tensor, "t"]
    amplitudes: Float[Tensor, "t g"]
    widths: tuple[float, ...]

    def of(self, water: Float[Tensor, "h w"]) -> Float[Tensor, "g h w"]:
        """Each pixel's amplitudes, straight lines between the thicknesses; differentiable in `water` [mm]."""
        nodes, table = self.thicknesses.to(water), self.amplitudes.to(water)
        inside = water.clamp(min=0, max=nodes[-1].item())
        upper = torch.searchsorted(nodes, inside.detach().contiguous()).clamp(1, len(nodes) - 1)
        share = (inside - nodes[upper - 1]) / (nodes[upper] - nodes[upper - 1])
        return (table[upper - 1] + (table[upper] - table[upper - 1]) * share[..., None]).movedim(-1, 0)


def kernels_of(seen: Spectrum, air_gap: float) -> Kernels:
    """The kernels of a spectrum and an air gap.

    Args:
        seen: with the share that the detector absorbs in its fluence.
        air_gap: from where the beam leaves the patient to the detector [mm].
    Source: the superposition of Sun & Star-Lack, Phys. Med. Biol. 55 (2010) 6695, doi:10.1088/0031-9155/55/22/007, with
        the amplitude a tabulated function of thickness instead of their power law, and symmetric kernels.
    """
    energies, thicknesses, gaps, ratios, widths = _kernel_table()
    upper = int(torch.searchsorted(gaps, torch.tensor(float(air_gap))).clamp(1, len(gaps) - 1))
    share = ((air_gap - gaps[upper - 1]) / (gaps[upper] - gaps[upper - 1])).clamp(0, 1)
    at_gap = torch.lerp(ratios[:, :, upper - 1], ratios[:, :, upper], share)  # (e, t, g)
    of_energies = _between(energies, at_gap, seen.energies.double())
    through = torch.exp(-mass_attenuation("water", seen.energies).double()[:, None] * thicknesses / 10)
    weight = (seen.fluence * seen.energies).double()[:, None] * through
    amplitudes = (weight[..., None] * of_energies).sum(0) / weight.sum(0)[:, None]
    start = torch.zeros(1, dtype=torch.float64)
    return Kernels(torch.cat([start, thicknesses]), torch.cat([start.expand(1, len(widths)), amplitudes]), widths)


def scattered(
    primary: Float[Tensor, "h w"], water: Float[Tensor, "h w"], camera: Camera, kernels: Kernels
) -> Float[Tensor, "h w"]:
    """The scattered signal at every pixel, in the unit of `primary`; differentiable in both.

    Args:
        primary: signal of the unscattered beam; there is no beam beyond the image.
        water: what each ray met, as thickness of water of the same mass per area [mm].
    """
    (h, w), steps = camera.image_size, camera.pixel_size
    coarse = (min(h, COARSE), min(w, COARSE))
    sources = torch.nn.functional.interpolate((kernels.of(water) * primary)[None], size=coarse, mode="area")[0]
    coarse_steps = [n * step / m for n, step, m in zip((h, w), steps, coarse, strict=True)]
    spread = torch.zeros(coarse, dtype=primary.dtype, device=primary.device)
    for source, width in zip(sources, kernels.widths, strict=True):
        rows, columns = (
            gaussian_rows(m, step, width, primary, normalised=False)
            for m, step in zip(coarse, coarse_steps, strict=True)
        )
        spread = spread + rows @ source @ columns.T
    return torch.nn.functional.interpolate(spread[None, None], size=(h, w), mode="bilinear", align_corners=False)[0, 0]


def grid_transmission(grid: Grid, seen: Spectrum, water: float = 180.0) -> tuple[float, float]:
    """The share of primary and of scattered signal that a grid lets pass, behind `water` [mm].

    Source: our own Monte Carlo, strips of 0.036 mm lead, 40 per cm, aluminium between (Testing/tables/make_scatter.py).
    """
    ratios, energies, table = _grid_table()
    weight = (seen.fluence * seen.energies).double()
    weight = weight * torch.exp(-mass_attenuation("water", seen.energies).double() * water / 10)
    of_energies = _between(energies, table, seen.energies.double())  # (e, ratio, 2)
    mean = (weight[:, None, None] * of_energies).sum(0) / weight.sum()
    primary, scatter = _between(ratios, mean, torch.tensor([float(grid.ratio)], dtype=torch.float64))[0].tolist()
    return (
        primary if grid.primary is None else grid.primary,
        scatter if grid.scatter is None else grid.scatter,
    )


def _between(nodes: Float[Tensor, "n"], values: Float[Tensor, "n *rest"], at: Float[Tensor, "m"]) -> Tensor:
    """Straight lines between nodes; beyond them, the last value."""
    at = at.clamp(nodes[0].item(), nodes[-1].item())
    upper = torch.searchsorted(nodes, at).clamp(1, len(nodes) - 1)
    share = (at - nodes[upper - 1]) / (nodes[upper] - nodes[upper - 1])
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[upper - 1] + (values[upper] - values[upper - 1]) * share


@cache
def _kernel_table() -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "e t gap g"], tuple[float, ...]]:
    """Energies, thicknesses, gaps; scattered to primary signal of each Gaussian; the Gaussians' widths [mm]."""
    rows, columns = _rows("scatter.csv")
    widths = tuple(float(name.removeprefix("sigma_")) for name in columns if name.startswith("sigma_"))
    axes = [torch.tensor(sorted({row[n] for row in rows}), dtype=torch.float64) for n in range(3)]
    energies, thicknesses, gaps = axes
    held = torch.tensor(rows, dtype=torch.float64)[:, 3:].reshape(*map(len, axes), len(widths))
    ratios = held / torch.exp(-mass_attenuation("water", energies)[:, None] * thicknesses / 10)[:, :, None, None]
    for n in range(len(energies) - 2, -1, -1):  # where too few photons came through to count, the next energy's
        empty = held[n].sum(-1, keepdim=True) == 0
        ratios[n] = torch.where(empty, ratios[n + 1], ratios[n])
    return energies, thicknesses, gaps, ratios, widths


@cache
def _grid_table() -> tuple[Float[Tensor, "r"], Float[Tensor, "e"], Float[Tensor, "e r 2"]]:
    rows, _ = _rows("grids.csv")
    ratios, energies = (torch.tensor(sorted({row[n] for row in rows}), dtype=torch.float64) for n in range(2))
    found = {(row[1], row[0]): row[2:] for row in rows}
    table = [[found[e, r] for r in ratios.tolist()] for e in energies.tolist()]
    return ratios, energies, torch.tensor(table, dtype=torch.float64)


def _rows(name: str) -> tuple[list[list[float]], list[str]]:
    with (_DATA / name).open(encoding="utf-8", newline="") as file:
        reader = csv.reader(line for line in file if not line.startswith("#"))
        columns = next(reader)
        return [[float(cell) for cell in row] for row in reader], columns
