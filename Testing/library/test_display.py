"""Pictures to look at: greys worked out by hand, letters and labels found where they belong."""

import math

import numpy as np
import pytest
import torch

from diffrender.camera import Camera, c_arm
from diffrender.display import (
    MOST_OUTLINED,
    annotated,
    annotated_colours,
    bone_window,
    label_colour,
    most_telling,
    over,
    to_display,
)
from diffrender.errors import LabelError, SettingError
from diffrender.xray import Radiograph

HEIGHT, WIDTH = 60, 90


def radiograph(camera: Camera | None = None, masks: torch.Tensor | None = None, **more) -> Radiograph:
    camera = camera or c_arm((0.0, 0, 0), pixel_size=(2.0, 1.0), image_size=(HEIGHT, WIDTH))
    pixels = torch.zeros(1, HEIGHT, WIDTH)
    pixels[0, 10:50, 20:80] = torch.linspace(1, 4, 60)
    return Radiograph(pixels, "log-attenuation", camera, masks=masks, **more)


def lit(picture: np.ndarray, rows: slice, columns: slice) -> bool:
    """Whether something white is written there."""
    return bool((picture[rows, columns].min(axis=-1) > 200).any())


def test_the_window_spans_the_body_and_not_the_air():
    """Of 100 x 100 body pixels with p from 2 to 4 in even steps, the 0.5th and 99.5th percentile are 2.01 and 3.99."""
    pixels = torch.zeros(1, 140, 100)
    pixels[0, 40:] = torch.linspace(2, 4, 10_000).reshape(100, 100)
    shown = to_display(pixels, "log-attenuation")
    assert shown.dtype == np.uint8
    assert shown[:40].max() == 0
    assert (shown == 255).sum() == pytest.approx(50 + 20, abs=2)  # above 3.99, and those that round to white
    expected = (pixels[0, 90, 31].item() - 2.01) / (3.99 - 2.01) * 255
    assert shown[90, 31] == pytest.approx(expected, abs=0.51)  # rounding


def test_intensity_looks_like_log_attenuation():
    p = torch.rand(1, 30, 44, generator=torch.Generator().manual_seed(3)) * 5 + 0.1
    difference = to_display(p, "log-attenuation").astype(int) - to_display(torch.exp(-p), "intensity").astype(int)
    assert np.abs(difference).max() <= 1  # float32 of exp and back
    dark = torch.tensor([[[0.0, -0.1, math.exp(-3), 1.0]]])  # noise may leave nothing, or less
    assert to_display(dark, "intensity", (1.0, 5.0)).tolist() == [[255, 255, 128, 0]]


def test_a_window_of_ones_own():
    pixels = torch.tensor([[0.0, 1.0, 1.5, 2.0, 9.0, math.nan, math.inf]])
    assert to_display(pixels, "log-attenuation", (1.0, 2.0)).tolist() == [[0, 0, 128, 255, 255, 0, 255]]


def test_pictures_without_contrast():
    assert to_display(torch.zeros(1, 4, 5), "log-attenuation").max() == 0
    assert to_display(torch.ones(1, 4, 5), "intensity").max() == 0
    assert to_display(torch.full((1, 4, 5), 2.0), "log-attenuation").min() > 0


def test_settings_that_are_not_offered():
    with pytest.raises(SettingError, match="kind is one of log-attenuation, intensity, not 'MR'"):
        to_display(torch.zeros(1, 2, 2), "MR")
    with pytest.raises(SettingError, match=r"2\.0 to 1\.0 does not"):
        to_display(torch.zeros(1, 2, 2), "intensity", (2.0, 1.0))
    with pytest.raises(SettingError, match="style is one of outline, filled, not 'dotted'"):
        annotated(radiograph(), style="dotted")
    with pytest.raises(SettingError, match="at least 16 pixels"):
        annotated(radiograph(), size=5)
    with pytest.raises(LabelError, match="Label 4 is not in this radiograph; it has no labels"):
        annotated(radiograph(), labels=[4])


