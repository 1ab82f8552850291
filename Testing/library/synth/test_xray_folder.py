"""Radiographs of a folder: sizes, proportions, bone dark, annotations, photographs, folders with nothing to learn."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from xray_files import write_frame

from diffrender.errors import Notice, PathError
from diffrender.synth.xray_folder import bone_dark, read_xrays

SIZE = (32, 48)


def chest(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """Bright spine and belly, dark lungs, darker air beside the neck; lopsided, and each a little different."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    x, y = x + draw.normal(0, 0.02), y + draw.normal(0, 0.02)
    body = 0.15 + 0.5 * (np.abs(x - 0.5) < 0.14 + 0.5 * y)
    lungs = sum(np.exp(-(((x - c) / 0.12) ** 2) - ((y - 0.5) / 0.25) ** 2) for c in (0.28, 0.7))
    greys = body + 0.3 * np.exp(-(((x - 0.52) / 0.07) ** 2)) + 0.25 * (y > 0.8) - 0.4 * lungs
    return np.clip(greys + draw.normal(0, 0.01, greys.shape), 0.02, 1.0)


def write(path: Path, greys: np.ndarray) -> Path:
    Image.fromarray((255 * greys).astype(np.uint8)).save(path)
    return path


def folder(path: Path, count: int = 4, inverted: tuple[int, ...] = ()) -> Path:
    for n in range(count):
        greys = chest(n, 60 + 20 * n, 150 - 15 * n)
        write(path / f"{n}.png", 1 - greys if n in inverted else greys)
    return path


def test_pictures_of_all_sizes_and_kinds_become_one_stack(tmp_path):
    folder(tmp_path)
    Image.fromarray((255 * chest(7)).astype(np.uint8)).save(tmp_path / "x.jpg")
    (tmp_path / "deeper").mkdir()
    numbers = (4095 * chest(8)).astype(np.uint16)
    write_frame(tmp_path / "deeper" / "y.dcm", 4095 - numbers, "DX", PhotometricInterpretation="MONOCHROME1")
    (tmp_path / "readme.txt").write_text("no picture")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        found = read_xrays(tmp_path, SIZE)
    assert found.pictures.shape == (6, 1, *SIZE)
    assert sorted(found.names) == ["0.png", "1.png", "2.png", "3.png", "x.jpg", "y.dcm"]
    assert found.pictures.min() >= 0
    assert found.pictures.max() <= 1
    first = found.pictures[found.names.index("y.dcm"), 0]
    assert first[2:6, 2:6].mean() < first[12:20, 22:28].mean()  # marked: turned round as it says


def test_proportions_are_kept_and_the_middle_is_taken(tmp_path):
    for n in range(2):
        greys = np.full((200, 100), 0.5)
        greys[:40], greys[160:] = 0.0, 1.0  # what is cut off
        greys[94 + n : 106 + n, 20:80] = 0.9
        write(tmp_path / f"{n}.png", greys)
    found = read_xrays(tmp_path, (50, 50)).pictures[0, 0]
    assert found[:2].std() < 0.02  # nothing of the ends
    bright = found > 0.7
    assert (int(bright.any(1).sum()), int(bright.any(0).sum())) == (6, 30)  # both sides halved
    assert bright.nonzero().float().mean(0).tolist() == pytest.approx([24.5, 24.5], abs=0.6)


@pytest.mark.parametrize("inverted", [(), (1,), (0, 2), (0, 1, 2, 3, 4)])
def test_bone_dark_is_found_among_others_and_where_all_are(tmp_path, inverted):
    folder(tmp_path, 5, inverted)
    if inverted:
        with pytest.warns(Notice, match=rf"{len(inverted)} of 5 radiographs show bone dark .*{inverted[0]}.png"):
            found = read_xrays(tmp_path, SIZE)
    else:
        found = read_xrays(tmp_path, SIZE)
    assert found.inverted == tuple(f"{n}.png" for n in inverted)
    assert (found.pictures[:, 0, 8:20, 24:26].mean((1, 2)) > found.pictures[:, 0, 12:18, 12:15].mean((1, 2))).all()


def test_what_has_nothing_in_common_is_left_as_it_is():
    pictures = torch.rand((6, 1, 40, 40), generator=torch.Generator().manual_seed(0))
    assert not bone_dark(pictures)[pictures.mean((1, 2, 3)) > 2].any()
    same = torch.from_numpy(np.stack([chest(n) for n in range(3)])).float()[:, None]
    assert bone_dark(torch.cat([same, 1 - same[:1]])).tolist() == [False, False, False, True]


def test_letters_burnt_in_change_little(tmp_path):
    greys = [0.2 + 0.5 * chest(n) for n in range(3)]
    for n, one in enumerate(greys):
        write(tmp_path / f"{n}.png", one)
    plain = read_xrays(tmp_path, SIZE).pictures
    marked = greys[0].copy()
    marked[2:7, 110:115] = 1.0  # a marker brighter than all bone
    write(tmp_path / "0.png", marked)
    found = read_xrays(tmp_path, SIZE).pictures
    below = torch.ones(SIZE, dtype=torch.bool)
    below[:5] = False
    # the marker is a quarter of a percent of the picture; without percentiles everything else would lose a third
    assert (found[0, 0] - plain[0, 0])[below].abs().max() < 0.03


def test_names_choose_files(tmp_path):
    folder(tmp_path)
    assert read_xrays(tmp_path, SIZE, only=["3.png", "1.png"]).names == ("1.png", "3.png")
    with pytest.raises(PathError, match=r"has no 9\.png"):
        read_xrays(tmp_path, SIZE, only=["3.png", "9.png"])


def test_photographs_and_damage_are_left_out_and_said(tmp_path):
    folder(tmp_path, 2)
    colours = np.zeros((60, 80, 3), np.uint8)
    colours[..., 0], colours[:, 40:, 2] = 200, 120
    Image.fromarray(colours).save(tmp_path / "photo.png")
    with pytest.warns(Notice, match=r"Left out: .*photo\.png is a colour photograph"):
        assert read_xrays(tmp_path, SIZE).names == ("0.png", "1.png")
    (tmp_path / "photo.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    with pytest.warns(Notice, match=r"Left out: .*photo\.png"):
        assert len(read_xrays(tmp_path, SIZE).names) == 2


def test_folders_with_nothing_to_learn_from(tmp_path):
    with pytest.raises(PathError, match="no-such"):
        read_xrays(tmp_path / "no-such", SIZE)
    with pytest.raises(PathError, match=r"empty|no radiographs"):
        read_xrays(tmp_path, SIZE)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(PathError, match="no radiographs"):
        read_xrays(tmp_path, SIZE)
    one = write(tmp_path / "one.png", chest(0))
    with pytest.raises(PathError, match="one radiograph that can be used"):
        read_xrays(tmp_path, SIZE)
    with pytest.raises(PathError, match="is a file"):
        read_xrays(one, SIZE)


def test_all_46_real_chest_radiographs_are_told_apart_whichever_are_inverted(real_data):
    found = read_xrays(real_data("cxr-hannover-v7", "images"), (64, 64))
    assert len(found.names) == 46
    assert found.inverted == ()
    flip = torch.arange(46) % 5 == 0
    turned = torch.where(flip[:, None, None, None], 1 - found.pictures, found.pictures)
    assert (bone_dark(turned) != flip).sum() <= 1
    assert bone_dark(1 - found.pictures).sum() >= 43  # nearly all, where all are
