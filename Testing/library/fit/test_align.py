"""Rigid alignment against motions that are known, and closest points against every triangle."""

import numpy as np
import pytest
import surfaces

import phantoms
from diffrender.fit.align import moved, procrustes, rigid
from diffrender.fit.mirror import closest_points

MESH = surfaces.of_ellipsoid(
    phantoms.Ellipsoid(np.array([12.0, -7.0, 30.0]), (40.0, 28.0, 33.0), phantoms.rotation(31, -14, 52)), 2
)
POINTS, FACES = MESH.vertices.double().numpy(), MESH.faces.numpy()
MOTION = np.eye(4)
MOTION[:3, :3] = phantoms.rotation(140, -20, 75)
MOTION[:3, 3] = [100.0, -300.0, 40.0]


def test_a_known_motion_is_found():
    assert np.allclose(rigid(POINTS, moved(POINTS, MOTION)), MOTION, atol=1e-9)


def test_weights_leave_points_out():
    spoilt = moved(POINTS, MOTION)
    spoilt[::3] += 50.0
    weights = np.ones(len(POINTS))
    weights[::3] = 0.0
    assert np.allclose(rigid(POINTS, spoilt, weights), MOTION, atol=1e-9)


def test_it_never_mirrors():
    lopsided = POINTS + 0.01 * (POINTS - POINTS.mean(0)) ** 2
    assert np.linalg.det(rigid(lopsided, lopsided * [-1, 1, 1])[:3, :3]) == pytest.approx(1)


def test_shapes_come_together_and_keep_their_size():
    random = np.random.default_rng(3)
    sizes = [0.9, 1.0, 1.15, 1.05]
    shapes = np.stack(
        [POINTS * s @ phantoms.rotation(*random.uniform(-50, 50, 3)).T + random.uniform(-99, 99, 3) for s in sizes]
    )
    together = procrustes(shapes)
    spans = np.linalg.norm(together - together.mean(1, keepdims=True), axis=2).mean(1)
    assert np.allclose(spans / spans[1], sizes)
    middle = together - together.mean((0, 1))
    assert np.allclose(middle / np.array(sizes)[:, None, None], middle[1], atol=1e-6)


def test_closest_points_are_closest():
    random = np.random.default_rng(4)
    places = POINTS[::5] * random.uniform(0.8, 1.2, (len(POINTS[::5]), 1)) + random.normal(0, 2, (len(POINTS[::5]), 3))
    corners, weights, found = closest_points(places, POINTS, FACES)
    assert np.allclose(np.einsum("nc,ncx->nx", weights, POINTS[corners]), found)
    assert weights.min() >= 0
    assert np.allclose(weights.sum(1), 1)
    # The judge: barycentric places 1/40 apart on every triangle.
    steps = np.array([(a, b, 40 - a - b) for a in range(41) for b in range(41 - a)]) / 40
    cloud = np.einsum("sc,fcx->fsx", steps, POINTS[FACES]).reshape(-1, 3)
    for place, here in zip(places, found, strict=True):
        # A step is 0.4 mm at most.
        assert np.linalg.norm(here - place) <= np.linalg.norm(cloud - place, axis=1).min() + 1e-9
        assert np.linalg.norm(cloud - here, axis=1).min() < 0.4
