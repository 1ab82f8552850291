"""Contours found again in a frame: by how much, in oblong pixels, and what that does to a start far off."""

import math

import pytest
import torch

import diffrender as dr
from diffrender.fit.frames import frame_of, pyramid
from diffrender.fit.matching import ROUNDS, _found, matched, matches_in
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.problem import free_of, prior_of
from diffrender.fit.scene import scene_of
from diffrender.fit.settings import FitSettings
from diffrender.fit.start import start_at_isocentre
from diffrender.mesh import Mesh

SETTINGS = FitSettings(sizes=(48, 96))


@pytest.fixture(autouse=True)
def one_thread():
    """As in a fit: two would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    return default_pelvis()


@pytest.fixture(scope="module")
def camera():
    return dr.c_arm((4, -3, 6), 17, -8, image_size=(88, 100), pixel_size=(3.9, 3.3))


def scene_at(model, camera):
    start = start_at_isocentre(camera, model).world_from_model
    return scene_of(model, start, SETTINGS, 1)


def frame_with(scene, camera, xi, coefficients=None):
    """What the camera sees of the model moved by xi from the scene's start, on a slope of soft tissue."""
    x = torch.zeros(scene.size, dtype=torch.float64)
    x[:6] = xi
    if coefficients is not None:
        x[6 : 6 + len(coefficients)] = coefficients
    mesh = scene.mesh(x)
    lengths = dr.path_lengths(mesh, camera)
    slope = torch.linspace(0, 1.5, camera.image_size[0])[:, None]
    return dr.Radiograph((0.02 * lengths + slope)[None], "log-attenuation", camera), mesh


def test_patches_are_found_where_they_were_put():
    random = torch.Generator().manual_seed(0)
    image = torch.randn(60, 70, generator=random).double()
    image = torch.nn.functional.avg_pool2d(image[None], 3, 1, 1)[0]
    moved = torch.roll(image, (3, -2), (0, 1))
    at = torch.tensor([[20, 30], [35, 41], [28, 22]])
    shift, alike = _found(image, moved, at, (6, 5), (4, 3))
    assert torch.equal(shift, torch.tensor([[3.0, -2.0]] * 3).double())
    assert alike.min() > 0.85  # 1, less what keeps flat places from correlating


def test_contours_lie_as_far_off_as_the_body_was_moved(model, camera):
    """A shift along the image's columns, in mm on the image plane: the body's, magnified."""
    scene = scene_at(model, camera)
    shift = 7.0 * camera.world_from_camera[:3, 0]
    radiograph, _ = frame_with(scene, camera, torch.cat([shift, torch.zeros(3).double()]))
    frame = frame_of(radiograph, 100, SETTINGS)
    x = torch.zeros(scene.size, dtype=torch.float64)
    found = matches_in(scene, x, 0, frame, ROUNDS[0], torch.Generator().manual_seed(1))
    sideways = found.normals[:, 1].abs() > 0.9
    depth = float((scene.centre - camera.source) @ camera.direction)
    expected = 7.0 * camera.source_to_detector / depth
    got = (found.moved / found.normals[:, 1])[sideways & (found.alike > 0.6)].median()
    assert len(found.vertices) > 100
    assert float(got) == pytest.approx(expected, abs=2.0)  # half a pixel of 3.3 mm, and the body's depth


def test_normals_on_the_image_are_those_of_the_body(model, camera):
    """A vertex that steps along its normal steps along the normal on the image: rows and columns are told apart."""
    from diffrender.fit.scene import vertex_normals

    scene = scene_at(model, camera)
    radiograph, _ = frame_with(scene, camera, torch.zeros(6).double())
    frame = frame_of(radiograph, 100, SETTINGS)
    x = torch.zeros(scene.size, dtype=torch.float64)
    found = matches_in(scene, x, 0, frame, ROUNDS[0], torch.Generator().manual_seed(1))
    vertices = scene.mesh(x).vertices.double()
    outward = vertex_normals(vertices, scene.model.faces)[found.vertices]
    here, there = (frame.camera.project(vertices[found.vertices] + step * outward) for step in (0.0, 0.5))
    moved = (there - here) * torch.tensor(frame.camera.pixel_size).double()
    cosine = (torch.nn.functional.normalize(moved, dim=1) * found.normals).sum(1)
    assert cosine.min() > 0.95  # the beam is not quite along the camera's axis


