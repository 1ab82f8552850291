"""What a detector sees: noise against dose, scatter against what was measured, gradients, and how long it takes."""

import math
from dataclasses import replace

import cases
import clock
import numpy as np
import torch
from report import Result, Row, at_most

import diffrender as dr
import phantoms
from diffrender.camera import c_arm
from diffrender.physics.beam import areal_densities, matter_of
from diffrender.physics.chain import detected, spectrum_of
from diffrender.physics.detector import absorbed
from diffrender.physics.presets import examination, physics_preset
from diffrender.physics.scatter import grid_transmission, kernels_of, scattered
from diffrender.physics.settings import Collimation, Detector, Grid, Heel, Physics, Scatter
from diffrender.physics.spectra import tube_spectrum
from diffrender.xray import scene_of

LUNG_PATH = 100.0  # mm through lung: the middle of a lung field
MIDDLE = 20.0  # mm through heart or aorta: mediastinum


def noise() -> Result:
    """Variance against dose behind 15 cm of water, and noise power against a measured panel."""
    torch.set_num_threads(1)
    camera = c_arm((0.0, 0.0, 0.0), pixel_size=(0.6, 0.5), image_size=(512, 512))
    areal = {"water": torch.full((512, 512), 15.0, dtype=torch.float64)}
    off = Physics.plain(kvp=80.0, aluminium=3.0, detector=Detector(half_modulation=None, gain=0.0))
    spectrum = spectrum_of(off)
    expected = detected(areal, spectrum, camera, off)[0].mean().item()
    doses, variances = (2.0, 8.0, 32.0, 128.0, 512.0), []
    for n, dose in enumerate(doses):
        physics = replace(off, noise=True, dose=dose, seed=n)
        variances.append(detected(areal, spectrum, camera, physics)[0].var().item())
    slope = np.polyfit(np.log(doses), np.log(variances), 1)[0]
    theory = _compound_poisson(off, areal["water"][0, 0].item(), 0.6 * 0.5)
    rows = [
        at_most("variance against dose, 5 doses: slope against -1", float(100 * abs(slope + 1)), 2, " %"),
        at_most(
            "variance times dose against the sum over the spectrum",
            float(100 * abs(math.exp(np.mean(np.log(variances) + np.log(doses))) / theory - 1)),
            2,
            " %",
        ),
        Row("signal and its deviation at 2 uGy", "", f"{expected:.4f} and {variances[0] ** 0.5:.2g}"),
        _noise_power(),
    ]
    notes = [
        "80 kVp, 3 mm Al, 15 cm of water, pixels of 0.6 x 0.5 mm, quantum noise alone: CsI of 0.2 g/cm2, Swank 0.85.",
        "Noise power: Marshall et al., Phys. Med. Biol. 56 (2011) 957, abstract: six CsI panels, 70 kV and 1 mm Cu.",
        "It does not name the frequency; ours is that at 0.5 / mm, for which it names a DQE of 0.60.",
    ]
    return Result(rows, {"doses": doses, "variances": variances, "slope": float(slope)}, notes)


def _compound_poisson(physics: Physics, grams: float, area: float) -> float:
    """Variance times dose [uGy], summed in float64 from the tables."""
    from diffrender.physics.materials import mass_attenuation

    s = spectrum_of(physics)
    share = 1 - torch.exp(-mass_attenuation("csi", s.energies) * 0.2)
    photons = s.fluence / s.air_kerma
    through = torch.exp(-mass_attenuation("water", s.energies) * grams)
    first = (photons * share * s.energies).sum()
    return ((photons * share * s.energies**2 * through).sum() / 0.85 / first**2 / area).item()


def _noise_power() -> Row:
    steps = (0.15, 0.15)
    camera = c_arm((0.0, 0.0, 0.0), pixel_size=steps, image_size=(1024, 1024))
    physics = Physics(kvp=70.0, aluminium=2.5, copper=1.0, dose=2.57, scatter=None, focal_spot=0, inverse_square=False)
    image = detected({"air": torch.zeros(1024, 1024)}, spectrum_of(physics), camera, physics)[0].double() - 1
    power = torch.fft.rfft2(image).abs() ** 2 / image.numel() * steps[0] * steps[1]
    f = torch.fft.fftfreq(1024, steps[0])[:, None] ** 2 + torch.fft.rfftfreq(1024, steps[1])[None, :] ** 2
    found = power[(f.sqrt() - 0.5).abs() < 0.02].mean().item()
    return Row("normalised noise power, 70 kV and 1 mm Cu, 2.57 uGy", "measured 1.42e-05 mm2", f"{found:.3g} mm2")


