"""Segmentation from painted views, against labels that nobody showed it; and labels in files."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

import phantoms
from diffrender.dvr.painting import paint_from_labels
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.segment import segment, segmenting, votes_of
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import Role, render_views
from diffrender.errors import LabelError, OutputError
from diffrender.io import read_volume
from diffrender.io.labels import read_labels
from diffrender.io.labels_out import write_labels
from diffrender.rays.march import march_weights
from diffrender.views import orbit
from diffrender.volume import Volume

LATTICE = phantoms.oblique_lattice(spacing=(2.0, 2.4, 3.0), left_handed=True)
SHAPE = (24, 28, 32)
LOOK = TransferFunction(((-1000.0, 0.5, 0.5, 0.5), (500.0, 1.0, 0.8, 0.6)), ((0.0, 0.0), (100.0, 0.2), (500.0, 0.3)))
ROLES = {3: Role("left one", "recolour", (1.0, 0.0, 0.0)), 9: Role("denser", "keep")}


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Two balls of one density, so that place alone tells them apart, and a denser third."""
    k, j, i = torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij")
    labels, values = torch.zeros(SHAPE, dtype=torch.uint8), torch.full(SHAPE, -50.0)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for label, (z, y, x), radius, hu in ((3, (9, 10, 8), 5, 150), (4, (13, 9, 24), 6, 150), (9, (14, 20, 15), 5, 330)):
        ball = ((k - z) ** 2 + (j - y) ** 2 + (i - x) ** 2) < radius**2
        labels[ball], values[ball] = label, hu
    return Volume((values + 8 * noise).to(torch.int16), torch.from_numpy(LATTICE), labels, {3: "a", 4: "b", 9: "c"})


@pytest.fixture(scope="module")
def views(volume):
    return paint_from_labels(render_views(volume, LOOK, orbit(volume, 4, (48, 48))), volume, ROLES)


@pytest.fixture(scope="module")
def found(volume, views) -> Volume:
    bare = replace(volume, labels=None, names=None)
    return segment(renderer("lookup", RendererSettings(transfer=LOOK)), views, bare)


def test_visible_voxels_get_the_paint_of_their_pixels(volume, found):
    assert found.names == {3: "left one", 9: "denser"}
    visible = volume.values > 20
    for label in (3, 9):
        ours, truth = (found.labels == label) & visible, (volume.labels == label) & visible
        # Measured 0.99; the ball that nobody painted looks as the first does and must not be taken for it.
        assert 2 * (ours & truth).sum() / (ours.sum() + truth.sum()) > 0.93
    assert not (found.labels[~visible & (volume.values < 0)] > 0).any()
    assert volume.names[3] == "a"


def test_votes_are_what_voxels_count_in_the_pixels_of_a_paint(volume, views):
    kappa = LOOK.at(volume.values.float())[..., 3]
    view = views.views[1]
    votes = votes_of(kappa, volume.world_from_voxel, view, [3, 9])
    ids = torch.zeros(SHAPE, dtype=torch.int32)
    ids[volume.labels == 3] = 1
    weights = march_weights(ids, kappa, 2, volume.world_from_voxel, view.camera)
    for place, paint in enumerate((0, 3, 9)):
        expected = weights[1][view.paint == paint].sum()
        assert float(votes[place][ids == 1].sum()) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)


def test_the_same_twice_and_cancelled_between(volume, views, found):
    made = renderer("lookup", RendererSettings(transfer=LOOK))
    assert torch.equal(segment(made, views, volume).labels, found.labels)
    job = segmenting(made, views, volume)
    next(job)
    job.cancel()
    assert list(job) == []


def test_without_paint_there_is_nothing_to_segment(volume, views):
    made = renderer("lookup", RendererSettings(transfer=LOOK))
    bare = replace(views, views=tuple(replace(view, paint=None) for view in views.views))
    with pytest.raises(LabelError, match="nothing to segment"):
        segment(made, bare, volume)
    ignored = replace(views, roles={n: Role("not this", "ignore") for n in ROLES})
    with pytest.raises(LabelError, match="nothing to segment"):
        segment(made, ignored, volume)


@pytest.mark.parametrize("name", ["s.seg.nrrd", "s.nii.gz"])
def test_labels_come_back_from_a_file(volume, tmp_path, name):
    path = write_labels(tmp_path / name, volume)
    labels, names = read_labels(path, volume)
    assert torch.equal(labels.to(torch.uint8), volume.labels)
    if name.endswith(".seg.nrrd"):
        assert names == {3: "a", 4: "b", 9: "c"}
        fields = sitk.ReadImage(str(path))
        assert fields.GetMetaData("Segment0_Extent") == "4 12 6 14 5 13"
    lattice = read_volume(path).world_from_voxel.numpy()
    assert np.abs(lattice - LATTICE).max() < 1e-4  # NIfTI holds single precision


def test_labels_that_a_file_cannot_hold_are_refused(volume, tmp_path):
    with pytest.raises(OutputError, match=r"\.seg\.nrrd"):
        write_labels(tmp_path / "s.png", volume)
    with pytest.raises(LabelError, match="one label a voxel"):
        write_labels(tmp_path / "s.nii.gz", replace(volume, labels=None, names=None))
