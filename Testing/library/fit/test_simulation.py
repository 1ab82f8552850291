"""Simulated frames against Beer and Lambert worked out by hand, and the patient that they are made of."""

import dataclasses

import numpy as np
import pytest
import surfaces
import torch

import diffrender as dr
import phantoms
from diffrender.errors import MeshError, SettingError
from diffrender.fit.neighbours import anatomy_of, femurs, lumbar_spine, outward, shrunk
from diffrender.fit.overlay import parts_of
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.simulation import SimulateSettings, cios_camera, simulate
from diffrender.fit.voxels import voxelised
from diffrender.mesh import Mesh
from diffrender.physics.attenuation import water_attenuation

BARE = SimulateSettings(
    torso=False, gas=False, femurs=False, spine=False, cortex=False, scatter=0.0, photons=None, blur=0.0
)
BALL = phantoms.Ellipsoid(np.array([14.0, -9.0, 21.0]), np.array([31.0, 24.0, 40.0]), phantoms.rotation(20, -15, 35))
WATER = water_attenuation(70.0)


@pytest.fixture(scope="module")
def pelvis() -> dict[str, Mesh]:
    """The parametric pelvis, its middle off the world's origin."""
    model = default_pelvis()
    coefficients = torch.tensor([0.8, -1.1, 0.5])
    body = dr.moved(model.mesh(coefficients), torch.tensor([9.0, -4, 6, 0.03, -0.05, 0.04]))
    return parts_of(body, model.parts)


@pytest.fixture(scope="module")
def frame(pelvis):
    return simulate(pelvis, cios_camera(8, -5, size=96), seed=2)


def log(radiograph) -> torch.Tensor:
    return -radiograph.pixels[0].double().log()


def test_a_body_of_one_density_attenuates_as_beer_and_lambert_say():
    camera = cios_camera(15, 10, (5.0, 0, 8), size=64)
    shown = simulate([surfaces.of_ellipsoid(BALL, 4)], camera, BARE, seed=1).radiograph
    source, directions = camera.rays()
    chord = BALL.chords(source.numpy(), directions.numpy())
    chord = torch.as_tensor(np.asarray(chord)).reshape(64, 64)
    # 600 HU; the mesh is inscribed in the ellipsoid, which costs 0.2 mm of a chord, and more where the ray grazes it.
    error = (log(shown) / (1.6 * WATER) - chord).abs()
    assert error[chord > 20].max() < 0.3
    assert error[chord == 0].max() < 1e-6
    assert log(shown).max() > 1.5


def test_cortex_is_denser_than_what_it_encloses():
    body = surfaces.of_ellipsoid(BALL, 4)
    p = log(simulate([body], cios_camera(size=64), dataclasses.replace(BARE, cortex=True), seed=1).radiograph)
    chord = dr.path_lengths(body, cios_camera(size=64)).double()
    density = p / chord
    middle, rim = density[chord > 0.9 * chord.max()], density[(chord > 5) & (chord < 0.4 * chord.max())]
    assert 1.05 * WATER < middle.mean() < 1.6 * WATER  # spongy, with two walls
    assert rim.mean() > 1.1 * middle.mean()  # grazing rays run in the wall


def test_a_surface_wound_inward_is_the_same_body():
    body = surfaces.of_ellipsoid(BALL)
    inward = Mesh(body.vertices, body.faces.flip(1))
    settings = dataclasses.replace(BARE, cortex=True)
    one, other = (simulate([mesh], cios_camera(size=48), settings).radiograph.pixels for mesh in (body, inward))
    assert torch.equal(one, other)
    assert float(shrunk(outward(inward), 2.0).enclosed_volume) < float(body.enclosed_volume)


def test_scatter_is_thirty_percent_of_the_primary_and_smooth(pelvis):
    camera = cios_camera(size=96)
    plain = dataclasses.replace(SimulateSettings(), photons=None, scatter=0.0)
    without = simulate(pelvis, camera, plain, 3).radiograph.pixels[0]
    with_ = simulate(pelvis, camera, dataclasses.replace(plain, scatter=0.3), 3).radiograph.pixels[0]
    scatter = (with_ - without).double()
    assert scatter.mean() / without.double().mean() == pytest.approx(0.3, abs=1e-4)
    assert scatter.diff(dim=0).abs().max() < 0.05 * without.double().diff(dim=0).abs().max()


