import dataclasses

import pytest

from diffrender.errors import SettingError
from diffrender.physics.presets import EXAMINATIONS, examination, physics_preset, presentation_preset
from diffrender.physics.settings import Collimation, Detector, Grid, Heel, Physics, Scatter
from diffrender.views import PRESETS


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Physics(dose=-1.0), r"dose \[uGy\]"),
        (lambda: Physics(dose=None), "Noise needs a dose"),
        (lambda: Physics(dose=None, mas=2.0, energy=60.0), "mas needs a tube"),
        (lambda: Physics(energy=60.0, spectrum_file="a.csv"), "give one of"),
        (lambda: Physics(focal_spot=float("nan")), "focal_spot"),
        (lambda: Grid(ratio=40.0), "ratio goes from 5 to 15"),
        (lambda: Grid(scatter=1.5), "a share that passes"),
        (lambda: Scatter(strength=-0.1), "strength"),
        (lambda: Scatter(air_gap=-1.0), "air_gap"),
        (lambda: Detector(swank=0.0), "swank"),
        (lambda: Detector(half_modulation=0.0), "half_modulation"),
        (lambda: Collimation(margins=(1.0, -2.0, 3.0, 0.0)), "a margin"),
        (lambda: Heel(towards="cathode"), "top, bottom, left, right"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(SettingError, match=words):
        make()


def test_plain_has_every_effect_off():
    plain = Physics.plain(kvp=80.0)
    off = {f.name: getattr(plain, f.name) for f in dataclasses.fields(Physics)}
    assert plain.kvp == 80.0
    for name in ("noise", "inverse_square", "electronic_noise", "focal_spot"):
        assert not off[name]
    for name in ("scatter", "grid", "detector", "collimation", "heel", "dose", "mas"):
        assert off[name] is None


def test_every_view_has_its_examination():
    assert set(EXAMINATIONS) == set(PRESETS)
    assert all(name == one.view for name, one in EXAMINATIONS.items())


def test_chest_and_bedside_are_taken_as_they_are():
    upright, bedside = examination("chest-pa").physics, physics_preset("chest-ap-bedside")
    assert (upright.kvp, bedside.kvp) == (120.0, 85.0)
    assert (PRESETS["chest-pa"].source_to_detector, PRESETS["chest-ap-bedside"].source_to_detector) == (1800.0, 1000.0)
    assert upright.grid is not None
    assert bedside.grid is None
    assert presentation_preset("pelvis-ap") is examination("pelvis-ap").presentation
    with pytest.raises(SettingError, match="no examination; there are chest-pa"):
        physics_preset("knee")
