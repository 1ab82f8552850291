"""The arithmetic of the benches of volume rendering: lattices, decibels, what counts as met. No bench is run."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import report

import phantoms
from diffrender.camera import Camera
from diffrender.dvr.renderers import RENDERERS
from diffrender.dvr.targets import PAINTED, Target
from diffrender.volume import Volume


@pytest.fixture(scope="module")
def bench():
    """A bench's module by its name, as run.py imports it: from its own folder."""
    folder = str(Path(report.__file__).parent)
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)


def ramp(shape=(9, 7, 11)) -> Volume:
    """Values that rise linearly in space, so that they tell where a voxel lies; a label in one corner."""
    world = torch.from_numpy(phantoms.oblique_lattice(spacing=(1.0, 1.4, 2.2), left_handed=True))
    k, j, i = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    points = torch.stack([i, j, k], -1) @ world[:3, :3].T + world[:3, 3]
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[4:, :3, 6:] = 7
    return Volume(height(points).float(), world, labels, {7: "hip_left"})


def height(points: torch.Tensor) -> torch.Tensor:
    return 100 * points @ torch.tensor([0.7, -1.3, 2.1], dtype=torch.float64)


@pytest.mark.parametrize("how", ["coarser", "cut"])
def test_a_volume_made_smaller_stays_where_it_was(bench, how):
    scenes, volume = bench("dvr_scenes"), ramp()
    made = scenes.coarser(volume, 4) if how == "coarser" else scenes.cut(volume, (5, 7, 4))
    assert made.shape == ((3, 3, 3) if how == "coarser" else (5, 7, 4))
    k, j, i = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in made.shape], indexing="ij")
    points = torch.stack([i, j, k], -1) @ made.world_from_voxel[:3, :3].T + made.world_from_voxel[:3, 3]
    assert (made.values - height(points)).abs().max() < 0.51  # whole HU
    assert made.labels.shape == made.values.shape
    if how == "coarser":  # a label's middle stays where it was, up to half a block
        theirs, ours = (
            (v.mask(7).nonzero().double().mean(0).flip(0) @ v.world_from_voxel[:3, :3].T + v.world_from_voxel[:3, 3])
            for v in (volume, made)
        )
        assert (theirs - ours).norm() < 4.0  # mm; a block is 3 x 4.2 x 6.6


def test_decibels_are_of_all_pixels_together(bench):
    scenes = bench("dvr_scenes")
    axes = torch.eye(4, dtype=torch.float64)
    targets, images = [], []
    for side, error in ((2, 0.1), (4, 0.3)):
        camera = Camera(axes, 10.0, (1.0, 1.0), (side, 5))
        weight = torch.ones(side, 5)
        weight[0, :3] = PAINTED
        image = torch.full((4, side, 5), 0.5)
        targets.append(Target(camera, image, weight, torch.ones(side, 5)))
        wrong = image + error
        wrong[:3, 0, :3] = 0.5 + 2 * error  # where it is painted
        images.append(wrong)
    inside = ((0.2**2 * 3) + (0.6**2 * 3)) / 6
    outside = ((0.1**2 * 7) + (0.3**2 * 17)) / 24
    expected = {True: inside, False: (inside * 6 + outside * 24) / 30}
    for within, square in expected.items():
        found = scenes.decibels(images, targets, within_paint=within)
        assert found == pytest.approx(-10 * torch.tensor(square).log10().item(), abs=1e-4)


def test_what_the_paper_counts_is_what_is_asked(bench):
    sure = bench("bench_dvr_sure")
    assert sure._meets("lookup", 1024)[1]
    assert not sure._meets("lookup", 1025)[1]
    assert not sure._meets("dvrnet", 26_000_000)[1]
    assert sure._meets("unet-s", 2_999_999)[1]
    assert not sure._meets("unet-s", 3_000_000)[1]
    assert sure._meets("clusters", 5) == ("all work", True)


def test_the_killed_trainings_have_steps_left(bench):
    sure = bench("bench_dvr_sure")
    assert min(sure.STEPS.values()) > sure.KILLS * sure.MOST_STEPS


def test_the_winner_and_the_gain_are_told(bench):
    painted, scenes = bench("bench_dvr_painted"), bench("dvr_scenes")
    found = {
        "lookup": (20.0, scenes.Spent(20.0, 39.0)),
        "clusters": (24.5, scenes.Spent(6.0, 7.0)),
        "unet-s": (22.0, scenes.Spent(60.0, 99.0)),
    }
    rows = painted._rows("4 painted views", found, 60.0, True)
    assert [row.holds for row in rows] == [True, False, False, False, None]
    assert "clusters wins" in rows[-1].measured
    assert len(painted._rows("1 painted view", found, 60.0, False)) == 1


def test_the_tables_name_renderers_that_there_are(bench):
    tables = bench("dvr_tables")
    for figures in tables.PAPER.values():
        assert set(figures) <= set(RENDERERS)
    assert set(tables.LARGE) <= set(RENDERERS)
    assert set(tables.PAPER) == set(tables._EXPERIMENTS)
    assert tables.Budget().renderers == tuple(RENDERERS)
    json.dumps(tables.asdict(tables.Budget()))