def test_noise_is_that_of_so_many_photons(pelvis):
    settings = dataclasses.replace(SimulateSettings(), photons=400.0)
    camera = cios_camera(size=128)
    noisy = simulate(pelvis, camera, settings, 5).radiograph.pixels[0].double()
    smooth = simulate(pelvis, camera, dataclasses.replace(settings, photons=None), 5).radiograph.pixels[0].double()
    rate = 400 * smooth / smooth.median()
    z = (noisy / smooth - 1) * rate.sqrt()
    # 16 384 independent numbers of deviation 1: their deviation is known to 0.6 %.
    assert z.std() == pytest.approx(1.0, abs=0.03)
    assert z.mean().abs() < 0.03


def test_a_seed_is_a_patient_and_what_is_off_changes_nothing_else(pelvis, frame):
    camera = cios_camera(8, -5, size=96)
    assert torch.equal(simulate(pelvis, camera, seed=2).radiograph.pixels, frame.radiograph.pixels)
    assert not torch.equal(simulate(pelvis, camera, seed=3).radiograph.pixels, frame.radiograph.pixels)
    plain = SimulateSettings(photons=None, scatter=0.0, blur=0.0)
    whole, gasless = (
        log(simulate(pelvis, camera, dataclasses.replace(plain, gas=gas), 2).radiograph) for gas in (True, False)
    )
    less = gasless - whole
    assert less.min() > -1e-4  # gas takes away
    assert (less.abs() < 1e-4).double().mean() > 0.4
    assert less.max() > 0.1


def test_views_show_one_patient_with_noise_of_their_own(pelvis):
    first, again, side = simulate(
        pelvis, [cios_camera(size=64), cios_camera(size=64), cios_camera(50, size=64)], seed=4
    )
    assert torch.equal(first.clean.pixels, again.clean.pixels)
    assert not torch.equal(first.radiograph.pixels, again.radiograph.pixels)
    assert side.truth is first.truth
    assert torch.equal(torch.cat([m.vertices for m in pelvis.values()]), first.truth.mesh.vertices)


def test_the_clean_frame_lacks_what_the_model_lacks(pelvis, frame):
    settings = SimulateSettings(photons=None, scatter=0, femurs=False, spine=False, gas=False)
    by_hand = simulate(pelvis, cios_camera(8, -5, size=96), settings, 2).radiograph
    torch.testing.assert_close(frame.clean.pixels, by_hand.pixels)
    assert not frame.clean.masks[[2, 4, 5]].any()  # vertebrae and femurs
    assert frame.radiograph.masks[[2, 4, 5]].flatten(1).any(1).all()
    assert torch.equal(frame.clean.masks[0], frame.radiograph.masks[0])


def test_left_is_on_the_images_right_and_the_spine_on_top(frame):
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    where = {
        n: (rows[m].mean(), columns[m].mean())
        for n, m in zip(frame.radiograph.ids, frame.radiograph.masks, strict=True)
    }
    assert where[1][1] > where[4][1] > where[2][1]  # left hip, sacrum, right hip
    assert where[5][1] > where[6][1]
    assert where[3][0] < where[4][0]


def test_femoral_heads_sit_in_the_sockets_and_the_spine_on_the_sacrum(pelvis):
    marks = {
        name: mark.at(torch.cat([m.vertices for m in pelvis.values()]))
        for name, mark in default_pelvis().landmarks_at.items()
    }
    given = np.stack([marks["FH-l"].numpy(), marks["FH-r"].numpy()]).astype(float)
    found = anatomy_of(list(pelvis.values()))
    # Sockets that are found by themselves, to the mesh's own coarseness.
    assert np.linalg.norm(found.heads - given, axis=1).max() < 3.0
    assert found.axes[0, 0] > 0.99
    assert np.allclose(found.axes @ found.axes.T, np.eye(3), atol=1e-12)
    anatomy = anatomy_of(list(pelvis.values()), given)
    for side, bone, head in zip((-1, 1), femurs(anatomy, np.random.default_rng(0)), given, strict=True):
        points = bone.outer.vertices.double().numpy()
        above = points[points[:, 2] > head[2]]
        radii = np.linalg.norm(above - head, axis=1)
        assert np.median(radii) == pytest.approx(anatomy.head_radius, rel=0.06)
        assert side * (bone.outer.centre[0] - head[0]) > 10  # the shaft lies to the outside
        assert float(bone.outer.enclosed_volume) > float(bone.inner.enclosed_volume) > 0
    bones, discs = lumbar_spine(anatomy, np.random.default_rng(0))
    heights = [float(bone.outer.centre[2]) for bone in bones]
    assert anatomy.base[2] < heights[0] < heights[1] < heights[2]
    assert len(discs) == 3
    assert np.linalg.norm(discs[0].centre.numpy() - anatomy.base) < 8


