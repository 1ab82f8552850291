"""The closed forms of the phantoms, against sums over many points; and the judges against the closed forms."""

import judges
import numpy as np
import pytest

import phantoms

LATTICE = phantoms.oblique_lattice()
SIZE = (122, 145, 182)  # (k, j, i), some 73 mm each way
CENTRE = phantoms.point_at(LATTICE, SIZE, (0.53, 0.47, 0.52))
SHAPES = {"ellipsoid": phantoms.ellipsoid(CENTRE), "box": phantoms.box(CENTRE)}


def fan(shape=(30, 24)):
    """The rays of a camera 400 mm off the phantom, which sees well beyond its outline."""
    source, directions = phantoms.oblique_camera(CENTRE, image_size=shape).rays()
    return source.numpy(), directions.reshape(-1, 3).numpy()


def along(source, directions, length=520.0, step=0.05):
    t = (np.arange(int(length / step)) + 0.5) * step
    return source + t[:, None, None] * directions, step


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_chords_are_the_share_of_points_inside(shape):
    source, directions = fan((14, 11))
    points, step = along(source, directions)
    counted = step * shape.share(points).sum(axis=0)
    chords = shape.chords(source, directions)
    assert (chords > 30).sum() > 15
    assert (chords == 0).sum() > 5
    assert np.abs(chords - counted).max() <= step  # each of the two ends is misplaced by at most half a step


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_chords_begin_at_a_source_inside(shape):
    _, directions = fan((5, 4))
    source = np.add(CENTRE, [3.0, -5.0, 4.0])
    through = shape.chords(source - 300 * directions[0], directions[:1])
    both = shape.chords(source, directions[:1]) + shape.chords(source, -directions[:1])
    assert both == pytest.approx(through, abs=1e-9)  # rounding alone
    assert shape.chords(source, directions[:1]) < through - 5


def test_gaussians_integrate_to_an_error_function():
    cloud = phantoms.smooth(CENTRE)
    for source, directions in (fan((7, 5)), (np.add(CENTRE, [4.0, 2.0, -7.0]), fan((7, 5))[1])):
        points, step = along(source, directions, length=560.0, step=0.5)
        # Midpoint sums of a Gaussian of 9 mm are exact to 1e-9; one cut off at the source errs by step**2 / 24 of its
        # slope there (0.002 per mm): 2e-5.
        assert cloud.integrals(source, directions) == pytest.approx(step * cloud.density(points).sum(0), abs=3e-5)
    assert np.abs(cloud.integrals(*fan((7, 5)))).max() > 0.3


def test_drawn_volume_holds_the_volume_of_the_shape():
    cell = abs(np.linalg.det(LATTICE[:3, :3]))
    # 64 points a voxel place each surface voxel's share to a few hundredths; over some 10 000 of them that is 1e-4.
    ellipsoid = phantoms.drawn(SHAPES["ellipsoid"], LATTICE, SIZE).values.double().sum() * cell
    assert ellipsoid == pytest.approx(4 / 3 * np.pi * 33 * 25 * 21, rel=1e-3)
    box = phantoms.drawn(SHAPES["box"], LATTICE, SIZE, value=0.02).values.double().sum() * cell
    assert box == pytest.approx(0.02 * 40 * 32 * 46, rel=1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_judges_find_the_chords(name):
    shape, (source, directions) = SHAPES[name], fan()
    chords = shape.chords(source, directions)
    values = phantoms.drawn(shape, LATTICE, SIZE).values.numpy()
    # The figure. An edge soft by a voxel of 0.5 mm rounds the chord off by a fifth of a voxel times the change
    # of its slope: up to 2.5 where a ray passes an edge of the box. Hence voxels so small, and a view along no face.
    # Siddon's edges are steps: at each end of a chord half the diagonal of a voxel, 0.44 mm, at most.
    for judge, tolerance in ((judges.trilinear_integral, 0.3), (judges.siddon, 0.88)):
        path = judge(values, LATTICE, source, directions)
        long, miss = chords > 30, path == 0
        assert long.sum() > 60
        assert np.abs(path - chords)[long].max() < tolerance
        assert miss.sum() > 60
        assert chords[miss].max() == 0


def test_trilinear_integral_of_a_smooth_cloud_is_its_closed_form():
    lattice = phantoms.oblique_lattice(spacing=(1.2, 1.5, 1.9), origin=(-90.0, -80.0, -95.0))
    size = (110, 120, 130)
    centre = phantoms.point_at(lattice, size)
    cloud, (source, directions) = phantoms.smooth(centre, scale=0.8), fan()
    source = source + centre - CENTRE
    path = judges.trilinear_integral(phantoms.drawn(cloud, lattice, size).values, lattice, source, directions)
    exact = cloud.integrals(source, directions)
    error = np.linalg.norm(path - exact) / np.linalg.norm(exact)
    # Linear interpolation widens each Gaussian by h**2 / 6 in variance: for 1.9 mm against 7 mm, 0.6 % of its height.
    assert error < 0.01
