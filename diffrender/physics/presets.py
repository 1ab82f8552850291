"""Examinations as they are taken: the view by its name in `diffrender.views`, tube and detector, how it is shown.

Voltages, distances and grids are those in common use; doses are air kerma of the open beam at the detector, set so that
behind the patient about 2 to 3 uGy are left, of fluoroscopy some 0.05 a frame.
"""

from dataclasses import dataclass

from diffrender.errors import SettingError
from diffrender.physics.presentation import Presentation
from diffrender.physics.settings import Detector, Grid, Heel, Physics, Scatter

_CHEST = Presentation(percentiles=(0.5, 99.8), voi="linear", gamma=1.3, contrast=(2.0, 2.4, 1.9, 1.2), evened=0.55)
_BEDSIDE = Presentation(percentiles=(0.5, 99.8), voi="linear", gamma=1.4, contrast=(2.2, 2.8, 2.4, 1.5), evened=0.75)
_BONE = Presentation(percentiles=(2.0, 99.5), voi="linear", contrast=(2.0, 2.5, 2.0, 1.2), evened=0.6)
_SCREEN = Presentation(percentiles=(1.0, 99.8), voi="linear", contrast=(1.5, 1.7, 1.4, 1.0), evened=0.4)


@dataclass(frozen=True)
class Examination:
    """What belongs together: `view` names one of `diffrender.views.PRESETS`."""

    view: str
    physics: Physics
    presentation: Presentation
    what: str


def _bucky(kvp: float, dose: float, heel: Heel | None = None) -> Physics:
    return Physics(kvp=kvp, aluminium=3.0, dose=dose, grid=Grid(12.0), focal_spot=1.0, heel=heel)


# Without a heel nearer than 180 cm: detectors are sized to the volume, and may reach beyond what the anode lets out.
_UPRIGHT = Heel(towards="top")
_PELVIS = _bucky(77.0, 600.0)
_FLUOROSCOPY = Physics(
    kvp=75.0,
    aluminium=3.5,
    copper=0.1,
    dose=15.0,
    grid=Grid(8.0),
    focal_spot=0.6,
    detector=Detector(half_modulation=1.2, pitch=0.2),
    electronic_noise=1000.0,
)

EXAMINATIONS: dict[str, Examination] = {
    "chest-pa": Examination("chest-pa", _bucky(120.0, 60.0, _UPRIGHT), _CHEST, "standing, 180 cm, 120 kVp, grid 12:1"),
    "chest-lateral": Examination(
        "chest-lateral", _bucky(120.0, 200.0, _UPRIGHT), _CHEST, "standing, 180 cm, 120 kVp, grid 12:1"
    ),
    "chest-ap-bedside": Examination(
        "chest-ap-bedside",
        Physics(
            kvp=85.0,
            aluminium=3.0,
            dose=60.0,
            scatter=Scatter(),
            focal_spot=1.2,
        ),
        _BEDSIDE,
        "lying, 100 cm, 85 kVp, no grid",
    ),
    "pelvis-ap": Examination("pelvis-ap", _PELVIS, _BONE, "lying, 115 cm, 77 kVp, grid 12:1"),
    "pelvis-inlet": Examination("pelvis-inlet", _PELVIS, _BONE, "as pelvis-ap"),
    "pelvis-outlet": Examination("pelvis-outlet", _PELVIS, _BONE, "as pelvis-ap"),
    "pelvis-lateral": Examination("pelvis-lateral", _bucky(90.0, 3000.0), _BONE, "lying, 115 cm, 90 kVp, grid 12:1"),
    "spine-lateral": Examination("spine-lateral", _bucky(90.0, 2000.0), _BONE, "lying, 115 cm, 90 kVp, grid 12:1"),
    "hip-left": Examination("hip-left", _PELVIS, _BONE, "as pelvis-ap"),
    "hip-right": Examination("hip-right", _PELVIS, _BONE, "as pelvis-ap"),
    "c-arm": Examination("c-arm", _FLUOROSCOPY, _SCREEN, "fluoroscopy, 100 cm, 75 kVp, grid 8:1"),
    "frontal": Examination("frontal", _FLUOROSCOPY, _SCREEN, "fluoroscopy, 102 cm, 75 kVp, grid 8:1"),
}


def examination(name: str) -> Examination:
    """What belongs to a named view. Raises: SettingError, naming those there are."""
    if name not in EXAMINATIONS:
        raise SettingError(f"{name!r} is no examination; there are {', '.join(EXAMINATIONS)}.")
    return EXAMINATIONS[name]


def physics_preset(name: str) -> Physics:
    """Tube, dose, grid and detector of an examination, named as its view. Raises: SettingError."""
    return examination(name).physics


def presentation_preset(name: str) -> Presentation:
    """How an examination is shown, named as its view. Raises: SettingError."""
    return examination(name).presentation
