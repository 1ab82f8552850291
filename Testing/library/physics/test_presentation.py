import math

import pytest
import torch

from diffrender.errors import SettingError
from diffrender.physics.presentation import SCALES, Presentation, body_of, present

SIZE = (64, 80)


def patient(bone=4.5):
    """Air, a body of 3 that is not in the middle, a lung of 1, a bone; log-attenuation."""
    image = torch.zeros(SIZE, dtype=torch.float64)
    image[6:60, 12:74] = 3.0
    image[14:40, 20:40] = 1.0
    image[44:50, 30:70] = bone
    return image


def test_the_sigmoid_is_dicoms():
    # PS3.3 C.11.2.1.3.1 with y from 0 to 1: 1 / (1 + exp(-4 (x - c) / w))
    shown = present(patient(), Presentation(window=(2.5, 2.0), voi="sigmoid"))
    for place, x in (((0, 0), 0.0), ((20, 30), 1.0), ((10, 15), 3.0), ((46, 50), 4.5)):
        assert abs(shown[place].item() - 1 / (1 + math.exp(-4 * (x - 2.5) / 2.0))) < 1e-12


def test_the_line_ends_at_black_and_white():
    shown = present(patient(), Presentation(window=(3.0, 2.0), voi="linear"))
    assert shown[0, 0] == 0
    assert shown[20, 30] == 0
    assert abs(shown[10, 15].item() - 0.5) < 1e-12
    assert shown[46, 50] == 1
    bright = present(patient(), Presentation(window=(3.0, 2.0), voi="linear", gamma=0.5))
    assert abs(bright[10, 15].item() - math.sqrt(0.5)) < 1e-12


def test_monochrome1_turns_grey_round():
    one, two = (present(patient(), Presentation(photometric=f"MONOCHROME{n}")) for n in (1, 2))
    assert (one + two - 1).abs().max() < 1e-12
    assert two[46, 50] > two[10, 15] > two[20, 30] > two[0, 0]


@pytest.mark.parametrize("voi", ["linear", "sigmoid"])
def test_an_automatic_window_spans_the_body_and_not_the_air(voi):
    shown = present(patient(), Presentation(percentiles=(1.0, 99.0), voi=voi))
    assert abs(shown[20, 30].item() - 0.05) < 0.02  # lungs are the darkest of the body, bone the brightest
    assert abs(shown[46, 50].item() - 0.95) < 0.02
    other = present(
        torch.nn.functional.pad(patient(), (40, 40, 40, 40)), Presentation(percentiles=(1.0, 99.0), voi=voi)
    )
    assert abs(other[60, 70].item() - shown[20, 30].item()) < 0.02


def test_what_lies_beyond_the_shutters_is_black_and_not_looked_at():
    image, exposed = patient(), torch.zeros(SIZE, dtype=torch.bool)
    exposed[:, :60] = True
    image[:, 60:] = 9.0
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        shown = present(image, Presentation(photometric=photometric), exposed)
        assert (shown[:, 60:] == 0).all()
    assert shown[46, 50] > 0.9
    assert not body_of(image, exposed)[:, 60:].any()


def test_evening_out_and_contrast_change_what_they_say():
    generator = torch.Generator().manual_seed(1)
    image = torch.full((96, 110), 2.0, dtype=torch.float64) + torch.linspace(0, 2, 110, dtype=torch.float64)
    image = image + 0.05 * torch.randn(96, 110, generator=generator, dtype=torch.float64)
    window = (3.0, 100.0)  # so wide that the curve is straight

    def structure(**change):
        shown = (present(image, Presentation(window=window, voi="linear", **change)) - 0.5) * 100
        middle = shown[20:-20, 20:-20]
        return middle.mean(0)[-8:].mean() - middle.mean(0)[:8].mean(), (middle - middle.mean(0)).std()

    slope, detail = structure()
    evened, _ = structure(evened=0.8)
    _, sharper = structure(contrast=(3.0, 1.0, 1.0, 1.0))
    assert evened < 0.5 * slope
    assert sharper > 1.5 * detail
    assert abs(structure(contrast=(1.0, 1.0, 1.0, 1.0), evened=0.0)[0] - slope) < 1e-9


def test_enhancement_leaves_air_alone():
    shown = present(patient(), Presentation(window=(2.0, 4.0), voi="linear", contrast=(3.0, 3.0, 2.0, 2.0), evened=0.9))
    assert (shown[:6] == 0).all()
    assert (shown[:, :12] == 0).all()


def test_air_beside_the_skin_throws_no_shadow_into_the_body():
    even = torch.where(patient() > 0, 3.0, 0.0).double()
    shown = present(even, Presentation(window=(3.0, 4.0), voi="linear", contrast=(3.0, 3.0, 2.0, 2.0), evened=0.5))
    assert (shown[even > 0] - 0.5).abs().max() < 1e-9


def test_all_air_or_flat_can_be_shown():
    for value in (0.0, 2.0):
        shown = present(torch.full(SIZE, value), Presentation(contrast=(2.0, 2.0, 1.0, 1.0), evened=0.5))
        assert torch.isfinite(shown).all()
        assert shown.min() >= 0
        assert shown.max() <= 1


def test_gradients_pass_to_the_image():
    image = (patient()[::6, ::7] + 0.3).clone().requires_grad_()
    settings = Presentation(window=(2.0, 6.0), contrast=(1.5, 1.2, 1.0, 1.0), gamma=0.8)
    assert torch.autograd.gradcheck(lambda x: present(x, settings), (image,), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"voi": "log"}, "linear, sigmoid"),
        ({"photometric": "RGB"}, "MONOCHROME1"),
        ({"window": (1.0, 0.0)}, "width above zero"),
        ({"percentiles": (60.0, 40.0)}, "percentiles rise"),
        ({"gamma": 0.0}, "gamma"),
        ({"evened": 2.0}, "evened"),
        ({"contrast": (1.0, 1.0, 1.0, -1.0)}, f"{len(SCALES)} factors"),
    ],
)
def test_what_cannot_be_shown_is_refused(change, words):
    with pytest.raises(SettingError, match=words):
        Presentation(**change)
