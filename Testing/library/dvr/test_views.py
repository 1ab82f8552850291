"""Views: are pictures and folders the same after a round trip, and is what does not fit together said in words?"""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffrender as dr
import phantoms
from diffrender.dvr.pictures import premultiplied, straight
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.views import (
    Role,
    View,
    Views,
    open_volume,
    read_views,
    render_views,
    write_paint,
    write_views,
)
from diffrender.errors import ImageError, InputError, LabelError, Notice, OutputError, PathError, SettingError

SOFT = TransferFunction(
    ((-200.0, 0.8, 0.5, 0.3), (100.0, 0.9, 0.4, 0.3), (600.0, 1.0, 0.9, 0.8)),
    ((-150.0, 0.0), (100.0, 0.02), (300.0, 0.3), (900.0, 0.9)),
    name="soft",
)
SIZE = (21, 34)  # px, oblong
ROLES = {3: Role("liver", "recolour", (0.1, 0.7, 0.25), 0.8), 200: Role("table", "hide")}


@pytest.fixture(scope="module")
def volume() -> dr.Volume:
    return dr.torso((30, 26, 34), oblique=True, handed="left")


@pytest.fixture(scope="module")
def drawn(volume) -> Views:
    return render_views(volume, SOFT, dr.orbit(volume, 3, SIZE))


@pytest.fixture
def folder(drawn, tmp_path) -> Path:
    """Three views on the disk, the middle one painted."""
    ct = tmp_path / "ct.nrrd"
    ct.write_bytes(b"any bytes have a hash")
    paint = torch.zeros(SIZE, dtype=torch.uint8)
    paint[4:9, 7:30], paint[12:, :5] = 3, 200
    views = [drawn.views[0], dataclasses.replace(drawn.views[1], paint=paint), drawn.views[2]]
    write_views(tmp_path / "views", dataclasses.replace(drawn, views=tuple(views), roles=ROLES, source=str(ct)))
    return tmp_path / "views"


