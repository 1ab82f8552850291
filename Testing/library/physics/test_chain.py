import dataclasses

import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.errors import SettingError
from diffrender.physics.attenuation import water_attenuation
from diffrender.physics.beam import areal_densities, matter_of
from diffrender.physics.chain import detected, spectrum_of
from diffrender.physics.decompose import Decomposition
from diffrender.physics.presets import EXAMINATIONS
from diffrender.physics.scatter import kernels_of, scattered
from diffrender.physics.settings import Collimation, Detector, Grid, Heel, Physics, Scatter

CAMERA = phantoms.oblique_camera(torch.tensor([5.0, 3.0, -8.0]).numpy(), image_size=(40, 34), field=(200.0, 150.0))
ALL = Physics(
    kvp=80.0,
    dose=5.0,
    scatter=Scatter(),
    grid=Grid(8.0),
    collimation=Collimation((15.0, 22.0, 8.0, 30.0)),
    heel=Heel(towards="left"),
    detector=Detector(flat_field=False),
)


def slab(grams=12.0):
    """Water of which each column holds somewhat more than the one before."""
    return {"water": grams + torch.linspace(0, 2, 34, dtype=torch.float64).expand(40, 34).contiguous()}


def signal(physics, areal=None, **more):
    return detected(slab() if areal is None else areal, spectrum_of(physics), CAMERA, physics, 500.0, **more)[0]


def test_one_energy_and_nothing_else_is_beers_law():
    found = -torch.log(signal(Physics.plain(energy=60.0)))
    assert (found - slab()["water"] * 10 * water_attenuation(60.0)).abs().max() < 1e-3 * found.max()


def test_without_matter_the_signal_is_the_open_field():
    for physics in (Physics.plain(), Physics(kvp=90.0, noise=False, scatter=Scatter())):
        # float32, and blurred before the fall-off towards the rim is made up for
        assert (signal(physics, {}) - 1).abs().max() < 1e-4
        assert (signal(physics, {"water": torch.zeros(40, 34)}) - 1).abs().max() < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"scatter": Scatter()},
        {"noise": True, "dose": 3.0},
        {"detector": Detector()},
        {"focal_spot": 8.0},
        {"collimation": Collimation((10.0, 10.0, 10.0, 10.0))},
        {"copper": 0.3},
        {"inverse_square": True, "detector": Detector(flat_field=False)},
        {"heel": Heel(), "detector": Detector(flat_field=False)},
    ],
)
def test_each_effect_alone_shows(change):
    wire = slab()
    wire["water"][:, 20] += 1.0
    plain, changed = signal(Physics.plain(kvp=80.0), wire), signal(Physics.plain(kvp=80.0, **change), wire)
    assert (changed / plain - 1).abs().max() > 1e-3
    assert torch.isfinite(changed).all()
    assert changed.min() > 0


def test_scatter_adds_and_a_grid_takes_most_of_it_away():
    plain = signal(Physics.plain(kvp=80.0))
    free, behind = (
        signal(Physics.plain(kvp=80.0, scatter=Scatter(air_gap=20.0), grid=g))
        for g in (None, Grid(12.0, primary=0.7, scatter=0.1))
    )
    assert (free > behind).all()
    assert (behind > plain).all()
    ratio = ((free - plain) / (behind - plain)).mean().item()
    half = signal(Physics.plain(kvp=80.0, scatter=Scatter(0.5, 20.0)))
    assert (
        abs(ratio - 7) < 0.01
    )  # a share of 0.1 of the scatter over 0.7 of the primary, to which the open field refers
    assert ((half - plain) * 2 - (free - plain)).abs().max() < 1e-9
    kernels = kernels_of(spectrum_of(Physics.plain(kvp=80.0)), 20.0)
    assert (free - plain - scattered(plain, slab()["water"] * 10, CAMERA, kernels)).abs().max() < 1e-9  # mm of water


def test_the_air_gap_follows_from_where_the_patient_is():
    physics = Physics.plain(kvp=80.0, scatter=Scatter())
    spectrum = spectrum_of(physics)
    near, far = (detected(slab(), spectrum, CAMERA, physics, middle)[0] for middle in (830.0, 700.0))
    told, other = (signal(dataclasses.replace(physics, scatter=Scatter(air_gap=gap))) for gap in (900 - 700 - 70, 200))
    assert (near > far).all()
    # 140 mm of water are the body's thickness, half of it beyond its middle
    assert (told / far - 1).abs().max() < 0.1 * (other / far - 1).abs().max()


def test_a_calibrated_field_remains_in_noise_alone():
    physics = dataclasses.replace(ALL, scatter=None, collimation=None, detector=Detector(), noise=False)
    assert (signal(physics) / signal(dataclasses.replace(physics, heel=None)) - 1).abs().max() < 1e-3
    bare = dataclasses.replace(physics, detector=Detector(flat_field=False))
    assert signal(bare)[:, 0].mean() < 0.9 * signal(bare)[:, -1].mean()


def test_shutters_are_dark_and_said():
    found, exposed = detected(slab(), spectrum_of(ALL), CAMERA, dataclasses.replace(ALL, noise=False), 500.0)
    assert exposed.dtype == torch.bool
    assert not exposed[0].any()
    assert found[~exposed].mean() < 0.3 * found[exposed].mean()
    assert detected(slab(), spectrum_of(ALL), CAMERA, Physics(), 500.0)[1] is None