def test_pixels_are_shown_in_their_true_proportion():
    """60 rows of 2 mm and 90 columns of 1 mm are 120 x 90 mm."""
    picture = annotated(radiograph(), size=600)
    assert picture.shape[1] == 450
    assert 600 < picture.shape[0] < 680  # and the notice below
    assert lit(picture, slice(600, None), slice(0, 225))
    assert annotated(radiograph()).shape[1] == 384  # at least 512 high


def test_letters_stand_at_the_edges_and_the_marker_on_the_patients_left():
    picture = annotated(radiograph(), size=600)
    middle = slice(260, 340)
    assert lit(picture, middle, slice(0, 60))  # R
    assert lit(picture, middle, slice(390, 450))  # L
    assert lit(picture, slice(0, 50), slice(200, 250))  # H
    assert lit(picture, slice(550, 600), slice(200, 250))  # F
    assert lit(picture, slice(0, 80), slice(380, 450))  # the lead L
    assert not lit(picture, slice(0, 80), slice(0, 70))


def test_the_marker_follows_the_patient_and_is_left_out_on_a_lateral():
    turned = c_arm((0.0, 0, 0), 180, 0, pixel_size=(2.0, 1.0), image_size=(HEIGHT, WIDTH))
    picture = annotated(radiograph(turned), size=600)
    assert turned.orientation()["left"] == "L"
    assert lit(picture, slice(0, 80), slice(0, 70))
    assert not lit(picture, slice(0, 80), slice(380, 450))
    lateral = c_arm((0.0, 0, 0), 90, 0, pixel_size=(2.0, 1.0), image_size=(HEIGHT, WIDTH))
    picture = annotated(radiograph(lateral), size=600)
    assert not lit(picture, slice(0, 80), slice(0, 70))
    assert not lit(picture, slice(0, 80), slice(380, 450))


def test_labels_are_drawn_where_they_are():
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 5:15, 50:70] = True
    masks[1, 30:60, 10:20] = True  # runs on beyond the lower edge
    source = radiograph(masks=masks, ids=(7, 2), names={2: "hip_left"})
    outline = annotated(source, [2, 7], size=600)
    filled = annotated(source, [2, 7], size=600, style="filled")
    first, second = np.array(label_colour(0)), np.array(label_colour(1))
    # 5 pixels of the picture for 1 mm: row 30 of 2 mm begins at 300, column 10 at 50.
    assert (outline[320:590, 50] == first).all()
    assert (outline[300, 52:98] == first).all()
    assert (outline[50, 252:348] == second).all()
    assert not (outline[599, 60:90] == first).all(axis=-1).any()  # no outline where the image ends
    assert np.ptp(outline[450, 75].astype(int)) == 0  # grey inside
    assert np.abs(filled[450, 75].astype(int) - (0.4 * first + 0.6 * outline[450, 75])).max() <= 1
    assert (outline[200, 50] == outline[200, 50, 0]).all()  # and nothing above it
    legend = outline[:600, 450:]
    assert legend.shape[1] > 60
    rows = [np.nonzero((legend == colour).all(axis=-1))[0].mean() for colour in (first, second)]
    assert rows[0] < rows[1]  # in the order asked for
    assert annotated(source, size=600).shape[1] == 450  # no labels, no legend


