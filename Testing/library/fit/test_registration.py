"""A shape model fitted to frames of a body drawn from it, on the small parametric pelvis: pose, shape, certainty,
and what is said where it cannot be."""

from dataclasses import replace

import pytest
import torch

import diffrender as dr
from diffrender.errors import GeometryError, ImageError, LabelError, Notice, SettingError
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.registration import pelvis
from diffrender.fit.scene import POSE, scene_of
from diffrender.fit.settings import FitSettings
from diffrender.fit.start import Start, start_at_isocentre
from diffrender.pose import pose_between

QUICK = FitSettings(sizes=(24, 48), steps=12)
XI = torch.tensor([5.0, -4.0, 6.0, 0.05, -0.04, 0.03], dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    return default_pelvis()


def cameras(*angles):
    return [dr.c_arm((0, 0, 0), a, 4, image_size=(56, 60), pixel_size=(6.5, 6.0)) for a in angles]


def placed(model, pose, coefficients=None):
    body = model.mesh(coefficients)
    return dr.Mesh(body.vertices @ pose[:3, :3].T.to(body.vertices) + pose[:3, 3].to(body.vertices), body.faces)


@pytest.fixture(scope="module")
def truth(model):
    """A body, moved from the start, and the start."""
    start = start_at_isocentre(cameras(0)[0], model).world_from_model
    coefficients = torch.zeros(len(model.modes))
    coefficients[:4] = torch.tensor([1.0, -1.2, 0.8, 0.6])
    return dr.moved(placed(model, start, coefficients), XI), start


def frames(mesh, views, sign=1.0):
    """Bones in a slab whose thickness varies smoothly."""
    made = []
    for camera in views:
        lengths = dr.path_lengths(mesh, camera)
        rows = torch.linspace(0, 1, camera.image_size[0])[:, None]
        made.append(dr.Radiograph(sign * (0.02 * lengths + 2 + rows.square())[None], "log-attenuation", camera))
    return made


def off(fit, mesh):
    return float((fit.mesh.vertices - mesh.vertices).norm(dim=1).mean())


@pytest.mark.parametrize("apart", [False, True])
def test_the_jacobian_of_the_scene_is_that_of_finite_differences(model, truth, apart):
    settings = FitSettings(similarity="labels" if apart else "correlation", view_translation=1.0, view_rotation=1.0)
    exact = replace(model, mean=model.mean.double(), modes=model.modes.double())
    scene = scene_of(exact, truth[1], settings, 2)
    random = torch.Generator().manual_seed(2)
    x = 0.02 * torch.randn(scene.size, generator=random, dtype=torch.float64)
    direction = torch.randn(scene.size, generator=random, dtype=torch.float64) * 3e-4
    direction[POSE : POSE + scene.modes] *= 10
    camera = cameras(0, 50)[1]
    _, j = scene.pictures_and_rates(x, camera, 1)
    there, back = (scene.pictures(x + sign * 0.5 * direction, camera, 1) for sign in (1, -1))
    moved, expected = (j.double() @ direction)[0], (there - back)[0].double()
    # Rims, and faces that a ray grazes, jump within a step; most pixels do not.
    used = expected.abs() > 1e-3 * expected.abs().max()
    allowed = 0.03 * expected.abs() + 1e-3 * expected.abs().max()
    assert ((moved - expected).abs() < allowed)[used].double().mean() > 0.95
    assert int(used.sum()) > 300


def test_two_views_find_shape_and_pose(model, truth):
    mesh, start = truth
    fit = pelvis(frames(mesh, cameras(0, 52)), model, QUICK, Start(start)).run()
    before = float((placed(model, start).vertices - mesh.vertices).norm(dim=1).mean())
    assert before > 8
    assert off(fit, mesh) < 2.5  # pixels are 4.3 mm at the patient
    assert fit.outcome in ("converged", "step limit")
    assert len(fit.history) > 1
    assert len(fit.frames) == 2
    assert fit.frames[0].outline.shape == (3, *fit.frames[0].shown.shape)


def test_one_view_states_that_depth_is_what_it_does_not_see(model, truth):
    mesh, start = truth
    fit = pelvis(frames(mesh, cameras(0)), model, QUICK, Start(start)).run()
    stated = fit.certainty
    assert stated.depth > 3 * stated.in_plane
    assert stated.covariance.shape == (POSE + len(model.modes) + 3,) * 2
    assert stated.vertices.shape == mesh.vertices.shape
    assert (stated.vertices.double() >= model.unexplained.double()[:, None] - 1e-6).all()
    assert set(stated.landmarks) == set(model.landmarks_at)


def test_a_frozen_shape_leaves_the_pose(model, truth):
    start = truth[1]
    mesh = dr.moved(placed(model, start), XI)
    settings = replace(QUICK, shape=False, turn=False, start_translation=0.0, start_rotation=0.0)
    fit = pelvis(frames(mesh, cameras(0, 52)), model, settings, Start(start)).run()
    assert not fit.coefficients.any()
    assert not fit.turn.any()
    assert off(fit, mesh) < 1.5  # a third of a pixel at the patient; the frame is of solid bone, the model has a shell


def test_a_frozen_pose_stays(model, truth):
    mesh, start = truth
    true = pose_of(start)
    fit = pelvis(frames(mesh, cameras(0)), model, replace(QUICK, pose=False), Start(true)).run()
    assert pose_between(true, fit.world_from_model).abs().max() < 1e-9
    assert off(fit, mesh) < 2.0


def pose_of(start):
    from diffrender.pose import motion

    # the mesh turned about its own middle: found again from two meshes' vertices would be circular
    model = default_pelvis()
    coefficients = torch.zeros(len(model.modes))
    coefficients[:4] = torch.tensor([1.0, -1.2, 0.8, 0.6])
    return motion(XI, placed(model, start, coefficients).centre) @ start


def test_labels_are_fitted_part_by_part(model, truth):
    mesh, start = truth
    from diffrender.fit.overlay import parts_of

    made = []
    for camera in cameras(0, 52):
        masks = torch.stack([dr.path_lengths(part, camera) > 0 for part in parts_of(mesh, model.parts).values()])
        names = dict(enumerate((name for name, _ in model.parts), 1))
        lengths = masks.float()
        made.append(dr.Radiograph(torch.rand(1, 56, 60), "intensity", camera, lengths, masks, (1, 2, 3), names))
    fit = pelvis(made, model, replace(QUICK, similarity="labels"), Start(start)).run()
    assert off(fit, mesh) < 4.0
    with pytest.raises(LabelError, match="mask of left hip"):
        pelvis(frames(mesh, cameras(0)), model, replace(QUICK, similarity="labels"), Start(start))


def test_an_inverted_frame_is_seen_and_said(model, truth):
    mesh, start = truth
    with pytest.warns(Notice, match="taken as inverted"):
        fit = pelvis(frames(mesh, cameras(0, 52), sign=-1.0), model, QUICK, Start(start)).run()
    assert off(fit, mesh) < 4.0


def test_a_job_tells_how_far_it_is_and_can_be_stopped(model, truth):
    job = pelvis(frames(truth[0], cameras(0)), model, QUICK, Start(truth[1]))
    next(job)  # the poses in the box
    first = next(job)
    assert first.preview.shape[0] == 3
    assert first.done == 0
    job.cancel()
    assert list(job) == []
    assert job.cancelled


def test_one_thread_or_two_make_no_difference(model, truth):
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        job = pelvis(frames(truth[0], cameras(0)), model, replace(QUICK, sizes=(24,), steps=6), Start(truth[1]))
        found.append(job.run().mesh.vertices)
    torch.set_num_threads(before)
    assert (found[0] - found[1]).abs().max() < 0.1


def test_what_cannot_be_fitted_is_refused(model, truth):
    mesh, start = truth
    made = frames(mesh, cameras(0))
    with pytest.raises(SettingError, match="at least one radiograph"):
        pelvis([], model)
    away = start.clone()
    away[0, 3] += 400
    with pytest.raises(GeometryError, match="of the model project into the frame"):
        pelvis(made, model, QUICK, Start(away))
    flat = replace(made[0], pixels=torch.full_like(made[0].pixels, 3.0))
    with pytest.raises(ImageError, match="one value"):
        pelvis([flat], model, QUICK, Start(start))
    with pytest.raises(SettingError, match="belongs to another model"):
        pelvis(made, model, QUICK, Start(start, torch.zeros(len(model.modes) + 1)))
