"""Turntables: where the eyes stand, and what the files hold."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import phantoms
from diffrender.display import over
from diffrender.dvr.draw import Drawing
from diffrender.dvr.pictures import read_picture
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.turntable import turn, turntable
from diffrender.errors import BackendError, OutputError, SettingError
from diffrender.volume import Volume

LOOK = TransferFunction(((-1000.0, 0.2, 0.3, 0.5), (500.0, 1.0, 0.8, 0.6)), ((-600.0, 0.0), (400.0, 0.3)))
LATTICE = phantoms.oblique_lattice(spacing=(1.3, 1.9, 2.7), left_handed=True)
SHAPE = (20, 24, 28)


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    drawn = phantoms.drawn(phantoms.ellipsoid(phantoms.point_at(LATTICE, SHAPE)), LATTICE, SHAPE)
    volume = Volume(drawn.values * 1300 - 1000, drawn.world_from_voxel)
    return Drawing(renderer("lookup", RendererSettings(transfer=LOOK)), volume)


def test_eyes_go_round_from_the_front_head_up_with_all_in_view(drawing):
    cameras = turn(drawing.volume, 8, (50, 60))
    edges = [(camera.orientation()["left"], camera.orientation()["right"]) for camera in cameras[::2]]
    assert edges == [("R", "L"), ("A", "P"), ("L", "R"), ("P", "A")]  # from before, his left, behind, his right
    assert {camera.orientation()["top"] for camera in cameras} == {"H"}
    for camera in turn(drawing.volume, 5, (50, 60), elevation=40.0):
        pixels = camera.project(drawing.volume.corners)
        assert (pixels > 0).all()
        assert (pixels < torch.tensor([50.0, 60.0])).all()
        assert camera.source[2] > drawing.volume.centre[2]


def test_a_folder_holds_straight_alpha(drawing, tmp_path):
    job = turntable(drawing, tmp_path / "turn", 3, (30, 36))
    seen = [progress.preview for progress in job]
    assert [file.name for file in job.result] == ["0000.png", "0001.png", "0002.png"]
    for file, image in zip(job.result, seen, strict=True):
        assert (read_picture(file) - image).abs().max() < 1.1 / 255  # alpha and colour rounded to 8 bits each
    with pytest.raises(OutputError, match="holds files already"):
        turntable(drawing, tmp_path / "turn", 3, (30, 36))


def test_a_gif_turns(drawing, tmp_path):
    (file,) = turntable(drawing, tmp_path / "t.gif", 4, (30, 36), background=(1.0, 0.5, 0.0), letters=False).run()
    with Image.open(file) as film:
        assert (film.n_frames, film.size, film.info["loop"], film.info["duration"]) == (4, (36, 30), 0, 1500)
        assert np.asarray(film.convert("RGB"))[0, 0] == pytest.approx([255, 128, 0], abs=2)
        first = np.asarray(film.convert("RGB")).astype(int)
        film.seek(2)
        assert np.abs(np.asarray(film.convert("RGB")).astype(int) - first).max() > 30
    (lettered,) = turntable(drawing, tmp_path / "l.gif", 1, (90, 90)).run()
    with Image.open(lettered) as film:
        assert film.size[1] > 90  # the notice below


def test_a_cancelled_turn_leaves_nothing(drawing, tmp_path):
    for name in ("turn", "t.gif"):
        job = turntable(drawing, tmp_path / name, 4, (30, 36))
        next(job)
        job.cancel()
        assert list(job) == []
        assert job.cancelled
    assert list(tmp_path.iterdir()) == []


def test_a_film_shows_the_turn(drawing, tmp_path):
    film = pytest.importorskip("imageio_ffmpeg")
    job = turntable(drawing, tmp_path / "größe 1.mp4", 6, (51, 60), background=(0.1, 0.4, 0.2), letters=False)
    seen = [progress.preview for progress in job]
    (file,) = job.result
    assert file.read_bytes()[4:8] == b"ftyp"
    reading = film.read_frames(str(file))
    assert next(reading)["fps"] == pytest.approx(1.0)  # six pictures in six seconds
    frames = [np.frombuffer(frame, np.uint8).reshape(50, 60, 3) for frame in reading]  # even: the last row is left out
    wanted = [over(image, (0.1, 0.4, 0.2))[:50].astype(float) for image in seen]
    found = np.array([[np.abs(frame - image).mean() for image in wanted] for frame in frames])
    assert len(frames) == 6
    assert found.argmin(1).tolist() == [0, 1, 2, 3, 4, 5]
    # Of 255: H.264 blurs colours, and readers differ in what its YUV is in RGB (measured 2; upside down 6).
    assert found.diagonal().max() < 3


def test_without_the_package_a_film_says_what_it_needs(drawing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(BackendError, match="pip install imageio-ffmpeg"):
        turntable(drawing, tmp_path / "t.mp4", 3)


def test_what_cannot_be_is_said(drawing, tmp_path):
    with pytest.raises(SettingError, match=r"\.mp4, \.gif, or a folder"):
        turntable(drawing, tmp_path / "t.avi")
    with pytest.raises(SettingError, match="one picture or more"):
        turn(drawing.volume, 0)
    with pytest.raises(SettingError, match="elevation"):
        turn(drawing.volume, 3, elevation=90.0)