def scatter() -> Result:
    """Scatter-to-primary ratios of slabs and of a chest against what the literature measured."""
    torch.set_num_threads(1)
    rows = [*_slabs(), *_chest()]
    notes = [
        "Kernels: our own Monte Carlo (Testing/tables/make_scatter.py). Scatter fraction: scattered to total signal.",
        "Without a grid, bedside: Radiology 190 (1994) 1 has 0.66 and 0.95; Floyd et al., Invest. Radiol. 29 (1994)",
        "852, for a phantom 0.61 and 0.87. Chest: Niklason et al., Med. Phys. 8 (1981) 677, doi:10.1118/1.595027.",
        "Effective source: 'Scatter rejection by air gaps: an empirical model', which names no fields. All these were",
        "opened as abstracts. The 4.5 is Bushberg's as dosesave.com quotes it, without field or voltage.",
        "None of them is of our patient, so these rows promise nothing. Lungs lie lower; docs/decisions asks why.",
        "Not compared, since no numbers could be opened: Boone & Seibert (1988), Siewerdsen & Jaffray (2001), pelvis.",
    ]
    return Result(rows, {}, notes)


def _ratio(thickness: float, field: float, gap: float, kvp: float = 80.0) -> float:
    camera = c_arm((0.0, 0.0, 0.0), pixel_size=field / 64, image_size=(64, 64))
    seen = absorbed(tube_spectrum(kvp, 3.0), Detector())
    water = torch.full((64, 64), thickness, dtype=torch.float64)
    return scattered(torch.ones_like(water), water, camera, kernels_of(seen, gap))[32, 32].item()


def _slabs() -> list[Row]:
    table = {(t, f): _ratio(t, f, 20.0) for t in (100.0, 200.0, 250.0) for f in (100.0, 300.0)}
    written = "; ".join(f"{t / 10:.0f} cm, {f / 10:.0f} cm field {r:.2f}" for (t, f), r in table.items())
    sources = []
    for field in (100.0, 200.0, 300.0):
        there = math.sqrt(_ratio(200.0, field, 200.0, 120.0) / _ratio(200.0, field, 0.0, 120.0))
        sources.append(f"{200 * there / (1 - there):.0f}")
    seen = absorbed(tube_spectrum(80.0, 3.0), Detector())
    grids = "; ".join(
        f"{r}:1 {100 * p:.0f} and {100 * s:.0f} %" for r in (8, 12) for p, s in [grid_transmission(Grid(r), seen)]
    )
    return [
        Row("scatter-to-primary of water slabs, 80 kVp, gap 2 cm", "", written),
        Row("that of 25 cm behind a field of 30 cm", "about 4.5", f"{table[250.0, 300.0]:.2f}"),
        Row("effective source before the exit, fields of 10, 20, 30 cm", "150 to 200 mm", ", ".join(sources) + " mm"),
        Row("grids: primary and scatter that pass, 80 kVp behind 18 cm", "", grids),
    ]


def _chest() -> list[Row]:
    folder = cases.DATA / "ct-chest-lidc0001"
    if not folder.exists():
        return [Row("scatter fractions of a chest", "", f"not measured: {folder} does not exist")]
    from diffrender.io import read_volume

    names = folder / "structures.csv"
    volume = read_volume(folder / "ct_256.nii.gz", folder / "labels_256.nii.gz", names)
    rows = []
    asked = {
        "chest-ap-bedside": ("0.61 (phantom), 0.66", "0.87 (phantom), 0.95"),
        "chest-pa without its grid": ("", "about 0.90"),
        "chest-pa": ("", "above 0.50"),
    }
    for name, (lung, middle) in asked.items():
        view = name.split(" ")[0]
        physics = replace(physics_preset(view), noise=False)
        if "without" in name:
            physics = replace(physics, grid=None)
        found = _fractions(volume, view, physics)
        rows.append(Row(f"{name}: scatter fraction in the lungs", lung, f"{found[0]:.2f}"))
        rows.append(Row(f"{name}: in the mediastinum", middle, f"{found[1]:.2f}"))
    return rows