def test_noise_falls_with_dose():
    physics = Physics.plain(kvp=80.0, noise=True, dose=1.0, detector=Detector())
    clean = signal(Physics.plain(kvp=80.0, detector=Detector()))
    spread = [(signal(dataclasses.replace(physics, dose=d)) - clean).std().item() for d in (1.0, 4.0, 16.0)]
    assert abs(spread[0] / spread[1] - 2) < 0.01  # the same variates, so the ratio is exact but for what is read
    assert abs(spread[1] / spread[2] - 2) < 0.01


def test_gradients_of_the_whole_chain_against_finite_differences():
    volume = phantoms.drawn(
        phantoms.smooth(CAMERA.source.numpy() + 400 * CAMERA.direction.numpy(), scale=2.0),
        phantoms.oblique_lattice((9.0, 7.0, 8.0), origin=(-60.0, -50.0, -65.0)),
        (14, 15, 13),
    )
    hu = (volume.values.double() / volume.values.max() * 1800 - 900).requires_grad_()
    physics = dataclasses.replace(ALL, electronic_noise=300.0)
    weights = torch.randn(40, 34, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    spectrum = spectrum_of(physics)

    def loss(values):
        ct = dr.Volume(values, volume.world_from_voxel)
        areal = areal_densities(matter_of(ct), CAMERA, backend="torch")
        return (weights * torch.log(detected(areal, spectrum, CAMERA, physics, 400.0)[0])).sum()

    (slope,) = torch.autograd.grad(loss(hu), hu)
    for seed in (1, 2):
        way = torch.randn(hu.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        h = 1e-2  # HU; values that carry a gradient are not stored in steps
        ends = [loss((hu.detach() + sign * h * way).requires_grad_()).item() for sign in (1, -1)]
        along, told = (ends[0] - ends[1]) / (2 * h), (slope * way).sum().item()
        assert abs(told - along) < 1e-5 * abs(along)


@pytest.fixture(scope="module")
def torso():
    return dr.torso((30, 28, 26), oblique=True, noise=0.0)


@pytest.mark.parametrize("name", ["chest-pa", "chest-ap-bedside", "pelvis-ap", "c-arm"])
def test_a_radiograph_goes_through_the_whole_chain(torso, name):
    physics = EXAMINATIONS[name].physics
    camera = dr.preset(name, torso, (48, 44))
    log, intensity, plain = (
        dr.radiograph(torso, camera, dr.RadiographSettings(kind=kind, physics=p))
        for kind, p in (("log-attenuation", physics), ("intensity", physics), ("log-attenuation", None))
    )
    assert (torch.exp(-log.pixels) - intensity.pixels).abs().max() < 1e-5
    assert torch.equal(log.masks, plain.masks)
    assert log.exposed is None
    body = plain.pixels > 1
    likeness = torch.corrcoef(torch.stack([log.pixels[body], plain.pixels[body]]))[0, 1]
    # The same patient, seen otherwise; without a grid and from shoulders to thighs, scatter hides much.
    assert (0.5 if physics.grid is None else 0.8) < likeness < 0.9999


def test_a_scene_is_the_volume_made_ready(torso):
    from diffrender.xray import scene_of

    settings = dr.RadiographSettings(physics=ALL, labels=False)
    camera = dr.preset("pelvis-ap", torso, (30, 40))
    scene = scene_of(torso, settings)
    assert scene.matter is not None
    one, other = dr.radiograph(scene, camera), dr.radiograph(torso, camera, settings)
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.exposed, other.exposed)
    assert one.pixels.dtype == torch.float32


def test_a_volume_of_air_is_an_open_field():
    volume = dr.Volume(torch.full((8, 7, 6), -1000, dtype=torch.int16), torch.diag(torch.tensor([20.0, 20, 20, 1])))
    camera = dr.preset("chest-pa", volume, (12, 16))
    pixels = dr.radiograph(volume, camera, dr.RadiographSettings(physics=Physics(noise=False))).pixels
    assert pixels.abs().max() < 1e-5


def test_physics_is_not_offered_for_meshes():
    from diffrender.xray import radiograph_of_meshes

    with pytest.raises(SettingError, match="of no material"):
        radiograph_of_meshes([], CAMERA, dr.RadiographSettings(physics=Physics()))


def test_gradients_reach_the_volume(torso):
    values = torso.values.float().requires_grad_()
    volume = dataclasses.replace(torso, values=values, labels=None, names=None)
    camera = dr.preset("chest-pa", volume, (16, 18))
    dr.radiograph(volume, camera, dr.RadiographSettings(physics=ALL)).pixels.sum().backward()
    assert torch.isfinite(values.grad).all()
    assert values.grad.abs().max() > 0


def test_what_hu_stand_for_is_a_setting_of_the_physics():
    values = torch.full((6, 7, 8), -1000, dtype=torch.int16)
    values[2:4, 2:5, 3:6] = 3060
    volume = dr.Volume(values, torch.diag(torch.tensor([9.0, 8.0, 7.0, 1.0])).double())
    camera = dr.c_arm(volume, image_size=(9, 11), pixel_size=8.0)
    read = {
        kind: dr.radiograph(
            volume,
            camera,
            dr.RadiographSettings(physics=Physics.plain(materials=Decomposition(full_metal=3050, metal_kind=kind))),
        ).pixels.amax()
        for kind in ("titanium", "steel")
    }
    # 7.9 against 4.5 g/cm3, and a higher atomic number; the spectrum hardens in both
    assert read["steel"] > 1.8 * read["titanium"]
