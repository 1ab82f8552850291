"""The judges judged: against interpolation by scipy at many points, by hand along rows, and against closed forms."""

import judges
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import phantoms

SHAPE = (7, 9, 11)  # (k, j, i)
SPACING = (0.9, 1.1, 1.4)  # (i, j, k) [mm]


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 2, SHAPE)


def fan(lattice, shape, n=40, distance=60.0, seed=5):
    """A source off to one side, and unit directions to `n` points in and about the lattice."""
    rng = np.random.default_rng(seed)
    middle = phantoms.point_at(lattice, shape)
    source = middle + distance * phantoms.rotation(25, 40, -30)[:, 2]
    targets = np.stack([phantoms.point_at(lattice, shape, where) for where in rng.uniform(-0.3, 1.3, (n, 3))])
    directions = targets - source
    return source, directions / np.linalg.norm(directions, axis=1, keepdims=True)


def sampled(values, lattice, source, directions, order, step, length):
    """Midpoint samples by scipy's interpolation: 0 beyond the lattice, linear to it over one voxel."""
    t = (np.arange(int(length / step)) + 0.5) * step
    points = source + t[:, None, None] * directions
    voxel_from_world = np.linalg.inv(lattice)
    ijk = points @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]
    return step * map_coordinates(values, ijk[..., ::-1].transpose(2, 0, 1), order=order, mode="grid-constant").sum(0)


def test_trilinear_integral_is_the_limit_of_fine_samples(noise):
    lattice = phantoms.oblique_lattice(SPACING, left_handed=True)
    source, directions = fan(lattice, SHAPE)
    exact = judges.trilinear_integral(noise, lattice, source, directions)
    limit = sampled(noise, lattice, source, directions, order=1, step=0.002, length=90)
    assert np.abs(limit).max() > 3
    # The midpoint rule's error at a kink is of order step**2 times its slope, about 4 per mm: 1e-5 a plane at most.
    assert np.abs(exact - limit).max() < 1e-5


def test_siddon_is_the_limit_of_fine_nearest_samples(noise):
    lattice = phantoms.oblique_lattice(SPACING)
    source, directions = fan(lattice, SHAPE)
    exact = judges.siddon(noise, lattice, source, directions)
    limit = sampled(noise, lattice, source, directions, order=0, step=0.001, length=90)
    # Each of some 25 boundaries is misplaced by up to half a step, times a jump of up to 3: 0.04 if all erred one way.
    assert np.abs(exact - limit).max() < 0.01


def test_fine_trilinear_converges_to_the_exact_integral(noise):
    lattice = phantoms.oblique_lattice(SPACING)
    source, directions = fan(lattice, SHAPE)
    exact = judges.trilinear_integral(noise, lattice, source, directions)
    coarse, fine = (
        np.abs(judges.fine_trilinear(noise, lattice, source, directions, step) - exact).max() for step in (0.2, 0.02)
    )
    assert fine < 1e-3  # step**2 times a slope of 4 per mm, at some 25 planes: at most 0.04, mostly cancelling
    assert fine < coarse / 10
    # From a source inside, the first sample counts: at its step's beginning it would be wrong by half a step.
    inside = phantoms.point_at(lattice, SHAPE, (0.61, 0.37, 0.45))
    exact = judges.trilinear_integral(noise, lattice, inside, directions)
    assert np.abs(judges.fine_trilinear(noise, lattice, inside, directions, 0.1) - exact).mean() < 0.01


@pytest.mark.parametrize("judge", [judges.trilinear_integral, judges.siddon])
def test_rays_along_each_axis_sum_a_row(noise, judge):
    lattice = phantoms.oblique_lattice(SPACING, turned=(0, 0, 0))
    for axis, row in enumerate([noise[2, 5], noise[2, :, 4], noise[:, 5, 4]]):
        index = np.array([4.0, 5.0, 2.0])
        index[axis] = -20
        source, direction = lattice[:3, :3] @ index + lattice[:3, 3], np.eye(3)[axis]
        # Exact: both interpolants have the integral of a row of boxes, or of hats, one voxel wide.
        assert judge(noise, lattice, source, direction)[0] == pytest.approx(row.sum() * SPACING[axis], abs=1e-10)
        assert judge(noise, lattice, source, -direction)[0] == 0  # the volume lies behind


def test_a_source_inside_sees_only_what_lies_before_it(noise):
    lattice = phantoms.oblique_lattice(SPACING)
    _, directions = fan(lattice, SHAPE)
    inside = phantoms.point_at(lattice, SHAPE, (0.61, 0.37, 0.45))
    for judge in (judges.trilinear_integral, judges.siddon):
        both = judge(noise, lattice, inside, directions) + judge(noise, lattice, inside, -directions)
        through = judge(noise, lattice, inside - 100 * directions[3], directions[3:4])
        assert both[3] == pytest.approx(through[0], abs=1e-10)  # rounding alone
        assert abs(both[3]) > 1


@pytest.mark.parametrize("judge", [judges.trilinear_integral, judges.siddon])
def test_rays_that_miss_are_zero_and_chunks_do_not_matter(noise, judge, monkeypatch):
    lattice = phantoms.oblique_lattice(SPACING)
    source, directions = fan(lattice, SHAPE)
    away = judge(noise, lattice, source, -directions)
    assert (away == 0).all()
    whole = judge(noise, lattice, source, directions)
    monkeypatch.setattr(judges, "CROSSINGS", 100)
    assert np.array_equal(judge(noise, lattice, source, directions), whole)


def test_directions_that_are_not_unit_are_refused(noise):
    with pytest.raises(ValueError, match="unit directions"):
        judges.siddon(noise, np.eye(4), np.zeros(3), [[0.0, 0.0, 2.0]])