def test_rates_on_the_image_are_those_of_finite_differences(model, camera):
    from diffrender.fit.matching import _image_rates

    scene = scene_at(model, camera)
    radiograph, _ = frame_with(scene, camera, torch.zeros(6).double())
    frame = frame_of(radiograph, 100, SETTINGS)
    x = 0.3 * torch.randn(scene.size, generator=torch.Generator().manual_seed(2)).double()
    x[3:6] *= 0.1
    x[-3:] *= 0.05
    found = matches_in(scene, x, 0, frame, ROUNDS[0], torch.Generator().manual_seed(1))
    rates = _image_rates(scene, x, frame, found)

    def along(y):
        at = frame.camera.project(scene.mesh(y).vertices[found.vertices].double())
        return ((at * torch.tensor(frame.camera.pixel_size).double()) * found.normals).sum(1)

    for n in (0, 2, 4, 5, 6, 9, scene.size - 2):
        step = torch.zeros(scene.size, dtype=torch.float64)
        step[n] = 0.05 if n < 3 or n >= 6 else 0.005
        numeric = (along(x + step) - along(x - step)) / (2 * float(step[n]))
        assert torch.allclose(rates[n], numeric, atol=0.02 * float(numeric.abs().max()) + 1e-3), n


def test_a_start_a_centimetre_off_comes_near(model, camera):
    scene = scene_at(model, camera)
    xi = torch.tensor([9.0, -4.0, -8.0, *(math.radians(n) for n in (3.0, -4.0, 4.0))]).double()
    radiograph, mesh = frame_with(scene, camera, xi, torch.tensor([0.8, -0.7, 0.5]))
    levels = [[frame] for frame in pyramid(radiograph, SETTINGS)]
    x = torch.zeros(scene.size, dtype=torch.float64)
    precision, free = prior_of(scene, camera, SETTINGS), free_of(scene, SETTINGS)
    near = matched(scene, x, levels, precision, free)
    before, after = (float((scene.mesh(y).vertices - mesh.vertices).norm(dim=1).mean()) for y in (x, near))
    assert before > 12
    assert after < 0.5 * before  # of 14.5 mm; depth and what one view does not show of the shape stay
    across = scene.mesh(near).centre - mesh.centre
    across = across - (across @ camera.direction) * camera.direction
    assert float(across.norm()) < 2.0  # what is left is depth


def test_what_is_held_does_not_move(model, camera):
    scene = scene_at(model, camera)
    radiograph, _ = frame_with(scene, camera, torch.tensor([6.0, 0, 5.0, 0, 0.05, 0]).double())
    levels = [[frame] for frame in pyramid(radiograph, SETTINGS)]
    held = FitSettings(sizes=(48, 96), shape=False, turn=False)
    x = torch.zeros(scene.size, dtype=torch.float64)
    near = matched(scene, x, levels, prior_of(scene, camera, held), free_of(scene, held))
    assert not bool(near[6:].any())
    assert bool(near[:6].abs().sum() > 1)


def test_a_frame_without_the_body_moves_it_little(model, camera):
    """Noise has no contours: the prior holds."""
    scene = scene_at(model, camera)
    noise = torch.randn(1, 88, 100, generator=torch.Generator().manual_seed(5))
    levels = [[frame] for frame in pyramid(dr.Radiograph(noise, "log-attenuation", camera), SETTINGS)]
    x = torch.zeros(scene.size, dtype=torch.float64)
    near = matched(scene, x, levels, prior_of(scene, camera, SETTINGS), free_of(scene, SETTINGS))
    mesh = scene.mesh(near)
    assert isinstance(mesh, Mesh)
    assert float(near[:3].norm()) < 10  # the box's half-width
