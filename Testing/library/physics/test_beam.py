"""The beam through slabs and bodies: float64 sums, the variance of counted photons, lengths, gradients."""

import numpy as np
import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.camera import looking_along
from diffrender.errors import SettingError, UnitError
from diffrender.physics.attenuation import HU_AIR, water_attenuation
from diffrender.physics.beam import areal_densities, matter_of, transmitted
from diffrender.physics.decompose import Decomposition
from diffrender.physics.materials import mass_attenuation
from diffrender.physics.spectra import Spectrum, monochromatic, tube_spectrum
from diffrender.volume import Volume

CT_ENERGY = Decomposition().energy


def summed(spectrum: Spectrum, areal: dict[str, np.ndarray], power: int) -> np.ndarray:
    """sum f E^power exp(-p) / sum f E^power, photon energy by photon energy, in float64."""
    total, whole = 0.0, 0.0
    for energy, photons in zip(spectrum.energies.tolist(), spectrum.fluence.tolist(), strict=True):
        p = sum(a * mass_attenuation(name, energy).item() for name, a in areal.items())
        total += photons * energy**power * np.exp(-p)
        whole += photons * energy**power
    return total / whole


@pytest.mark.parametrize("spectrum", [tube_spectrum(63.5, 2.5), tube_spectrum(120, 3.1, 0.2), monochromatic(47.0)])
def test_slabs_transmit_what_the_float64_sum_says(spectrum):
    water, bone = np.meshgrid(np.linspace(0, 40, 9), np.linspace(0, 60, 7))  # g/cm2
    areal = {"water": water, "cortical-bone": bone, "iodine": 0.003 * water}
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-11)):  # p reaches 100 at 10 keV: 100 x 6e-8
        seen = transmitted(spectrum, {name: torch.from_numpy(a).to(dtype) for name, a in areal.items()})
        assert seen.signal.dtype == dtype
        assert seen.signal.shape == (7, 9)
        np.testing.assert_allclose(seen.signal.double().numpy(), summed(spectrum, areal, 1), rtol=tolerance)
        second = seen.second_moment / seen.second_moment[0, 0]
        np.testing.assert_allclose(second.double().numpy(), summed(spectrum, areal, 2), rtol=tolerance)
    assert seen.signal[0, 0].item() == pytest.approx(1, abs=1e-12)


def test_more_pixels_than_are_done_at_once_are_all_done():
    layers = torch.linspace(0, 30, 3 * 4096 + 17, dtype=torch.float64)
    whole = transmitted(tube_spectrum(90), {"water": layers}).signal
    assert (whole.diff() < 0).all()
    torch.testing.assert_close(whole[-1:], transmitted(tube_spectrum(90), {"water": layers[-1:]}).signal)


def test_the_second_moment_is_the_variance_of_counted_photons():
    # A detector that takes in a part of each photon, with a response that itself varies (Swank factor 0.9).
    spectrum, areal = tube_spectrum(80, 3.0), {"water": torch.tensor(4.0, dtype=torch.float64)}
    r = spectrum.energies * (1 - torch.exp(-40 / spectrum.energies))
    seen = transmitted(spectrum, areal, r, r**2 / 0.9)
    photons, trials, rng = 400, 20_000, np.random.default_rng(6)
    mean = photons * spectrum.fluence / spectrum.fluence.sum()
    passing = (mean * torch.exp(-4.0 * mass_attenuation("water", spectrum.energies))).numpy()
    counts = rng.poisson(passing, (trials, len(passing)))
    # The spread of a photon's signal about its mean r: variance r^2 (1 / 0.9 - 1), for each that arrives.
    each = (1 / 0.9 - 1) * (counts * r.numpy() ** 2).sum(1)
    signals = (counts @ r.numpy() + rng.normal(size=trials) * np.sqrt(each)) / (mean * r).sum().item()
    assert signals.mean() == pytest.approx(seen.signal.item(), rel=3e-3)
    assert signals.var() * photons == pytest.approx(seen.second_moment.item(), rel=0.03)  # 1 % is one sigma


def test_one_energy_and_no_matter_give_one():
    seen = transmitted(monochromatic(66), {"water": torch.zeros(2, 3), "lead": torch.zeros(2, 3)})
    assert torch.equal(seen.signal, torch.ones(2, 3))
    assert torch.equal(seen.second_moment, torch.ones(2, 3))


