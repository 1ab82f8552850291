"""Holds the kernels of scatter.csv against a Monte Carlo of a whole field: `python Testing/tables/check_scatter.py`.

Needs xraylib, torch and the library. A cone of 60 keV fills a square field behind a slab of water, and behind a chest
of boxes: 220 mm thick, 340 mm wide, lungs of a density of 0.27 with 30 mm before and behind them, 80 mm between them.
Photons are followed as in make_scatter.py, through matter of changing density by Woodcock's delta tracking.
"""

import sys

import numpy as np
import torch
from make_scatter import absorbed, coherent, compton, table, turned

from diffrender.camera import c_arm
from diffrender.physics import detector, scatter
from diffrender.physics.materials import mass_attenuation
from diffrender.physics.settings import Detector
from diffrender.physics.spectra import monochromatic

ENERGY, THICK, HALF, BINS = 60.0, 220.0, 150.0, 15  # keV; mm; half the field at the detector [mm]; across it
PHOTONS = 2_000_000
SCENES = (("water", 1000.0, 30.0), ("water", 1500.0, 200.0), ("chest", 1000.0, 30.0), ("chest", 1800.0, 30.0))


def density(kind, x, z):
    """g/cm3 at x across and z into the body [mm]; the same all along it."""
    made = np.ones(np.broadcast(x, z).shape)
    if kind == "chest":
        made[(np.abs(x) > 40) & (np.abs(x) < 140) & (z > 30) & (z < THICK - 30)] = 0.27
        made[np.broadcast_to(np.abs(x) > 170, made.shape)] = 0
    return made


def followed(kind, distance, gap, random):
    """Scattered signal on the detector per open signal, (x, y) bins."""
    aim = np.column_stack([random.uniform(-HALF, HALF, (PHOTONS, 2)), np.full(PHOTONS, distance)])
    direction = aim / np.linalg.norm(aim, axis=1, keepdims=True)
    place = aim * ((distance - gap - THICK) / distance)
    place[:, 2] = 0
    energy, scattered, image = np.full(PHOTONS, ENERGY), np.zeros(PHOTONS, dtype=bool), np.zeros((BINS, BINS))
    edges = np.linspace(-HALF, HALF, BINS + 1)
    while energy.size:
        place = place + direction * (random.exponential(size=energy.size) / (table("total", energy) / 10))[:, None]
        beyond = place[:, 2] >= THICK
        out = beyond & scattered
        x, y = (place[out, :2] + direction[out, :2] / direction[out, 2:] * (THICK + gap - place[out, 2:])).T
        signal = absorbed(energy[out], direction[out, 2]) / absorbed(np.array(ENERGY))
        image += np.histogram2d(x, y, [edges, edges], weights=signal)[0]
        inside = ~beyond & (place[:, 2] > 0) & (np.abs(place[:, :2]).max(1) < 1000)
        place, direction, energy, scattered = place[inside], direction[inside], energy[inside], scattered[inside]
        met = np.flatnonzero(random.random(energy.size) < density(kind, place[:, 0], place[:, 2]))
        draw = random.random(met.size) * table("total", energy[met]) - table("photo", energy[met])
        alive = np.ones(energy.size, dtype=bool)
        alive[met[draw <= 0]] = False
        met, draw = met[draw > 0], draw[draw > 0]
        is_compton, cosine, after = draw < table("compton", energy[met]), np.empty(met.size), energy[met].copy()
        cosine[is_compton], after[is_compton] = compton(energy[met][is_compton], random)
        cosine[~is_compton] = coherent(energy[met][~is_compton], random)
        direction[met], energy[met], scattered[met] = turned(direction[met], cosine, random), after, True
        alive &= energy > 8
        place, direction, energy, scattered = place[alive], direction[alive], energy[alive], scattered[alive]
    return image / (PHOTONS / BINS**2)


def superposed(kind, distance, gap):
    """Primary and scattered signal by the library, (x, y) bins."""
    n = 10 * BINS
    c = (np.arange(n) + 0.5) * 2 * HALF / n - HALF
    rows, columns = np.meshgrid(c, c, indexing="ij")
    depths = np.arange(0.5, THICK)
    magnified = [(distance - gap - THICK + z) / distance for z in depths]
    water = sum(density(kind, columns * m, z) for m, z in zip(magnified, depths, strict=True))
    water = torch.from_numpy(water * np.sqrt(1 + (rows**2 + columns**2) / distance**2))
    primary = torch.exp(-mass_attenuation("water", ENERGY) / 10 * water)
    seen = detector.absorbed(monochromatic(ENERGY), Detector())
    camera = c_arm((0.0, 0.0, 0.0), 0, 0, distance, distance - 200, 2 * HALF / n, (n, n))
    made = scatter.scattered(primary, water, camera, scatter.kernels_of(seen, gap))
    return [part.numpy().reshape(BINS, 10, BINS, 10).mean((1, 3)).T for part in (primary, made)]


def main():
    random, middle = np.random.default_rng(1), slice(BINS // 3, 2 * BINS // 3)
    for kind, distance, gap in SCENES:
        truth, (primary, made) = followed(kind, distance, gap, random), superposed(kind, distance, gap)
        for what, columns in (("middle", slice(6, 9)), ("between", [2, 3, 4, 10, 11, 12]), ("edges", [0, 14])):
            s, p, k = (part[columns, middle].mean() for part in (truth, primary, made))
            print(
                f"{kind}, {distance:.0f} mm, gap {gap:.0f} mm, {what}: scatter fraction {s / (s + p):.3f}, "
                f"kernels {k / (k + p):.3f}, their scatter {k / s:.2f} of it",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
