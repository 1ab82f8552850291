"""Boxes as COCO has them, and where landmarks fall."""

import math

import pytest
import torch

import diffrender as dr
from diffrender.errors import GeometryError
from diffrender.synth.boxes import boxes_of, projected_landmarks


def test_boxes_count_columns_first_and_the_last_pixel_belongs():
    masks = torch.zeros(3, 20, 31, dtype=torch.bool)
    masks[0, 4:9, 17:19] = True
    masks[2, 19, 30] = masks[2, 0, 30] = True
    assert boxes_of(masks).tolist() == [[17, 4, 2, 5], [0, 0, 0, 0], [30, 0, 1, 20]]


def test_a_landmark_falls_where_its_label_does():
    camera = dr.c_arm((10.0, -20.0, 30.0), 20, -10, pixel_size=(1.1, 0.7), image_size=(60, 90))
    left = camera.source + 700 * camera.direction + torch.tensor([-20.0, 0, 0])
    away = left + torch.tensor([0.0, 0, 300.0])
    behind = camera.source - 50 * camera.direction
    found = projected_landmarks({"FH-l": left, "away": away, "behind": behind}, camera)
    assert found["FH-l"].visible
    assert found["FH-l"].column > 46  # the patient's left on the image's right
    assert (found["FH-l"].row, found["FH-l"].column) == pytest.approx(camera.project(left).tolist())
    assert not found["away"].visible
    assert found["away"].row < 0
    assert math.isnan(found["behind"].row)
    assert not found["behind"].visible


def test_a_landmark_that_is_no_point_is_refused():
    with pytest.raises(GeometryError, match="'FH-l' is no point"):
        projected_landmarks({"FH-l": torch.tensor([1.0, math.nan, 0])}, dr.c_arm((0, 0, 0)))
