"""Radiographs as somebody has them: inverted ones found, photographs refused, writing tolerated, any size."""

import numpy as np
import pytest
import torch
from PIL import Image
from xray_files import write_frame

import diffrender as dr
from diffrender.errors import ImageError, Notice, PathError
from diffrender.synth.films import films_in, is_inverted, read_film, read_films


@pytest.fixture(scope="module")
def greys() -> np.ndarray:
    """A chest of the phantom, bone bright, (90, 110)."""
    patient = dr.torso((80, 48, 64), labels=False)
    camera = dr.preset("chest-pa", patient, (90, 110))
    pixels = dr.radiograph(patient, camera, dr.RadiographSettings(labels=False)).pixels[0]
    return (pixels / pixels.max()).clamp(0, 1).numpy()


def save(path, greys, mode="L"):
    image = Image.fromarray(np.rint(greys * 255).astype(np.uint8)).convert(mode)
    image.save(path)
    return path


def test_a_film_comes_as_it_is_from_0_to_1(tmp_path, greys):
    for name in ("a.png", "Röntgen b.jpg", "c.tif"):
        film = read_film(save(tmp_path / name, 0.2 + 0.6 * greys))
        assert film.values.shape == greys.shape
        assert film.inverted == ""
        assert np.abs(film.values - (greys - greys.min()) / np.ptp(greys)).mean() < 0.06  # JPEG's rings shift the range


def test_a_bright_background_is_turned_round_and_said(tmp_path, greys):
    with pytest.warns(Notice, match="bright background"):
        film = read_film(save(tmp_path / "a.png", 1 - greys))
    assert film.inverted == "detected"
    assert np.corrcoef(film.values.ravel(), greys.ravel())[0, 1] > 0.999
    assert read_film(tmp_path / "a.png", detect=False).inverted == ""


def test_only_a_bright_background_counts(greys):
    assert is_inverted(1 - greys)
    assert not is_inverted(greys)
    tight = greys[25:80, 36:70]  # no background in it: nothing can be told, so nothing is done
    assert not is_inverted(tight)
    assert not is_inverted(1 - tight)
    belly = greys.copy()
    belly[60:] = 1.0  # as bright as bare film, and of no concern
    assert not is_inverted(belly)


@pytest.mark.parametrize("said", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_says_what_is_bright(tmp_path, greys, said):
    stored = np.rint((1 - greys if said == "MONOCHROME1" else greys) * 4000).astype(np.uint16)
    path = write_frame(tmp_path / "a.dcm", stored, "DX", PhotometricInterpretation=said)
    film = read_film(path)
    assert np.corrcoef(film.values.ravel(), greys.ravel())[0, 1] > 0.999
    assert film.inverted == ("stated" if said == "MONOCHROME1" else "")


def test_a_photograph_is_refused_and_a_note_in_colour_is_not(tmp_path, greys):
    noted = np.stack([np.rint(greys * 255).astype(np.uint8)] * 3, -1)
    noted[4:10, 5:40] = (255, 220, 0)  # 2 % of the image
    Image.fromarray(noted).save(tmp_path / "noted.png")
    with pytest.warns(Notice, match="has colour in"):
        assert read_film(tmp_path / "noted.png").values.shape == greys.shape
    rows, columns = np.mgrid[0:60, 0:80]
    photo = np.stack([rows * 4, columns * 3, 255 - rows * 4], -1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    with pytest.raises(ImageError, match="colour photograph"):
        read_film(tmp_path / "photo.jpg")


def test_a_folder_gives_what_can_be_used_and_says_what_cannot(tmp_path, greys):
    save(tmp_path / "b.png", greys)
    (tmp_path / "below").mkdir()
    save(tmp_path / "below" / "a.png", greys[:50, :70], "RGB")
    save(tmp_path / "flat.png", np.full((60, 60), 0.5))
    save(tmp_path / "tiny.png", greys[40:49, 40:49])
    (tmp_path / "notes.txt").write_text("no radiograph")
    (tmp_path / "cut.png").write_bytes((tmp_path / "b.png").read_bytes()[:300])
    with pytest.warns(Notice) as said:
        films = read_films(tmp_path)
    assert [film.values.shape for film in films] == [greys.shape, (50, 70)]
    left_out = " ".join(str(one.message) for one in said)
    assert "constant" in left_out
    assert "9 x 9 px" in left_out
    assert "truncated" in left_out
    with pytest.raises(ImageError, match="constant"):
        read_films(tmp_path / "flat.png")


def test_an_empty_folder_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("no radiograph")
    with pytest.raises(PathError, match="holds no radiographs"):
        films_in(tmp_path)
    save(tmp_path / "flat.png", np.full((60, 60), 0.5))
    with pytest.warns(Notice), pytest.raises(PathError, match="None of the files"):
        read_films(tmp_path)


def test_nan_is_refused(tmp_path):
    values = torch.rand(40, 50, generator=torch.Generator().manual_seed(1)).numpy()
    values[3, 4] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="1 pixels that are NaN"):
        read_film(tmp_path / "a.tif")