def test_colours_differ():
    colours = np.array([label_colour(n) for n in range(12)]).astype(float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e3 * np.eye(12)
    assert distance.min() > 40


def with_labels(names: dict[int, str]) -> Radiograph:
    """Each a bar of its own, from left to right."""
    masks = torch.zeros(len(names), HEIGHT, WIDTH, dtype=torch.bool)
    for n in range(len(names)):
        masks[n, 12 + n : 40, 4 * n + 1 : 4 * n + 4] = True
    return radiograph(masks=masks, ids=tuple(names), names=names)


def test_of_many_labels_the_bones_are_drawn_and_the_rest_is_counted():
    soft = {n: f"lymph node {n}" for n in range(1, 12)}
    bones = {20: "Rib_left_4", 21: "vertebrae_L5", 22: "hip_right", 23: "vertebrae_L4"}
    source = with_labels({**soft, **bones})
    labels, left_out = most_telling(source)
    assert labels == [22, 21, 23, 20, *range(1, 9)]
    assert (len(labels), left_out) == (MOST_OUTLINED, 3)
    assert most_telling(with_labels(soft)) == (list(soft), 0)  # few enough: all of them, as they come
    source.masks[:] = False
    assert most_telling(source) == ([], 0)
    assert most_telling(radiograph()) == ([], 0)


def test_the_legend_says_how_many_labels_are_not_drawn():
    source = with_labels({3: "hip_right_with_a_long_name", 5: "ulna"})
    legend = slice(annotated(source, size=900).shape[1], None)
    plain, said = (annotated(source, [3, 5], size=900, left_out=n)[:, legend] for n in (0, 47))
    assert plain.shape == said.shape
    differs = np.nonzero((plain != said).any(axis=(1, 2)))[0]
    second = np.nonzero((plain == np.array(label_colour(1))).all(axis=-1))[0]
    assert differs.min() > second.max()  # below the last label
    assert lit(said, slice(differs.min(), differs.max() + 1), slice(None))


def test_bone_stands_out_in_its_window():
    """Soft tissue from 1 to 3, thick in the middle, and a bone of 1 % of the body, 0.5 above it."""
    pixels = torch.zeros(1, HEIGHT, WIDTH)
    pixels[0] = torch.linspace(1, 3, WIDTH)
    pixels[0, 30:36, 80:89] += 0.5
    source = Radiograph(pixels, "log-attenuation", c_arm((0.0, 0, 0), image_size=(HEIGHT, WIDTH)))
    low, high = bone_window(source)
    assert 1.15 < low < 1.35  # the 12th percentile of 1 to 3 is 1.24
    assert 3.4 < high <= 3.5  # and the bone is not washed out
    wide = to_display(pixels, "log-attenuation")
    close = to_display(pixels, "log-attenuation", (low, high))
    assert np.ptp(close[30:36, 80:89].astype(int)) > np.ptp(wide[30:36, 80:89].astype(int))
    dark = Radiograph(torch.exp(-pixels), "intensity", source.camera)
    assert bone_window(dark) == pytest.approx((low, high), abs=1e-4)  # float32 of exp and back


def test_a_label_called_by_what_no_font_spells_is_drawn_all_the_same():
    """The byte of a file's name that is Latin-1, and a name of two lines."""
    source = with_labels({1: "K\udcf6rper", 2: "two\nlines"})
    assert annotated(source, [1, 2], size=300).shape[0] > 300


def test_a_rendered_picture_lies_over_its_background():
    image = torch.zeros(4, 2, 3)
    image[:, 0, 1] = torch.tensor([0.5, 0.4, 0.0, 0.5])  # premultiplied: straight it is (1, 0.8, 0)
    image[:, 1, 2] = torch.tensor([0.2, 0.4, 1.0, 1.0])
    picture = over(image, (0.0, 0.4, 1.0))
    assert picture.shape == (2, 3, 3)
    assert picture[0, 0].tolist() == [0, 102, 255]
    assert picture[0, 1].tolist() == [128, 153, 128]  # green: 0.4 + 0.5 * 0.4 = 0.6
    assert picture[1, 2].tolist() == [51, 102, 255]
    assert over(image)[0, 1].tolist() == [128, 102, 0]


def test_a_rendered_picture_is_lettered_as_a_radiograph_is():
    camera = c_arm((0.0, 0, 0), pixel_size=(2.0, 1.0), image_size=(HEIGHT, WIDTH))
    grey = annotated(Radiograph(torch.zeros(1, HEIGHT, WIDTH), "log-attenuation", camera))
    coloured = annotated_colours(torch.zeros(4, HEIGHT, WIDTH), camera)
    assert np.array_equal(grey, coloured)
    red = annotated_colours(torch.zeros(4, HEIGHT, WIDTH), camera, 300, (1.0, 0, 0))
    assert red.shape[1] == 225  # of 120 x 90 mm, the longer side being the taller
    assert red[40, 60].tolist() == [255, 0, 0]