def test_shutters_text_and_tool_are_where_they_say(pelvis):
    camera = cios_camera(size=128)
    plain = SimulateSettings(photons=None)
    shown = {
        name: simulate(pelvis, camera, dataclasses.replace(plain, **{name: True}), 6).radiograph
        for name in ("collimation", "text", "tool")
    }
    without = simulate(pelvis, camera, plain, 6).radiograph
    closed = ~shown["collimation"].exposed
    assert 0.02 < closed.double().mean() < 0.5
    assert shown["collimation"].pixels[0][closed].mean() < 0.6 * without.pixels[0][closed].mean()  # scatter alone
    marked = shown["text"].pixels[0] != without.pixels[0]
    assert 20 < marked.sum() < 0.05 * marked.numel()
    assert (shown["text"].pixels[0][marked] == without.pixels.max()).all()
    darker = log(shown["tool"]) - log(without)
    assert darker.max() > 0.3


def test_landmarks_are_marked_where_they_project(pelvis):
    marks = {"inside": torch.tensor([3.0, 5, -8]), "outside": torch.tensor([400.0, 0, 0])}
    camera = cios_camera(10, 5, size=96)
    shown = simulate(pelvis, camera, BARE, landmarks=marks).radiograph
    assert list(shown.landmarks) == ["inside"]
    assert shown.landmarks["inside"] == pytest.approx(camera.project(marks["inside"][None].double())[0].tolist())


def test_a_ct_is_its_own_radiograph_before_the_detector():
    volume = dr.torso((60, 38, 54), labels=True)
    camera = dr.preset("pelvis-ap", volume, image_size=(48, 48))
    shown = simulate(volume, camera, SimulateSettings(blur=0.0), seed=1)
    expected = dr.radiograph(volume, camera)
    torch.testing.assert_close(-shown.clean.pixels.log(), expected.pixels, atol=1e-4, rtol=1e-4)
    assert torch.equal(shown.radiograph.masks, expected.masks)
    assert shown.truth.mesh is None
    assert not torch.equal(shown.radiograph.pixels, shown.clean.pixels)


def test_the_patient_on_a_lattice_casts_the_same_shadow(pelvis):
    camera = cios_camera(20, 10, size=64)
    settings = SimulateSettings(cortex=False, scatter=0, photons=None, blur=0)
    shown = simulate(pelvis, camera, settings, 7).radiograph
    volume = voxelised(pelvis, settings, 7, 3.0)
    cast = dr.radiograph(volume, camera)
    difference = (cast.pixels[0] - log(shown)).abs()
    # Voxels of 3 mm: over a path of 5 the steps at surfaces average out; at an edge one voxel of bone stays.
    assert difference.median() < 0.02
    assert difference.quantile(0.95) < 0.12
    sides = [(volume.labels == n).nonzero()[:, 2].double().mean() for n in (1, 2)]
    assert sides[0] < sides[1]  # left has the smaller x
    for n, name in ((1, "left hip"), (4, "sacrum")):
        litres = float((volume.labels == n).sum()) * 27
        assert litres == pytest.approx(float(pelvis[name].enclosed_volume), rel=0.06)


def test_the_camera_is_the_cios(pelvis):
    camera = cios_camera(30, -10, (4.0, 5, 6), size=256)
    assert camera.source_to_detector == 1020
    assert camera.image_size == (256, 256)
    assert camera.pixel_size[0] * 256 == pytest.approx(297.98, abs=0.01)
    middle = camera.project(torch.tensor([[4.0, 5, 6]], dtype=torch.float64))[0]
    assert middle.tolist() == pytest.approx([128, 128])


def test_impossible_settings_and_single_bones_are_refused(pelvis):
    with pytest.raises(SettingError, match="scatter is a share"):
        SimulateSettings(scatter=-1)
    with pytest.raises(SettingError, match="photons is a number"):
        SimulateSettings(photons=0)
    with pytest.raises(MeshError, match="left hip, right hip and sacrum"):
        simulate([pelvis["sacrum"]], cios_camera(size=32))
