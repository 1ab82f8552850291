"""Chords through quadrics against counting points along the rays, and where the soft parts of a patient lie."""

import numpy as np
import pytest

import phantoms
from diffrender.fit.confounders import Anatomy, Quadric, length_in_any, soft_tissue, tool

SOURCE = np.array([31.0, -420.0, 55.0])
STEP = 0.05  # mm between counted points: a chord is known to that


def rays() -> np.ndarray:
    """(3, ray) unit directions that meet solids about (12, -9, 20), and some that miss them."""
    random = np.random.default_rng(4)
    aim = np.array([12.0, -9, 20])[:, None] + random.uniform(-45, 45, (3, 150)) - SOURCE[:, None]
    return aim / np.linalg.norm(aim, axis=0)


def counted(solids, directions) -> np.ndarray:
    """Length in any of the solids: points along each ray, asked one by one whether a solid holds them."""
    depth = np.arange(300.0, 560.0, STEP)
    points = SOURCE + directions.T[:, None] * depth[:, None]
    inside = np.any([solid.holds(points) for solid in solids], axis=0)
    return inside.sum(1) * STEP


def egg(centre=(12.0, -9, 20), radii=(21.0, 34, 13)) -> Quadric:
    return Quadric(np.array(centre), phantoms.rotation(14, -33, 50), radii)


SOLIDS = {
    "egg": [egg()],
    "two that overlap": [egg(), egg((25.0, 3, 10), (18, 20, 25))],
    "two inside a third": [egg(radii=(40.0, 44, 38)), egg((12.0, -20, 20), (9, 9, 9)), egg((12.0, 8, 22), (9, 9, 9))],
    "endless column": [Quadric(np.array([10.0, -5, 3]), phantoms.rotation(10, 5, 30), (14.0, 22.0, np.inf))],
    "column cut off": [
        Quadric(
            np.array([10.0, -5, 3]),
            phantoms.rotation(10, 5, 30),
            (14.0, 22.0, np.inf),
            (np.array([0.1, 0.2, 0.97]) / np.linalg.norm([0.1, 0.2, 0.97]), 15.0),
        )
    ],
}


@pytest.mark.parametrize("name", SOLIDS)
def test_lengths_are_those_counted_along_the_rays(name):
    directions = rays()
    lengths = length_in_any(SOLIDS[name], SOURCE, directions)
    expected = counted(SOLIDS[name], directions)
    assert (expected > 10).sum() >= 15  # the test looks at something
    # Each end of a chord falls between two counted points; three solids' ends at most.
    assert np.abs(lengths - expected).max() < 3 * STEP


def test_a_ray_that_misses_all_has_length_zero():
    assert length_in_any([egg((900.0, 0, 0))], SOURCE, rays()).max() == 0
    assert length_in_any([], SOURCE, rays()).tolist() == [0.0] * 150


def anatomy() -> Anatomy:
    axes = phantoms.rotation(0, 4, -6).T
    return Anatomy(np.array([[-88.0, 5, -30], [84.0, -7, -26]]), 24.0, axes, np.array([0.0, -60, 70]), axes[2], 140.0)


def test_soft_tissue_holds_the_pelvis_and_gas_lies_inside_it():
    for seed in range(5):
        body = soft_tissue(anatomy(), np.random.default_rng(seed))
        assert all(any(solid.holds(head) for solid in body.inner) for head in anatomy().heads)
        assert all(any(solid.holds(gas.centre) for solid in body.inner) for gas in body.gas)
        assert len(body.gas) > 10
        pairs = [(a.radii, b.radii) for a, b in zip(body.outer, body.inner, strict=True)]
        thickness = [p - q for one, other in pairs for p, q in zip(one, other, strict=True) if np.isfinite(p)]
        assert min(thickness) >= 10
        assert np.ptp(thickness) < 1e-9  # one fat layer all around, in mm


def test_the_same_seed_is_the_same_patient():
    one, same, other = (soft_tissue(anatomy(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one.outer[0].radii == same.outer[0].radii != other.outer[0].radii
    assert [gas.radii for gas in one.gas] == [gas.radii for gas in same.gas]


def test_a_tool_is_thin_and_lies_before_the_pelvis():
    rod = tool(anatomy(), np.random.default_rng(1))
    assert rod.radii[:2] == (2.0, 2.0)
    assert rod.radii[2] > 50
    np.testing.assert_allclose(rod.axes @ rod.axes.T, np.eye(3), atol=1e-12)
    assert (rod.centre - anatomy().origin) @ anatomy().axes[1] > 100
