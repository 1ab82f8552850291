"""Targets from pictures and from 3D labels."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import diffrender as dr
import phantoms
from diffrender.dvr.targets import coloured_labels, targets_from_images, targets_from_labels
from diffrender.dvr.transfer import TransferFunction
from diffrender.errors import GeometryError, ImageError, LabelError, PathError, SettingError

SIZE = (15, 26)
CAMERAS = [dr.c_arm([3.0, -2.0, 7.0], primary=angle, image_size=SIZE) for angle in (-20.0, 35.0)]


def pixels(seed: int = 2) -> np.ndarray:
    array = np.random.default_rng(seed).integers(0, 256, (*SIZE, 4), np.uint8)
    array[:4, :7, 3] = 0
    return array


@pytest.fixture
def folder(tmp_path):
    """Two pictures of other names, one RGBA, one with grey and alpha, and their cameras."""
    Image.fromarray(pixels(), "RGBA").save(tmp_path / "b second.png")
    Image.fromarray(pixels(1)[..., 2:], "LA").save(tmp_path / "a first.PNG")
    (tmp_path / "cameras.json").write_text(json.dumps([camera.to_dict() for camera in CAMERAS]))
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_pictures_are_taken_in_the_order_of_their_names_and_premultiplied(folder):
    first, second = targets_from_images(folder)
    assert torch.equal(first.camera.world_from_camera, CAMERAS[0].world_from_camera)
    expected = pixels().astype(np.float64) / 255
    expected[..., :3] *= expected[..., 3:]
    assert np.abs(second.image.numpy() - expected.transpose(2, 0, 1)).max() < 1e-6
    assert not second.image[:, :4, :7].any()  # nothing covered, nothing shown
    assert torch.equal(first.image[0], first.image[2])
    assert (second.weight == 1).all()
    assert (second.alpha_weight == 1).all()


def test_a_known_background_is_taken_away(folder):
    rgb = np.full((*SIZE, 3), 255, np.uint8)
    rgb[3:9, 4:20] = (120, 60, 200)
    rgb[12, 2] = (254, 255, 253)  # white but for rounding
    Image.fromarray(rgb).save(folder / "b second.png")
    with pytest.raises(ImageError, match=r"b second.png has no alpha .*background="):
        targets_from_images(folder)
    target = targets_from_images(folder, background=(1.0, 1.0, 1.0))[1]
    assert target.image[3].sum() == 6 * 16
    assert target.image[:, 5, 10].tolist() == pytest.approx([120 / 255, 60 / 255, 200 / 255, 1])
    assert not target.image[:, 0].any()
    assert torch.equal(target.alpha_weight, 1 - target.image[3])  # how much covers is known of nothing alone
    assert (target.weight == 1).all()


BAD = {
    "no pictures": (lambda f: [p.unlink() for p in f.glob("*.[pP]*")], PathError, "no folder with PNG"),
    "no cameras": (lambda f: (f / "cameras.json").unlink(), PathError, "holds no cameras.json"),
    "a camera too few": (
        lambda f: (f / "cameras.json").write_text(json.dumps([CAMERAS[0].to_dict()])),
        PathError,
        "2 pictures and cameras.json 1 cameras",
    ),
    "cameras that are none": (lambda f: (f / "cameras.json").write_text('[{"x": 1}]'), GeometryError, "cameras.json"),
    "another size": (
        lambda f: Image.new("RGBA", (26, 16)).save(f / "b second.png"),
        ImageError,
        "b second.png has 16 x 26 pixels and its camera 15 x 26",
    ),
    "16 bits": (
        lambda f: Image.fromarray(np.zeros(SIZE, np.uint16)).save(f / "b second.png"),
        ImageError,
        "b second.png has 16 bits",
    ),
    "damage": (lambda f: (f / "a first.PNG").write_bytes(b"\x89PNG\r\n\x1a\n"), PathError, "a first.PNG is no picture"),
}


@pytest.mark.parametrize("case", BAD)
def test_pictures_that_do_not_fit_are_said(folder, case):
    spoil, error, words = BAD[case]
    spoil(folder)
    with pytest.raises(error, match=words):
        targets_from_images(folder)


def test_no_folder_of_pictures(tmp_path):
    with pytest.raises(PathError, match="does not exist"):
        targets_from_images(tmp_path / "nowhere")


REST = TransferFunction(((-1000.0, 1.0, 1.0, 1.0), (3000.0, 1.0, 1.0, 1.0)), ((0.0, 0.0), (100.0, 0.1)), name="white")


@pytest.fixture(scope="module", params=[True, False], ids=["left-handed", "right-handed"])
def labelled(request) -> dr.Volume:
    """Two labels, off centre and apart, in a body of 200 HU; oblong voxels on an oblique lattice."""
    values, labels = torch.full((26, 30, 34), -1000, dtype=torch.int16), torch.zeros((26, 30, 34), dtype=torch.uint8)
    values[4:22, 5:24, 6:29] = 200
    labels[6:13, 8:14, 9:15], labels[15:20, 12:21, 19:26] = 3, 8
    lattice = phantoms.oblique_lattice(spacing=(2.1, 1.7, 2.9), left_handed=request.param)
    return dr.Volume(values, lattice, labels)


def middle_of(volume: dr.Volume, label: int) -> torch.Tensor:
    kji = volume.mask(label).nonzero().double().mean(0)
    return volume.world_from_voxel[:3, :3] @ kji.flip(0) + volume.world_from_voxel[:3, 3]


COLOURS = {3: (0.9, 0.1, 0.2), 8: (0.1, 0.3, 0.8)}


def test_labels_show_in_their_colours_where_they_are(labelled):
    camera = dr.preset("frontal", labelled, (44, 52), pixel_size=2.7)
    (target,) = targets_from_labels(labelled, COLOURS, [camera])
    for label, colour in COLOURS.items():
        row, column = camera.project(middle_of(labelled, label)).long().tolist()
        image = target.image[:, row, column]
        assert image[3] > 0.95  # some 12 mm of 0.5 a mm
        assert (image[:3] / image[3]).tolist() == pytest.approx(colour, abs=1e-3)
    seen = target.image[3] > 0.02
    straight = target.image[:3, seen] / target.image[3, seen]
    # At every edge the colour is that of a label, or of two, one behind the other: no dark fringe.
    mixed = torch.stack([torch.tensor(c) for c in COLOURS.values()])
    assert (straight.min(1).values >= mixed.amin(0) - 1e-3).all()
    assert (straight.max(1).values <= mixed.amax(0) + 1e-3).all()
    assert target.image[3, 0].max() == 0  # and nothing else
    assert (target.weight == 1).all()


def test_the_rest_is_faint_and_keeps_its_colour(labelled):
    camera = dr.preset("frontal", labelled, (44, 52), pixel_size=2.7)
    alone, faint, full = (
        targets_from_labels(labelled, COLOURS, [camera], transfer=transfer, faint=share)[0].image
        for transfer, share in ((None, 0.1), (REST, 0.1), (REST, 1.0))
    )
    rest = (alone[3] == 0) & (full[3] > 0.5)
    assert rest.sum() > 100
    # kappa times 0.1 is alpha's exponent times 0.1; a label behind a corner of the rest counts fully in both
    assert (torch.log1p(-faint[3, rest]) - 0.1 * torch.log1p(-full[3, rest])).abs().max() < 1e-3
    assert (faint[:3, rest] - faint[3, rest]).abs().max() < 1e-4  # white


def test_opacity_is_that_of_a_millimetre(labelled):
    field = coloured_labels(labelled, {3: (1.0, 0.0, 0.0)}, 0.4, None, 0.1, 0.3)
    assert -torch.expm1(-field.values[3].max()) == pytest.approx(0.4, abs=1e-4)


def test_overlapping_layers_share_their_voxels():
    layers = torch.zeros((2, 8, 9, 10), dtype=torch.bool)
    layers[0, 2:6, 2:7, 2:6] = layers[1, 2:6, 2:7, 4:9] = True
    volume = dr.Volume(torch.zeros((8, 9, 10)), np.eye(4), layers, {5: "one", 6: "two"})
    field = coloured_labels(volume, {5: (1.0, 0.0, 0.0), 6: (0.0, 0.0, 1.0)}, 0.5, None, 0.1, 0.3)
    assert field.values[3].max() == pytest.approx(np.log(2), abs=1e-3)  # never twice as dense
    assert field.values[0, 4, 4, 4] > 0.95
    assert field.values[2, 4, 4, 7] > 0.95


def test_what_cannot_be_coloured_is_said(labelled):
    with pytest.raises(SettingError, match="no label to colour"):
        targets_from_labels(labelled, {}, CAMERAS)
    with pytest.raises(LabelError, match="Label 4 does not occur"):
        targets_from_labels(labelled, {4: (1.0, 0.0, 0.0)}, CAMERAS)
    with pytest.raises(LabelError, match="does not occur"):
        targets_from_labels(dataclasses.replace(labelled, labels=None), COLOURS, CAMERAS)
    for setting in ({"opacity": 0.0}, {"faint": 1.5}, {"smooth": 0.0}):
        with pytest.raises(SettingError, match="between 0"):
            targets_from_labels(labelled, COLOURS, CAMERAS, **setting)