def box_of(lattice: np.ndarray, size: tuple[int, int, int]) -> tuple[Volume, np.ndarray]:
    """An oblong body off the middle: soft tissue with bone, fat and metal in it, not smoothed; and its middle [mm]."""
    centre = phantoms.point_at(lattice, size)
    share = phantoms.drawn(phantoms.box(centre), lattice, size).values.numpy()
    rng = np.random.default_rng(4)
    tissues, often = [-90.0, 45.0, 60.0, 350.0, 1200.0, 2700.0], [0.3, 0.3, 0.3, 0.06, 0.03, 0.01]
    inside = rng.choice(tissues, size=share.shape, p=often)
    hu = np.where(share > 0, inside, -1000.0) + np.round(30 * rng.random(share.shape))
    return Volume(torch.from_numpy(hu).to(torch.int16), torch.from_numpy(lattice)), centre


@pytest.mark.parametrize("left_handed", [False, True])
def test_at_the_cts_own_energy_materials_attenuate_as_the_hu_do(left_handed):
    lattice = phantoms.oblique_lattice((1.8, 2.2, 2.9), left_handed=left_handed)
    volume, centre = box_of(lattice, (34, 40, 46))
    camera = phantoms.oblique_camera(centre, image_size=(36, 30))
    areal = areal_densities(matter_of(volume), camera)
    assert set(areal) == {"lung", "adipose", "soft-tissue", "cortical-bone", "titanium"}
    p = -transmitted(monochromatic(CT_ENERGY), areal).signal.log()
    water = water_attenuation(CT_ENERGY)
    prepared = dr.prepare(volume.values, water / 1000, water, floor=HU_AIR)
    expected = dr.line_integrals(prepared, volume.world_from_voxel, camera)
    assert expected.max() > 0.5
    # The two tables of water are 0.05 % apart; int16 steps of 1e-4 g/cm3 average out along a ray.
    torch.testing.assert_close(p, expected, rtol=1e-3, atol=2e-4)


def test_areal_density_is_density_times_length():
    hu = torch.full((30, 24, 20), -1000.0)
    hu[4:19, 6:18, 3:17] = 1559.2  # cortical bone at 70 keV, 1.92 g/cm3
    volume = Volume(hu, torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64)))
    middle = torch.tensor([10.0 * 2, 11.5 * 3, 11.5 * 4], dtype=torch.float64)
    camera = looking_along([[1, 0, 0], [0, 0, -1], [0, 1, 0]], middle, 5000.0, 5500.0, (1.0, 1.0), (3, 3))
    areal = areal_densities(matter_of(volume), camera)
    # 12 voxels of 3 mm along j; what is soft at the two faces is the interpolation, whose integral is the same.
    assert areal["cortical-bone"][1, 1].item() == pytest.approx(1.92 * 3.6, rel=1e-3)


def test_int16_and_float_volumes_are_the_same_matter():
    lattice = phantoms.oblique_lattice((2.5, 3.0, 3.6))
    volume, centre = box_of(lattice, (26, 30, 34))
    camera = phantoms.oblique_camera(centre, image_size=(18, 15))
    labels = torch.zeros(volume.shape, dtype=torch.uint8)
    labels[10:18, 9:20] = 3
    images = []
    whole = volume.values
    for values in (whole, whole.float(), whole.double(), whole.double().requires_grad_()):
        labelled = Volume(values, volume.world_from_voxel, labels, {3: "heart"})
        areal = areal_densities(matter_of(labelled), camera)
        assert {"blood", "iodine", "cortical-bone"} <= set(areal)
        images.append(torch.cat([areal[name].detach().double() for name in sorted(areal)]))
    for image in images[:3]:
        torch.testing.assert_close(image, images[3], rtol=1e-4, atol=1e-4)  # int16 steps, 1e-4 g/cm3 over 30 voxels
    assert torch.equal(images[0], images[1])


