"""The demo's page: one file, whole, that needs no other and speaks to those who do not see its pictures."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from diffrender import demo
from diffrender.demo.radiographs import slice_of
from diffrender.errors import LabelError
from diffrender.phantom import torso


class Page(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The page as `diffrender demo` writes it, on the torso, and what was told meanwhile."""
    folder, told = tmp_path_factory.mktemp("démo with spaces"), []
    path = demo.write_demo(
        folder / "new",
        None,
        None,
        lambda progress, what: told.append((progress.done, progress.total, what)),
        training=1.0,  # s: the least there is; how well it learns is no matter of this page
    )
    return path, Page(path), told


def write_nifti(array, volume, path):
    image = SimpleITK.GetImageFromArray(array)
    ras_to_lps = np.diag([-1.0, -1.0, 1.0])
    matrix = volume.world_from_voxel.numpy()
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((ras_to_lps @ matrix[:3, 3]).tolist())
    image.SetDirection((ras_to_lps @ matrix[:3, :3] / spacing).ravel().tolist())
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """A small oblique CT and its labels as files."""
    folder = tmp_path_factory.mktemp("ct")
    volume = torso((48, 30, 42), oblique=True)
    write_nifti(volume.values.numpy(), volume, folder / "a <b> & c.nii.gz")
    write_nifti(volume.labels.numpy(), volume, folder / "labels.nii.gz")
    return folder


def test_the_page_needs_no_other_file(drawn):
    path, page, _ = drawn
    assert path.name == "index.html"
    assert sorted(file.name for file in path.parent.iterdir()) == ["index.html", "provenance.json"]
    for _tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|<script|<link|<iframe|https?:", source)
    assert path.stat().st_size < 12e6
    assert "$" not in re.sub(r"base64,[^\"]*", "", source)  # every place of the template is filled


def test_every_picture_is_one_and_says_what_it_shows(drawn):
    _, page, _ = drawn
    pictures = page.all("img")
    assert len(pictures) > 20
    assert len({picture["alt"] for picture in pictures}) == len(pictures)
    for picture in pictures:
        assert len(picture["alt"]) > 10
        image = Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",")[1])))
        assert (str(image.width), str(image.height)) == (picture["width"], picture["height"])
        assert np.asarray(image.convert("L")).std() > 5, f"{picture['alt']} is blank"


def test_every_section_is_there_and_linked(drawn):
    _, page, told = drawn
    assert [section["id"] for section in page.all("section")] == list(demo.SECTIONS)
    assert {link["href"] for link in page.all("a")} == {f"#{name}" for name in demo.SECTIONS}
    assert "Research use only" in page.text
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] == told[-1][1]


def test_the_figures_are_believable(drawn):
    _, page, _ = drawn
    apart = float(re.search(r"difference of the two pictures\s*([\d.e+-]+)", page.text).group(1))
    assert apart < 1e-5  # float32 sums of some hundred steps, in another order
    alone = float(re.search(r"view alone and in the batch\s*([\d.e+-]+)", page.text).group(1))
    assert alone < 1e-5
    derivatives = [float(n) for n in re.findall(r"([\d.]+)% from finite differences", page.text)]
    # Linear interpolation has kinks at voxel borders and the phantom noise: a sign or an axis confused gives over 100.
    assert len(derivatives) == 6
    assert max(derivatives) < 5


def test_the_preview_comes_closer_to_the_painting(drawn):
    _, page, _ = drawn
    before, preview = (
        float(re.search(rf"painted pixels, {what}\s*([\d.]+) dB", page.text).group(1))
        for what in ("before: the transfer function", r"instant preview \(clusters\)")
    )
    assert preview > before + 1  # dB, on a view that nothing was learned from


def test_a_ct_of_the_users_with_labels_without_names(coarse, tmp_path):
    ct = coarse / "a <b> & c.nii.gz"
    page = Page(demo.write_demo(tmp_path, ct, coarse / "labels.nii.gz"))
    assert "a <b> & c.nii.gz" in page.text
    assert "oblique by" in page.text
    assert re.search(r"path in label \d+", page.text)
    record = json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))
    assert [entry["path"] for entry in record["inputs"]] == [str(ct), str(coarse / "labels.nii.gz")]


def test_a_ct_without_labels_says_how_to_give_them(coarse, tmp_path):
    page = Page(demo.write_demo(tmp_path, coarse / "a <b> & c.nii.gz", None))
    assert "This CT came without labels" in page.text
    assert any("frontal" in picture["alt"] for picture in page.all("img"))


def test_a_failure_leaves_no_page(coarse, tmp_path):
    far = SimpleITK.ReadImage(str(coarse / "labels.nii.gz"))
    far.SetOrigin([5000.0, 0, 0])
    SimpleITK.WriteImage(far, str(tmp_path / "far.nii.gz"))
    with pytest.raises(LabelError):
        demo.write_demo(tmp_path / "out", coarse / "a <b> & c.nii.gz", tmp_path / "far.nii.gz")
    assert not (tmp_path / "out").exists()


def test_slices_are_shown_as_radiologists_read_them():
    """A bright spot to the patient's left, front and head comes to the right, the top and the top, in any lattice."""
    for handed in ("right", "left"):
        volume = torso((40, 30, 36), noise=0, handed=handed)
        volume.values[:] = -1000
        spot = np.linalg.inv(volume.world_from_voxel.numpy()) @ [-110.0, 60.0, 140.0, 1.0]
        i, j, k = np.rint(spot[:3]).astype(int)
        volume.values[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = 1000
        for axis, at in ((0, k), (1, j), (2, i)):
            image = slice_of(volume, axis, int(at))[..., 0].astype(float)
            height, width = image.shape[0] * 0.93, image.shape[1]  # without the notice below
            rows, columns = np.nonzero(
                image[int(height * 0.1) : int(height * 0.9), int(width * 0.1) : int(width * 0.85)] > 250
            )
            row, column = np.median(rows) + height * 0.1, np.median(columns) + width * 0.1
            assert row < height / 2, "front or head is not up"
            assert (column < width / 2) if axis == 2 else (column > width / 2)
