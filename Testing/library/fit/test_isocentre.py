"""Where a body is put when nothing is known but the camera."""

import pytest
import torch

from diffrender.camera import c_arm
from diffrender.fit.start import USUAL_DEPTH, middle_of_beam, start_at_isocentre

POINTS = {
    "a": torch.tensor([-60.0, -20.0, 5.0], dtype=torch.float64),
    "b": torch.tensor([80.0, 40.0, 30.0], dtype=torch.float64),
}
MIDDLE = torch.tensor([10.0, 10.0, 17.5], dtype=torch.float64)


def place(*cameras):
    start = start_at_isocentre(list(cameras), POINTS)
    return start.world_from_model[:3, 3] + MIDDLE, start


def test_the_origin_on_the_beam_is_the_isocentre():
    found, start = place(c_arm((0.0, 0.0, 0.0), 23.0, -9.0, 1020.0, 640.0))
    assert found.norm() < 1e-6
    assert start.depth == 0


@pytest.mark.parametrize("away", [(150.0, 0, 0), (0, 0, -150.0), (0, 320.0, 0), (0, -330.0, 0), (90.0, 90, 90)])
def test_an_origin_elsewhere_is_not(away):
    camera = c_arm(away, 8.0, -5.0, 1000.0, 650.0, image_size=(200, 300), pixel_size=(1.1, 0.9))
    found, start = place(camera)
    assert torch.allclose(found, torch.tensor(away, dtype=torch.float64), atol=1e-6)  # 650 is the usual 0.65 of 1000
    assert "guess" in start.sentence
    assert start.depth > 30


def test_the_beam_s_middle_is_the_image_s_where_the_detector_stands_aside():
    frame = c_arm((300.0, 0, 0), 0.0, 0.0, 1000.0, 650.0, image_size=(200, 300), pixel_size=(1.1, 0.9))
    camera = type(frame)(frame.world_from_camera, 1000.0, (1.1, 0.9), (200, 300), (20.0, 150.0))
    row, column = camera.project(middle_of_beam(camera)[None])[0].tolist()
    assert (row, column) == pytest.approx((100.0, 150.0))
    along = (middle_of_beam(camera) - camera.source) @ camera.direction
    assert float(along) == pytest.approx(USUAL_DEPTH * 1000)


def test_parallel_beams_meet_nowhere():
    one = c_arm((200.0, 0, 0), 0.0, 0.0, 1000.0, 650.0)
    found, start = place(one, one)
    assert torch.allclose(found, torch.tensor([200.0, 0, 0], dtype=torch.float64), atol=1e-6)
    assert "guess" in start.sentence