def test_a_view_shows_the_patient_head_up_and_left_on_the_right(volume):
    bead = torch.full((40, 32, 36), -1000, dtype=torch.int16)
    lattice = phantoms.oblique_lattice(spacing=(3.1, 2.7, 4.2), left_handed=True)
    empty = dr.Volume(bead, lattice)
    at = torch.linalg.inv(empty.world_from_voxel) @ torch.cat(
        [empty.centre + torch.tensor([-22.0, 4.0, 37.0]), torch.ones(1)]
    )
    i, j, k = at[:3].round().long().tolist()
    bead[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = 1000  # to the patient's left and towards the head
    image = render_views(empty, SOFT, [dr.preset("frontal", empty, (60, 50))]).views[0].image
    row, column = np.average(np.indices((60, 50)).reshape(2, -1), axis=1, weights=image[3].numpy().ravel())
    assert row < 25
    assert column > 30


def test_a_view_is_premultiplied_and_shows_the_transfer_function(drawn):
    for view in drawn.views:
        image = view.image
        assert image.min() >= 0
        assert image.max() <= 1
        assert (image[:3] <= image[3] + 1e-5).all()  # no colour of this function is above 1
        assert image[3].max() > 0.5


def test_straight_alpha_and_back_is_exact_for_every_pair_of_levels():
    alpha, colour = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.stack([colour, 255 - colour, colour // 2, alpha], -1).astype(np.uint8)
    pixels[alpha == 0, :3] = 0  # what nothing covers has no colour in memory, so none can come back
    assert np.array_equal(straight(premultiplied(pixels)), pixels)


def test_premultiplied_colours_are_kept_to_half_a_level_of_what_shows():
    generator = torch.Generator().manual_seed(4)
    alpha = torch.rand((30, 41), generator=generator)
    image = torch.cat([torch.rand((3, 30, 41), generator=generator) * alpha, alpha[None]])
    image[:, 3:9] = 0
    image[:3, 9:12], image[3, 9:12] = 0.001, 0.0015  # less than half a level covered: gone, not bright
    back = premultiplied(straight(image))
    # alpha to half a level; a colour may lose as much again where rounded alpha is too small to hold it
    assert (back - image).abs().max() <= 1.01 / 255
    assert not back[:, 3:12].any()


def test_a_folder_comes_back_bit_for_bit(folder, drawn, tmp_path):
    views = read_views(folder)
    assert views.transfer == SOFT
    assert views.roles == ROLES
    assert views.folder == folder
    for a, b in zip(views.views, drawn.views, strict=True):
        assert torch.equal(a.camera.world_from_camera, b.camera.world_from_camera)
        assert (a.image - b.image).abs().max() <= 1.01 / 255
    write_views(tmp_path / "again", dataclasses.replace(views, folder=None))
    names = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert [str(name) for name in names] == [
        "0000.png", "0001.png", "0002.png", "cameras.json", "paint/0001.png", "paint/roles.json", "transfer.json",
        "volume.json",
    ]  # fmt: skip
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_a_picture_in_the_folder_has_straight_alpha(folder, drawn):
    picture = np.asarray(Image.open(folder / "0001.png")).astype(float) / 255
    image = drawn.views[1].image.numpy()
    at = np.unravel_index(np.abs(image[3] - 0.5).argmin(), SIZE)  # half covered: the two differ by a factor of two
    assert picture[at][3] == pytest.approx(image[3][at], abs=0.5 / 255 + 1e-6)
    # 8 bits of alpha near 0.5 are off by 0.4 %, the colour by half a level
    assert picture[at][:3] == pytest.approx(image[:, at[0], at[1]][:3] / image[3][at], abs=1.5 / 255)


def test_paint_with_a_palette_is_read_as_ids(folder):
    ids = np.zeros(SIZE, np.uint8)
    ids[2:5, 3:9] = 3
    picture = Image.fromarray(ids, "P")
    picture.putpalette([7, 90, 200] * 256)
    picture.save(folder / "paint" / "0002.png")
    assert np.array_equal(read_views(folder).views[2].paint, ids)


@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
def test_paint_in_the_colours_of_the_roles_is_read_as_ids(folder, mode):
    layer = np.zeros((*SIZE, 4), np.uint8)
    layer[..., :3] = 0 if mode == "RGB" else 200  # what is transparent has any colour
    layer[2:9, 3:12] = (28, 176, 61, 255)  # (0.1, 0.7, 0.25), a little off
    layer[9, 3:12] = (14, 88, 30, 120)  # the stroke's soft edge
    layer[2, 3] = (90, 120, 60, 255)  # a blend with something else
    Image.fromarray(layer[..., : len(mode)], mode).save(folder / "paint" / "0002.png")
    ids = np.zeros(SIZE, np.uint8)
    ids[2:9, 3:12] = 3
    ids[2, 3] = 0
    assert np.array_equal(read_views(folder).views[2].paint, ids)


def test_writing_paint_alone_leaves_the_rest(folder):
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    paint = torch.full(SIZE, 9, dtype=torch.uint8)
    write_paint(folder, {0: paint}, {**ROLES, 9: Role("all of it", "keep")})
    views = read_views(folder)
    assert torch.equal(views.views[0].paint, paint)
    assert views.views[1].painted
    assert {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    assert not list(folder.rglob(".*"))


def _edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def _paint(folder: Path, array: np.ndarray, mode: str | None = None) -> None:
    Image.fromarray(array, mode).save(folder / "paint" / "0001.png")


BAD = {
    "a view is missing": (
        lambda f: (f / "0001.png").unlink(),
        PathError,
        "2 pictures .* 3 cameras: 0001.png is missing",
    ),
    "a view too many": (
        lambda f: (f / "0003.png").write_bytes((f / "0000.png").read_bytes()),
        PathError,
        "4 pictures .* 3 cameras: 0003.png has no camera",
    ),
    "a camera too few": (lambda f: _edit(f / "cameras.json", list.pop), PathError, "3 pictures .* 2 cameras"),
    "no cameras": (lambda f: (f / "cameras.json").unlink(), PathError, "holds no cameras.json"),
    "no transfer": (lambda f: (f / "transfer.json").unlink(), PathError, "holds no transfer.json"),
    "no volume": (lambda f: (f / "volume.json").unlink(), PathError, "holds no volume.json"),
    "another format": (lambda f: _edit(f / "volume.json", lambda r: r.update(format=7)), PathError, '"format": 7'),
    "a picture that is none": (
        lambda f: (f / "0002.png").write_bytes(b"\x89PNG, almost"),
        PathError,
        "0002.png is no pic",
    ),
    "an empty picture": (lambda f: (f / "0002.png").write_bytes(b""), PathError, "0002.png is empty"),
    "a picture without alpha": (
        lambda f: Image.new("RGB", SIZE[::-1]).save(f / "0000.png"),
        ImageError,
        "0000.png has no alpha",
    ),
    "a picture of another size": (
        lambda f: Image.new("RGBA", SIZE).save(f / "0000.png"),
        ImageError,
        "0000.png: .* 34 x 21 .* 21 x 34",
    ),
    "cameras of another size": (
        lambda f: _edit(f / "cameras.json", lambda c: c[2].update(image_size=[42, 68])),
        ImageError,
        "0002.png: .* 42 x 68",
    ),
    "paint of another size": (
        lambda f: _paint(f, np.zeros((20, 34), np.uint8)),
        ImageError,
        "paint/0001.png: The paint of a view has 20 x 34",
    ),
    "paint in colour": (
        lambda f: _paint(f, np.full((*SIZE, 3), (240, 10, 10), np.uint8)),
        LabelError,
        "paint/0001.png is painted in #f00a0a on 714 pixels, and no role has this colour",
    ),
    "paint of 16 bits": (lambda f: _paint(f, np.zeros(SIZE, np.uint16)), ImageError, "16 bits"),
    "paint of no view": (
        lambda f: (f / "paint" / "0007.png").write_bytes((f / "paint" / "0001.png").read_bytes()),
        PathError,
        "0007.png belongs to no view",
    ),
    "paint without a role": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r.pop("3")),
        LabelError,
        "View 1 is painted with 3, .*200",
    ),
    "no roles": (lambda f: (f / "paint" / "roles.json").unlink(), LabelError, "roles.json is missing"),
    "roles that are no JSON": (
        lambda f: (f / "paint" / "roles.json").write_text("{3:"),
        PathError,
        "roles.json is no JSON",
    ),
    "roles in a list": (lambda f: (f / "paint" / "roles.json").write_text("[]"), PathError, "holds list"),
    "an unknown role": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r["3"].update(role="remove")),
        SettingError,
        "roles.json: liver: .*recolour, hide, keep, ignore, not 'remove'",
    ),
    "a paint without role": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r["3"].pop("role")),
        LabelError,
        'paint 3 has no "role"',
    ),
    "an id that is none": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r.update({"liver": r["3"]})),
        LabelError,
        "'liver' is no paint",
    ),
    "no colour": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r["3"].update(colour=None)),
        SettingError,
        "has no colour",
    ),
    "a colour of 255": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r["3"].update(colour=[255, 0, 0])),
        SettingError,
        "by 255",
    ),
    "a colour in words": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r["3"].update(colour="red")),
        SettingError,
        "'red'",
    ),
    "too strong": (
        lambda f: _edit(f / "paint" / "roles.json", lambda r: r["3"].update(strength=80)),
        SettingError,
        "80 does not",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_said(folder, case):
    spoil, error, words = BAD[case]
    spoil(folder)
    with pytest.raises(error, match=words) as said:
        read_views(folder)
    assert str(folder) in str(said.value)


def test_no_paint_folder_is_fine(folder):
    for file in (folder / "paint").iterdir():
        file.unlink()
    (folder / "paint").rmdir()
    views = read_views(folder)
    assert not views.roles
    assert not any(view.painted for view in views.views)


def test_no_folder_of_views(tmp_path):
    with pytest.raises(PathError, match="does not exist"):
        read_views(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(PathError, match="is a file"):
        read_views(tmp_path / "file")
    with pytest.raises(PathError, match=r"cameras.json and no transfer.json and no volume.json"):
        read_views(tmp_path)


def test_paint_of_earlier_views_is_not_lost(folder, drawn):
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(OutputError, match="holds painted views"):
        write_views(folder, drawn)
    few = read_views(folder)
    with pytest.raises(OutputError, match=r"views up to 0002.png, and these are only 2"):
        write_views(folder, dataclasses.replace(few, views=few.views[:2]))
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_paint_that_was_wiped_away_is_gone(folder):
    views = read_views(folder)
    clean = tuple(dataclasses.replace(view, paint=None) for view in views.views)
    write_views(folder, dataclasses.replace(views, views=clean))
    assert not any(view.painted for view in read_views(folder).views)


def test_views_in_memory_that_do_not_fit(drawn):
    view = drawn.views[0]
    with pytest.raises(ImageError, match="no views"):
        Views(())
    with pytest.raises(ImageError, match="20 x 34"):
        View(view.camera, view.image[:, 1:])
    with pytest.raises(ImageError, match="view 1 42 x 68"):
        Views((view, View(view.camera.resized((42, 68)), torch.zeros(4, 42, 68))))
    with pytest.raises(LabelError, match="painted with 5"):
        Views((dataclasses.replace(view, paint=torch.full(SIZE, 5, dtype=torch.uint8)),), roles=ROLES)
    with pytest.raises(SettingError, match="which transfer function"):
        write_views("nowhere", Views((view,)))


@pytest.fixture
def ct(tmp_path) -> Path:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray((np.arange(4 * 5 * 6).reshape(4, 5, 6) * 20 - 1000).astype(np.int16))
    sitk.WriteImage(image, str(tmp_path / "in here.nrrd"))
    return tmp_path / "in here.nrrd"


def test_the_ct_is_found_again_and_must_be_the_same(ct, drawn, tmp_path, monkeypatch):
    write_views(tmp_path / "views", dataclasses.replace(drawn, source=str(ct)))
    views = read_views(tmp_path / "views")
    assert views.volume is None
    assert views.open_volume().shape == (4, 5, 6)
    elsewhere = tmp_path / "elsewhere.nrrd"
    elsewhere.write_bytes(ct.read_bytes())
    assert views.open_volume(elsewhere).shape == (4, 5, 6)
    elsewhere.write_bytes(ct.read_bytes() + b"\0")
    with pytest.raises(PathError, match=r"elsewhere.nrrd is not the CT .* SHA256 begins with \w{12}.*--ct"):
        views.open_volume(elsewhere)
    ct.unlink()
    with pytest.raises(PathError, match=r"is not at .*in here.nrrd any more.*--ct"):
        views.open_volume()


def test_a_relative_path_counts_from_here_and_from_the_folder(ct, drawn, tmp_path, monkeypatch):
    (tmp_path / "views").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    write_views("views", dataclasses.replace(drawn, source="in here.nrrd"))
    assert read_views("views").open_volume().shape == (4, 5, 6)
    ct.rename(tmp_path / "views" / ct.name)  # beside the views, wherever one stands
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / ct.name).write_bytes(b"another one of the same name")
    assert open_volume(read_views("../views")).shape == (4, 5, 6)


def test_a_volume_in_memory_needs_no_folder(volume, drawn, tmp_path, ct):
    assert drawn.open_volume() is volume
    write_views(tmp_path / "views", drawn)
    views = read_views(tmp_path / "views")
    with pytest.raises(PathError, match="in memory only"):
        views.open_volume()
    with pytest.warns(Notice, match="unchecked"):
        assert views.open_volume(ct).shape == (4, 5, 6)


def test_labels_are_read_when_asked_for(ct, drawn, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 2:4, 1:5] = 4
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "labels.nrrd"))
    write_views(tmp_path / "v", dataclasses.replace(drawn, source=str(ct), labels=str(tmp_path / "labels.nrrd")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        views = read_views(tmp_path / "v")
        assert views.open_volume().labels is None
        assert views.open_volume(labels=True).label_ids == (4,)
    with pytest.raises(LabelError, match="without labels"):
        open_volume(dataclasses.replace(views, labels=None), labels=True)


def test_errors_are_those_of_the_door():
    assert issubclass(PathError, InputError)
    with pytest.raises(SettingError, match="no colour"):
        Role("aorta", "recolour")
