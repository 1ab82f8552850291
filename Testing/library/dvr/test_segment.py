"""Segmentation from painted views, against labels that nobody showed it; and labels in files."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

import phantoms
from diffrender.dvr.model import load_model, save_model
from diffrender.dvr.painting import paint_from_labels
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.segment import segment, segmenting, votes_of
from diffrender.dvr.segmenter import Segmenter, holds_segmenter, load_segmenter, save_segmenter, visible_in
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import Role, render_views
from diffrender.errors import LabelError, OutputError, PathError, SettingError
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


# Label, place of the middle (k, j, i) and radius in voxels, HU.
BALLS = ((3, (9, 10, 8), 5, 150), (4, (13, 9, 24), 6, 150), (9, (14, 20, 15), 5, 330))


def patient(balls, lattice: np.ndarray, seed: int, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """Two balls of one density, so that place alone tells them apart, and a denser third."""
    k, j, i = torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij")
    labels, values = torch.zeros(shape, dtype=torch.uint8), torch.full(shape, -50.0)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for label, (z, y, x), radius, hu in balls:
        ball = ((k - z) ** 2 + (j - y) ** 2 + (i - x) ** 2) < radius**2
        labels[ball], values[ball] = label, hu
    return Volume((values + 8 * noise).to(torch.int16), torch.from_numpy(lattice), labels, {3: "a", 4: "b", 9: "c"})


@pytest.fixture(scope="module")
def volume() -> Volume:
    return patient(BALLS, LATTICE, 0)


@pytest.fixture(scope="module")
def views(volume):
    return paint_from_labels(render_views(volume, LOOK, orbit(volume, 4, (48, 48))), volume, ROLES)


@pytest.fixture(scope="module")
def taught(volume, views) -> tuple[Volume, Segmenter]:
    bare = replace(volume, labels=None, names=None)
    return segmenting(renderer("lookup", RendererSettings(transfer=LOOK)), views, bare).run()


@pytest.fixture
def found(taught) -> Volume:
    return taught[0]


def dice(found: Volume, truth: Volume, label: int) -> float:
    visible = truth.values > 20
    ours, theirs = (found.labels == label) & visible, (truth.labels == label) & visible
    return float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))


def test_visible_voxels_get_the_paint_of_their_pixels(volume, found):
    assert found.names == {3: "left one", 9: "denser"}
    for label in (3, 9):
        # Measured 0.99; the ball that nobody painted looks as the first does and must not be taken for it.
        assert dice(found, volume, label) > 0.93
    assert not (found.labels[(volume.values <= 20) & (volume.values < 0)] > 0).any()
    assert volume.names[3] == "a"


def test_what_one_ct_has_taught_labels_another(taught, tmp_path):
    """Another patient: elsewhere in the world, in voxels of other edges and another order, each ball somewhat aside."""
    turned = phantoms.oblique_lattice(spacing=(2.6, 2.1, 2.8), left_handed=True)[:, [2, 1, 0, 3]]
    turned[:3, 3] += (40.0, -25.0, 300.0)  # i and k have changed places
    aside = (((8, 11, 8), 5), ((24, 10, 13), 6), ((16, 20, 15), 6))
    balls = [(label, place, radius, hu) for (label, *_, hu), (place, radius) in zip(BALLS, aside, strict=True)]
    other = patient(balls, turned, 1, (32, 28, 25))
    segmenter = load_segmenter(save_segmenter(tmp_path / "größe.safetensors", taught[1]))
    assert holds_segmenter(tmp_path / "größe.safetensors")
    found = segmenter.label(replace(other, labels=None, names=None))
    assert found.names == {3: "left one", 9: "denser"}
    # Measured 0.999 and 0.942: the denser ball is larger here than the one that was learned from.
    assert min(dice(found, other, label) for label in (3, 9)) > 0.92
    assert not found.labels[found.values < -20].any()
    brighter = replace(other, values=other.values + 180)  # the ball 3 is now as dense as 9 was: HU are no contrast
    assert dice(segmenter.label(brighter), brighter, 3) < 0.5


def test_a_file_of_what_was_learned_says_what_is_wrong_with_it(taught, volume, tmp_path):
    file = save_segmenter(tmp_path / "s.safetensors", taught[1])
    again = load_segmenter(file)
    assert torch.equal(again.label(volume).labels, taught[0].labels)
    (tmp_path / "short.safetensors").write_bytes(file.read_bytes()[:-9])
    with pytest.raises(PathError, match="or not all of one"):
        load_segmenter(tmp_path / "short.safetensors")
    model = save_model(tmp_path / "m.safetensors", taught[1].renderer)
    assert not holds_segmenter(model)
    with pytest.raises(PathError, match="does not say that they are a segmenter of CTs"):
        load_segmenter(model)
    with pytest.raises(PathError, match="does not say that they are a renderer"):
        load_model(file)
    (tmp_path / "later.safetensors").write_bytes(file.read_bytes().replace(rb"{\"format\": 1", rb"{\"format\": 9"))
    with pytest.raises(PathError, match="of format 9"):
        load_segmenter(tmp_path / "later.safetensors")
    with pytest.raises(SettingError, match="shows nothing of"):
        again.label(replace(volume, values=torch.full(SHAPE, -900.0)))


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


def test_threads_are_as_they_were_and_the_labels_do_not_depend_on_them(volume, views, found):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = segment(renderer("lookup", RendererSettings(transfer=LOOK)), views, volume)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(again.labels, found.labels)


def test_what_a_person_sees_is_visible():
    hu = torch.tensor([-1000.0, 0.5, 2.0, 500.0])  # extinction, by LOOK: 0, 0.001, 0.004, 0.357 a mm
    kappa, visible = visible_in(
        renderer("lookup", RendererSettings(transfer=LOOK, bins=8192)),
        Volume(hu.expand(2, 3, 4).clone(), torch.from_numpy(LATTICE)),
    )
    assert kappa[1, 2].tolist() == pytest.approx([0.0, 0.001, 0.004, 0.3567], abs=2e-4)
    assert visible[1, 2].tolist() == [False, False, True, True]


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
