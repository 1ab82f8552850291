"""Makes diffrender/physics/data/scatter.csv and grids.csv: `python Testing/tables/make_scatter.py` (needs xraylib).

Photons of one energy enter a slab of water as a pencil beam and are followed until they leave it or are absorbed:
photoelectric absorption, Compton scatter (Klein and Nishina, times the incoherent scattering function), coherent
scatter (form factors of free atoms). What leaves the far side is carried on through an air gap to a flat detector that
absorbs as 0.2 g/cm2 of CsI do and counts energy; its radial spread is written as a sum of Gaussians of fixed widths.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import xraylib
from scipy.optimize import nnls

DATA = Path(__file__).resolve().parents[2] / "diffrender" / "physics" / "data"
ENERGIES = (25, 32, 40, 50, 60, 70, 85, 100, 120, 150)  # keV
THICKNESSES = (10, 30, 60, 100, 140, 180, 220, 260, 310, 370)  # mm of water
GAPS = (0, 25, 50, 100, 200, 400)  # mm from the slab to the detector
WIDTHS = (8, 25, 60, 120, 250)  # mm, standard deviations of the Gaussians
PHOTONS = 600_000
CSI = 0.2  # g/cm2
REACH = 900.0  # mm; what lands farther away is lost
GRID_RATIOS = (5, 6, 8, 10, 12, 15)
PERIOD, LEAD = 0.25, 0.036  # mm: 40 lines per cm; aluminium between the strips
ELECTRON = 510.999  # keV

GRID_ENERGIES = np.geomspace(1.5, 151, 400)
TABLES = {
    name: np.array([function("H2O", e) for e in GRID_ENERGIES])
    for name, function in {
        "total": xraylib.CS_Total_CP,
        "photo": xraylib.CS_Photo_CP,
        "compton": xraylib.CS_Compt_CP,
    }.items()
}
MASS = {m: np.array([xraylib.CS_Total_CP(m, e) for e in GRID_ENERGIES]) for m in ("CsI", "Pb", "Al")}
MOMENTA = np.linspace(5e-3, 6, 4000)  # sin(theta / 2) / wavelength, 1/Angstrom; beyond, atoms are free electrons
INCOHERENT = np.array([2 * xraylib.SF_Compt(1, q) + xraylib.SF_Compt(8, q) for q in MOMENTA]) / 10
FORM = np.array([2 * xraylib.FF_Rayl(1, q) ** 2 + xraylib.FF_Rayl(8, q) ** 2 for q in MOMENTA])
FORM_SUM = np.concatenate([[0], np.cumsum(0.5 * (FORM[1:] + FORM[:-1]) * np.diff(MOMENTA**2))])


def table(name, energy):
    return np.exp(np.interp(np.log(energy), np.log(GRID_ENERGIES), np.log(TABLES[name])))


def mass(material, energy):
    return np.exp(np.interp(np.log(energy), np.log(GRID_ENERGIES), np.log(MASS[material])))


def momentum(energy, cosine):
    return energy / 12.3984 * np.sqrt(np.maximum(0, (1 - cosine) / 2))


def compton(energy, random):
    """The cosine and the energy after; by rejection under Klein and Nishina."""
    cosine, after = np.empty_like(energy), np.empty_like(energy)
    todo = np.arange(energy.size)
    while todo.size:
        e = energy[todo]
        c = random.uniform(-1, 1, todo.size)
        ratio = 1 / (1 + e / ELECTRON * (1 - c))
        shape = ratio**2 * (ratio + 1 / ratio - 1 + c**2) / 2  # at most 1, forwards
        taken = random.random(todo.size) < shape * np.interp(momentum(e, c), MOMENTA, INCOHERENT)
        cosine[todo[taken]], after[todo[taken]] = c[taken], (e * ratio)[taken]
        todo = todo[~taken]
    return cosine, after


def coherent(energy, random):
    cosine = np.empty_like(energy)
    todo = np.arange(energy.size)
    while todo.size:
        most = np.interp(energy[todo] / 12.3984, MOMENTA, FORM_SUM)
        x = np.interp(random.random(todo.size) * most, FORM_SUM, MOMENTA)
        c = 1 - 2 * (x * 12.3984 / energy[todo]) ** 2
        taken = random.random(todo.size) < (1 + c**2) / 2
        cosine[todo[taken]] = c[taken]
        todo = todo[~taken]
    return cosine


def turned(direction, cosine, random):
    """Unit directions (n, 3) turned by the angle of `cosine` about a random azimuth."""
    azimuth, sine = random.uniform(0, 2 * np.pi, cosine.size), np.sqrt(np.maximum(0, 1 - cosine**2))
    helper = np.where(np.abs(direction[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]])
    first = np.cross(helper, direction)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(direction, first)
    made = (
        direction * cosine[:, None]
        + first * (sine * np.cos(azimuth))[:, None]
        + second * (sine * np.sin(azimuth))[:, None]
    )
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def leaving(energy, thickness, random, photons=PHOTONS):
    """(x, y) [mm], directions and energies of scattered photons that leave the slab's far side."""
    place, direction = np.zeros((photons, 3)), np.tile([0.0, 0, 1], (photons, 1))
    e, scattered = np.full(photons, float(energy)), np.zeros(photons, dtype=bool)
    out = []
    while e.size:
        step = random.exponential(size=e.size) / (table("total", e) / 10)  # 1 g/cm3; mm
        ahead = place + direction * step[:, None]
        beyond = ahead[:, 2] >= thickness
        gone = beyond & scattered
        back = (thickness - place[gone, 2]) / direction[gone, 2]
        out.append((place[gone] + direction[gone] * back[:, None], direction[gone], e[gone]))
        inside = ~beyond & (ahead[:, 2] > 0)
        place, direction, e = ahead[inside], direction[inside], e[inside]
        draw = random.random(e.size) * table("total", e)
        kept = draw > table("photo", e)
        place, direction, e, draw = place[kept], direction[kept], e[kept], draw[kept] - table("photo", e[kept])
        is_compton = draw < table("compton", e)
        cosine = np.empty(e.size)
        after = e.copy()
        cosine[is_compton], after[is_compton] = compton(e[is_compton], random)
        cosine[~is_compton] = coherent(e[~is_compton], random)
        direction, e, scattered = turned(direction, cosine, random), after, np.ones(e.size, dtype=bool)
        alive = e > 8
        place, direction, e, scattered = place[alive], direction[alive], e[alive], scattered[alive]
    places, directions, energies = (np.concatenate(parts) for parts in zip(*out, strict=True))
    return places[:, :2], directions, energies


