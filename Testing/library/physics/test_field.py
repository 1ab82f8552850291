import dataclasses
import math

import pytest
import torch

import phantoms
from diffrender.physics.detector import absorbed
from diffrender.physics.field import heel_factor, open_field, shutters
from diffrender.physics.settings import Collimation, Detector, Heel
from diffrender.physics.spectra import monochromatic, tube_spectrum

CAMERA = phantoms.oblique_camera(torch.tensor([10.0, -20.0, 30.0]).numpy(), image_size=(48, 60), field=(240.0, 300.0))


def test_inverse_square_and_obliquity_fall_as_the_third_power_of_the_cosine():
    field = open_field(CAMERA)
    _, directions = CAMERA.rays()
    cosine = directions @ CAMERA.direction
    assert (field - cosine**3).abs().max() < 1e-12
    assert field.min() < 0.9
    row, column = (int(n) for n in CAMERA.principal_point)
    assert field[row, column] > 0.9999  # the brightest place is where the ray is at a right angle, not the middle


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_the_heel_darkens_the_anodes_side(side):
    seen = absorbed(tube_spectrum(80.0), Detector())
    field = open_field(CAMERA, inverse_square=False, heel=Heel(towards=side), seen=seen)
    means = {"top": field[0], "bottom": field[-1], "left": field[:, 0], "right": field[:, -1]}
    ends = {name: line.mean().item() for name, line in means.items()}
    assert min(ends, key=ends.__getitem__) == side
    opposite = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}[side]
    assert ends[side] < 0.95 < 1 < ends[opposite]


def test_the_heel_is_beers_law_in_tungsten():
    heel, angle = Heel(anode_angle=12.0, depth=0.01), torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)
    a = math.radians(12)
    path = 0.01 * math.cos(a) * (1 / torch.sin(a - angle) - 1 / math.sin(a))
    expected = torch.exp(-3.713 * 19.3 / 10 * path)  # NIST's tungsten at 60 keV
    assert (heel_factor(angle, heel, monochromatic(60.0)) - expected).abs().max() < 1e-3
    assert heel_factor(torch.tensor([a + 0.01], dtype=torch.float64), heel, monochromatic(60.0)).item() == 0


def test_shutters_leave_the_rectangle_they_are_told():
    row_step, column_step = CAMERA.pixel_size
    margins = (5 * row_step, 7 * column_step, 9 * row_step, 0.0)  # top, right, bottom, left
    passed, exposed = shutters(CAMERA, Collimation(margins=margins, edge=0.0, leak=0.01))
    assert exposed[5:-9, :-7].all()
    assert exposed.sum() == (48 - 14) * (60 - 7)
    assert (passed[exposed] == 1).all()
    assert (passed[~exposed] - 0.01).abs().max() < 1e-12
    soft, _ = shutters(CAMERA, Collimation(margins=margins, edge=2 * row_step, leak=0.0))
    assert abs(soft[:, 20][4:6].mean().item() - 0.5) < 0.02  # half at the edge
    assert soft[24, 0] > 0.999  # a margin of nothing has no edge


def test_no_shutters_expose_all():
    passed, exposed = shutters(dataclasses.replace(CAMERA), Collimation())
    assert exposed.all()
    assert (passed == 1).all()