def _fractions(volume: dr.Volume, view: str, physics: Physics) -> tuple[float, float]:
    camera = dr.preset(view, volume, (256, 256))
    all_of_it, primary = (
        dr.radiograph(volume, camera, dr.RadiographSettings(kind="intensity", physics=p))
        for p in (physics, replace(physics, scatter=None))
    )
    lengths = all_of_it.path_lengths
    assert lengths is not None
    named = {n: volume.label_name(n) for n in all_of_it.ids}
    lung = sum(lengths[n] for n, i in enumerate(all_of_it.ids) if named[i].startswith("lung_"))
    heart = sum(lengths[n] for n, i in enumerate(all_of_it.ids) if named[i] in ("heart", "aorta"))
    share = 1 - (primary.pixels / all_of_it.pixels)[0]
    places = (lung > LUNG_PATH) & (heart < 1), (heart > MIDDLE) & (lung < LUNG_PATH / 2)
    return share[places[0]].median().item(), share[places[1]].median().item()


def gradients() -> Result:
    """Gradients of the whole chain, every effect on and the noise fixed, against finite differences in float64."""
    torch.set_num_threads(1)
    camera = phantoms.oblique_camera(np.array([5.0, 3.0, -8.0]), image_size=(60, 50), field=(200.0, 150.0))
    lattice = phantoms.oblique_lattice((5.0, 4.0, 4.5), origin=(-60.0, -50.0, -65.0))
    middle = camera.source.numpy() + 400 * camera.direction.numpy()
    volume = phantoms.drawn(phantoms.smooth(middle, scale=2.0), lattice, (26, 25, 23))
    hu = volume.values.double() / volume.values.max() * 1800 - 900
    physics = Physics(
        kvp=80.0,
        dose=5.0,
        scatter=Scatter(),
        grid=Grid(8.0),
        collimation=Collimation((15.0, 22.0, 8.0, 30.0)),
        heel=Heel(towards="left"),
        detector=Detector(flat_field=False),
    )
    spectrum, generator = spectrum_of(physics), torch.Generator().manual_seed(4)
    weights = torch.randn(60, 50, generator=generator, dtype=torch.float64)

    def loss(values: torch.Tensor) -> torch.Tensor:
        ct = dr.Volume(values, volume.world_from_voxel)
        areal = areal_densities(matter_of(ct), camera, backend="torch")
        return (weights * torch.log(detected(areal, spectrum, camera, physics, 400.0)[0])).sum()

    start = hu.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(start), start)
    worst, step = 0.0, 1e-3  # HU: a longer one steps over rungs of the decomposition here and there
    for _ in range(8):
        way = torch.randn(hu.shape, generator=generator, dtype=torch.float64)
        ends = [loss((hu + sign * step * way).requires_grad_()).item() for sign in (1, -1)]
        along = (ends[0] - ends[1]) / (2 * step)
        worst = max(worst, abs((slope * way).sum().item() / along - 1))
    rows = [at_most("gradient in HU through the whole chain, 8 random directions, relative", worst, 1e-3)]
    return Result(
        rows, {"worst": worst}, ["Spectrum, scatter, grid, shutters, heel, blur and fixed noise on; float64."]
    )


def radiograph() -> Result | None:
    """The abdomen CT with all labels and the full physics at 256 x 256, from HU to masks."""
    from diffrender.io import read_volume

    folder = cases.DATA / "ct-abdomenpelvis-totalseg"
    if not folder.exists():
        print(f"physics-radiograph: {folder} does not exist (DIFFRENDER_DATA names the folder that holds it).")
        return None
    torch.set_num_threads(1)
    volume = read_volume(folder / "ct.nii.gz", folder / "labels_totalsegv1_multilabel.nii.gz", folder / "labels.csv")
    exam = examination("pelvis-ap")
    camera = dr.preset(exam.view, volume, (256, 256))
    full, bare = dr.RadiographSettings(physics=exam.physics), dr.RadiographSettings(labels=False)
    scene = scene_of(volume, full)
    contenders = {
        "full physics, 59 labels": lambda: dr.radiograph(volume, camera, full),
        "the same of a prepared scene": lambda: dr.radiograph(scene, camera),
        "one energy, no labels": lambda: dr.radiograph(volume, camera, bare),
    }
    times = clock.take_turns(contenders, seconds=20)
    limits = {"full physics, 59 labels": 1.5, "one energy, no labels": 0.2}
    rows = [
        at_most(f"{name}, wall, least", times[name].least_wall_ms / 1000, asked, " s") for name, asked in limits.items()
    ]
    rows += [
        Row(f"{name}, CPU ms least / wall ms median", "", f"{t.cpu_ms:.0f} / {t.wall_ms:.0f}")
        for name, t in times.items()
    ]
    notes = [
        "Abdomen CT of 122 x 101 x 112 voxels at 256 x 256 px, preset pelvis-ap, one thread, HU to image and masks."
    ]
    return Result(rows, {name: t.as_dict() for name, t in times.items()}, notes)
