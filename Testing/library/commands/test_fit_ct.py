"""`diffrender fit ct`: from a CT and a frame of it to its pose, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import diffrender as dr
from diffrender.__main__ import main
from diffrender.commands.fit import ct as command
from diffrender.errors import SettingError
from diffrender.fit.settings import SIMILARITIES
from diffrender.fit.start import Start, write_start
from diffrender.io import write_mesh
from diffrender.pose import motion

FILES = {"pose.json", "certainty.json", "report.html", "provenance.json"}


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> tuple[Path, Path]:
    """An oblique torso as a CT on disk, and a folder with two frames of it."""
    import SimpleITK

    folder = tmp_path_factory.mktemp("scan") / "Bäuche 1"
    folder.mkdir()
    volume = dr.torso((44, 28, 36), oblique=True, labels=False)
    image = SimpleITK.GetImageFromArray(volume.values.numpy().astype(np.int16))
    lattice = torch.diag(torch.tensor([-1.0, -1, 1, 1]).double()) @ volume.world_from_voxel
    spacing = lattice[:3, :3].norm(dim=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lattice[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(lattice[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(folder / "ct.nii.gz"))
    words = ["--views", "20/-8,-45", "--size", "64", "--seed", "2", "-o", str(folder / "frames")]
    assert main(["fit", "simulate", str(folder / "ct.nii.gz"), *words]) == 0
    return folder / "ct.nii.gz", folder / "frames"


@pytest.fixture
def off(scanned) -> torch.Tensor:
    """A start 9 mm and 4 degrees off, as pose.json in the working folder."""
    volume = dr.read_volume(scanned[0])
    xi = torch.tensor([6.0, -5.0, 4.0, *np.deg2rad([2.0, -3.0, 2.0])], dtype=torch.float64)
    pose = motion(xi, volume.centre.double())
    write_start(Start(pose), "start.json")
    return pose


def test_the_pose_of_a_ct_is_found(typed, open_stdin, scanned, off):
    ct, frames = scanned
    ended = typed("fit", "ct", frames, "--ct", ct, "--start", "start.json", "--size", 64, "--json", "-o", "Fit ü")
    assert ended.code == 0, ended.err
    result = ended.lines[-1]
    assert {Path(file).name for file in result["files"]} == FILES == {file.name for file in Path("Fit ü").iterdir()}
    assert result["starts"] == ["From start.json."]
    volume = dr.read_volume(ct)
    corners = volume.centre.double() + 60 * torch.tensor([[1.0, 1, -1], [-1, 1, 1], [1, -1, 1]]).double()

    def error(pose: torch.Tensor) -> float:
        return float((corners @ pose[:3, :3].T + pose[:3, 3] - corners).norm(dim=1).mean())

    pose = json.loads(Path("Fit ü/pose.json").read_text())
    assert pose["coefficients"] == []
    assert error(off) > 8
    assert error(torch.tensor(pose["world_from_model"], dtype=torch.float64)) < 1.5  # voxels of some 10 mm
    certain = json.loads(Path("Fit ü/certainty.json").read_text())
    assert certain["in_plane_mm"] == pytest.approx(result["in_plane_deviation"])
    assert "vertices_mm" not in certain  # a CT has none
    assert np.shape(certain["covariance"]) == (6, 6)
    assert "Frame 2 of 2" in Path("Fit ü/report.html").read_text(encoding="utf-8")
    record = json.loads(Path("Fit ü/provenance.json").read_text())
    assert record["settings"]["sizes"] == [32, 64]
    assert [Path(one["path"]).name for one in record["inputs"]] == ["frames", "ct.nii.gz", "start.json"]


def test_without_a_start_it_begins_where_the_ct_lies(typed, scanned):
    ct, frames = scanned
    ended = typed("fit", "ct", frames / "0001.png", "--ct", ct, "--size", 32, "-o", "fit")
    assert ended.code == 0, ended.err
    assert "Began: Where the CT lies in its own world." in ended.out
    assert "mm in depth" in ended.out


def test_bad_input_ends_with_2_and_leaves_nothing(typed, scanned, off):
    ct, frames = scanned
    off[0, 3] += 3000
    write_start(Start(off), "far.json")
    tetrahedron = dr.Mesh(torch.eye(4)[:, :3], torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]))
    write_mesh(tetrahedron, "bone.ply")
    for words, found in (
        ((frames, "--ct", "none.nii.gz"), "none.nii.gz does not exist"),
        ((frames, "--ct", "bone.ply"), "bone.ply"),
        (("none.png", "--ct", ct), "none.png does not exist"),
        ((frames, "--ct", ct, "--start", "start.json", "--search"), "give one of them"),
        ((frames, "--ct", ct, "--start", "far.json"), "CT"),
        ((frames, "--ct", ct, "--box", "10"), "--box is two numbers"),
        ((frames, "--ct", ct, "--size", "9"), "too small to see a bone"),
        ((frames, "--ct", ""), "--ct is an empty text"),
    ):
        ended = typed("fit", "ct", *words, "-o", "no")
        assert ended.code == 2, (words, ended.err)
        assert found in ended.err
        assert not Path("no").exists()


def test_a_stopped_fit_writes_nothing_and_says_so(typed, scanned):
    """With --json the end of stdin is the wish to stop."""
    ended = typed("fit", "ct", scanned[1], "--ct", scanned[0], "--json", "-o", "no")
    assert (ended.code, ended.lines[-1]["kind"]) == (130, "Stopped")
    assert not Path("no").exists()


def test_choices_are_the_librarys():
    assert {one.value for one in command.Similarity} == set(SIMILARITIES) - {"labels"}


def test_what_is_typed_reaches_the_registration(typed, scanned, off, monkeypatch):
    from diffrender.fit import ct_registration

    told = {}

    def register(radiographs, volume, settings, poses, wide):
        told.update(settings=settings, poses=poses, wide=wide)
        raise SettingError("seen")

    monkeypatch.setattr(ct_registration, "ct", register)
    words = ("fit", "ct", scanned[1], "--ct", scanned[0], "-o", "no")
    assert typed(*words, "--box", "12,4", "--start", "start.json", "--size", 64, "--seed", 3).code == 2
    settings = told["settings"]
    assert (settings.start_translation, settings.start_rotation) == (12, 4)
    assert (settings.sizes, settings.seed, settings.optimiser) == ((32, 64), 3, "levenberg")
    assert torch.allclose(told["poses"][0], off)
    assert told["wide"] is None
    assert typed(*words, "--search", "--evolution", "--similarity", "gradient-correlation").code == 2
    assert told["wide"] is not None
    assert (told["settings"].optimiser, told["settings"].similarity) == ("wide", "gradient-correlation")
    ended = typed(*words, "--series", "2")
    assert (ended.code, told["poses"]) == (2, [])