def test_contrast_in_the_heart_is_seen_below_iodines_edge_less_than_bone_would_be():
    hu = torch.full((16, 16, 16), 400, dtype=torch.int16)
    labels = torch.ones(16, 16, 16, dtype=torch.uint8)
    lattice = torch.diag(torch.tensor([4.0, 5.0, 6.0, 1.0]))
    heart, rib = (Volume(hu, lattice, labels, {1: name}) for name in ("heart", "rib"))
    camera = dr.c_arm(heart, 0, 0, pixel_size=8.0, image_size=(8, 8))
    seen = {
        (volume.label_name(1), energy): transmitted(
            monochromatic(energy), areal_densities(matter_of(volume), camera)
        ).signal
        for volume in (heart, rib)
        for energy in (30.0, 40.0, CT_ENERGY)
    }
    torch.testing.assert_close(seen["heart", CT_ENERGY], seen["rib", CT_ENERGY], rtol=1e-3, atol=0)
    assert (seen["heart", 30.0] > 1.5 * seen["rib", 30.0])[3:5, 3:5].all()
    assert (seen["heart", 40.0] < 0.7 * seen["rib", 40.0])[3:5, 3:5].all()


def test_gradients_of_the_whole_road_meet_finite_differences():
    lattice = phantoms.oblique_lattice((3.5, 4.0, 5.0))
    size = (14, 17, 20)
    start, centre = box_of(lattice, size)
    hu = start.values.double() + 0.37  # not on a rung
    camera = phantoms.oblique_camera(centre, image_size=(6, 5))
    spectrum = tube_spectrum(81, 2.6)
    weights = torch.linspace(0.3, 1.7, 30, dtype=torch.float64).reshape(6, 5)

    def loss(values: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
        areal = areal_densities(matter_of(Volume(values, start.world_from_voxel)), camera, xi)
        seen = transmitted(spectrum, areal)
        return (weights * (seen.signal.log() + 3 * seen.second_moment)).sum()

    values, xi = hu.clone().requires_grad_(), torch.zeros(6, dtype=torch.float64, requires_grad=True)
    by_value, by_pose = torch.autograd.grad(loss(values, xi), (values, xi))
    met = torch.nonzero(by_value.abs() > by_value.abs().max() / 50)
    chosen = met[:: max(1, len(met) // 7)]
    assert len(chosen) >= 6
    for k, j, i in chosen.tolist():
        step = torch.zeros_like(hu)
        step[k, j, i] = 1e-2
        # with a gradient asked for, densities stay float64, as in the loss above
        low, high = (loss((hu + sign * step).requires_grad_(), xi.detach()).item() for sign in (-1, 1))
        assert by_value[k, j, i].item() == pytest.approx((high - low) / 2e-2, rel=1e-5)
    for n, size_of_step in enumerate([1e-5] * 3 + [1e-7] * 3):
        step = torch.zeros(6, dtype=torch.float64)
        step[n] = size_of_step
        low, high = (loss(hu.clone().requires_grad_(), sign * step).item() for sign in (-1, 1))
        assert by_pose[n].item() == pytest.approx((high - low) / (2 * size_of_step), rel=1e-3, abs=1e-3)


def test_a_volume_of_air_makes_an_image_of_the_open_field():
    volume = Volume(torch.full((5, 6, 7), -1024, dtype=torch.int16), torch.eye(4))
    camera = dr.c_arm(volume, 0, 0, pixel_size=1.0, image_size=(4, 4))
    areal = areal_densities(matter_of(volume), camera)
    torch.testing.assert_close(transmitted(tube_spectrum(60), areal).signal, torch.ones(4, 4), rtol=0, atol=1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(UnitError, match="unit 'arbitrary', not Hounsfield units"):
        matter_of(Volume(torch.zeros(2, 3, 4), torch.eye(4), unit="arbitrary"))
    with pytest.raises(SettingError, match="rungs of a decomposition must rise"):
        matter_of(Volume(torch.zeros(2, 3, 4), torch.eye(4)), Decomposition(fat=0.0))
    spectrum, areal = tube_spectrum(60), {"water": torch.ones(2, 2)}
    with pytest.raises(SettingError, match="one material at least"):
        transmitted(spectrum, {})
    with pytest.raises(SettingError, match="response is zero at every energy"):
        transmitted(spectrum, areal, torch.zeros(len(spectrum.energies)))
    for response in (spectrum.energies[1:], -spectrum.energies, spectrum.energies * float("nan")):
        with pytest.raises(SettingError, match="number from zero up for each of the 50 energies of 60 kVp"):
            transmitted(spectrum, areal, response)