def absorbed(energy, cosine=1.0):
    return energy * (1 - np.exp(-mass("CsI", energy) * CSI / cosine))


def spread(places, directions, signal, gap):
    """How much of the signal each Gaussian holds, fitted to rings."""
    edges = np.concatenate([[0], np.geomspace(3, REACH, 40)])
    radius = np.linalg.norm(places + directions[:, :2] / directions[:, 2:] * gap, axis=1)
    rings = np.histogram(radius, edges, weights=signal)[0]
    within = 1 - np.exp(-(edges[:, None] ** 2) / (2 * np.array(WIDTHS) ** 2))
    weight = 1 / np.sqrt(rings + 0.003 * rings.sum())
    rows, wanted = np.diff(within, axis=0) * weight[:, None], rings * weight
    heavy = 30 * weight.min()  # the sum is to be met, whatever the shape
    held, _ = nnls(np.vstack([rows, heavy * within[-1]]), np.append(wanted, heavy * rings.sum()))
    return held, rings.sum(), signal.sum()


def through_grid(directions, energies, ratio):
    """The share of each photon that passes strips of lead standing along y, averaged over where it meets them."""
    height, slope = ratio * (PERIOD - LEAD), np.abs(directions[:, 0]) / directions[:, 2]
    length = 1 / directions[:, 2]
    starts = (np.arange(24) + 0.5) / 24 * PERIOD
    passed = np.zeros(len(energies))
    for start in starts:
        end = start + slope * height
        # lead lies in [n PERIOD, n PERIOD + LEAD]; how much of [start, end] that is
        within = lambda x: np.floor(x / PERIOD) * LEAD + np.minimum(x % PERIOD, LEAD)  # noqa: E731
        share = np.where(
            slope > 1e-9,
            (within(end) - within(np.full_like(end, start))) / np.maximum(slope * height, 1e-30),
            start < LEAD,
        )
        passed += np.exp(
            -(mass("Pb", energies) * 11.35 * share + mass("Al", energies) * 2.7 * (1 - share)) * height / 10 * length
        )
    return passed / len(starts)


def main():
    random = np.random.default_rng(20)
    rows, grids = [], []
    for energy in ENERGIES:
        for thickness in THICKNESSES:
            places, directions, energies = leaving(energy, thickness, random)
            signal = absorbed(energies, directions[:, 2]) / absorbed(np.array(float(energy))) / PHOTONS
            primary = np.exp(-table("total", energy) * thickness / 10)
            mean = (signal * energies).sum() / max(signal.sum(), 1e-30)
            for gap in GAPS:
                held, near, every = spread(places, directions, signal, gap) if len(signal) > 50 else (np.zeros(5), 0, 0)
                rows.append([energy, thickness, gap, *(f"{n:.4g}" for n in held)])
                if gap in (0, 100):
                    print(
                        f"{energy} keV {thickness} mm gap {gap}: SPR {every / primary:.3f} near {near / primary:.3f}"
                        f" fitted {held.sum() / primary:.3f}, {len(signal)} photons, mean {mean:.1f} keV",
                        flush=True,
                    )
            if thickness == 180 and energy >= 40:
                for ratio in GRID_RATIOS:
                    ts = (signal * through_grid(directions, energies, ratio)).sum() / signal.sum()
                    one = np.array([[0.0, 0, 1]])
                    tp = through_grid(one, np.array([float(energy)]), ratio)[0]
                    grids.append([ratio, energy, f"{tp:.3f}", f"{ts:.4f}"])
                    print("grid", grids[-1], flush=True)
    head = [
        "# Scattered signal behind a slab of water, per open signal of the pencil beam that enters it: how much of it",
        "# Gaussians of the standard deviations named [mm] hold, about the beam, in the plane of the detector.",
        f"# Monte Carlo of Testing/tables/make_scatter.py, {PHOTONS} photons each; xraylib {xraylib.__version__}.",
    ]
    columns = ["energy_kev", "thickness_mm", "gap_mm", *(f"sigma_{w}" for w in WIDTHS)]
    write("scatter.csv", head, columns, rows)
    head = [
        f"# What a focused grid of lead strips ({LEAD} mm, {1 / PERIOD * 10:.0f} per cm, aluminium between) lets pass",
        "# behind 180 mm of water: share of the primary, share of the scattered signal. Same script; no covers.",
    ]
    write("grids.csv", head, ["ratio", "energy_kev", "primary", "scatter"], grids)


def write(name, head, columns, rows):
    with (DATA / name).open("w", encoding="utf-8", newline="") as file:
        file.write("\n".join(head) + "\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
