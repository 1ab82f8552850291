"""Views as radiographers take them: around a preset, each drawn by hashing, whatever the order or the process."""

import hashlib
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import SettingError
from diffrender.synth.framing import Field, field_of
from diffrender.views import PRESETS, preset
from diffrender.volume import Volume

DISTRIBUTIONS = ("uniform", "normal")
CUT = 2.5  # deviations at which a normal distribution is cut: a radiographer would take the image again
STRAYS = ("primary", "secondary", "roll", "shift", "distance", "zoom")
DRAWN = ("primary", "secondary", "roll", "across", "along", "distance", "zoom")


@dataclass(frozen=True)
class ViewSpread:
    """A view, and how far images of it stray.

    Each number is the half-width of a uniform distribution about the view, or one standard deviation of a normal one
    that is cut at 2.5 of them.

    Attributes:
        view: the name of one of `diffrender.views.PRESETS`, or a camera of one's own.
        primary: the detector's turn about the patient's long axis [degrees].
        secondary: its tilt towards head and feet, about the patient's left-right axis [degrees].
        roll: the image's turn in its own plane [degrees].
        shift: of source and detector along the image's columns and rows [mm], each by itself.
        distance: of the source along the beam, the detector staying where it is [mm].
        zoom: of the detector's size, a share: 0.1 shows from 10 % less to 10 % more.
        distribution: "uniform" or "normal".
        in_frame: what the view is of stays in the picture: where a draw would cut it, the detector is moved in its
            plane, and made larger if it must be.
    Raises: SettingError.
    """

    view: str | Camera = "chest-pa"
    primary: float = 0.0
    secondary: float = 0.0
    roll: float = 0.0
    shift: float = 0.0
    distance: float = 0.0
    zoom: float = 0.0
    distribution: str = "uniform"
    in_frame: bool = True

    def __post_init__(self):
        if self.distribution not in DISTRIBUTIONS:
            raise SettingError(f"distribution is one of {', '.join(DISTRIBUTIONS)}, not {self.distribution!r}.")
        if isinstance(self.view, str) and self.view not in PRESETS:
            raise SettingError(f"{self.view!r} is no preset; there are {', '.join(PRESETS)}.")
        for name, most in (("primary", 180), ("secondary", 90), ("roll", 180), ("shift", 1e3), ("distance", 1e3)):
            self._check(name, most)
        self._check("zoom", 0.5)

    def _check(self, name: str, most: float) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= most:
            raise SettingError(
                f"{name} is how far views stray to either side, a number from 0 to {most:g}, not {value!r}."
            )


SPREADS: dict[str, ViewSpread] = {
    "chest-pa": ViewSpread("chest-pa", 4, 4, 3, 10, 50, 0.1),
    "chest-ap-bedside": ViewSpread("chest-ap-bedside", 8, 8, 6, 15, 100, 0.12),
    "chest-lateral": ViewSpread("chest-lateral", 6, 4, 4, 12, 50, 0.1),
    "pelvis-ap": ViewSpread("pelvis-ap", 6, 8, 5, 20, 80, 0.1),
    "c-arm": ViewSpread("c-arm", 45, 30, 10, 30, 50, 0.1, in_frame=False),
}


def spread_preset(name: str) -> ViewSpread:
    """The spread of a named view; `SPREADS` has those of the literature's views, other presets get a small one.

    Raises: SettingError for an unknown name.
    """
    return SPREADS.get(name) or ViewSpread(name, 4, 4, 3, 10, 50, 0.1)


def widened(spread: ViewSpread, times: float) -> ViewSpread:
    """The same view, straying so many times as far; 0 for not at all. Raises: SettingError."""
    return replace(spread, **{name: times * getattr(spread, name) for name in STRAYS})


def drawn_camera(
    volume: Volume,
    spread: ViewSpread | str,
    *,
    ct_hash: str,
    view: int,
    seed: int,
    image_size: tuple[int, int] = (256, 256),
    pixel_size: float | tuple[float, float] | None = None,
) -> Camera:
    """The camera of one view of one CT.

    Args:
        spread: or the name of a preset of spreads.
        ct_hash, view, seed: what is drawn hangs on these three alone.
        image_size: (height, width) [px].
        pixel_size: (row, column) step [mm], or one number; None sizes the detector to what the view is of: the lungs
            with a hand's breadth around them for a chest, hips and sacrum for a pelvis, 240 mm for a C-arm, else the
            whole volume; and to no more than the CT shows, where that ends above or below.
    Raises: SettingError, GeometryError; LabelError for a chest view of a volume without lungs.
    """
    spread = spread_preset(spread) if isinstance(spread, str) else spread
    field = field_of(volume, spread.view if isinstance(spread.view, str) else "whole")
    base = _base(volume, spread, field, image_size, pixel_size)
    draws = {name: _draw(f"{ct_hash} {view} {seed} {name}", spread.distribution) for name in DRAWN}
    camera = _strayed(base, field.centre, spread, draws)
    return _framed(camera, field.core, pixel_size is None) if spread.in_frame else camera


def _draw(what: str, distribution: str) -> float:
    """A number between -1 and 1, or a standard normal one: the same for the same words on every machine."""
    share = (int.from_bytes(hashlib.sha256(what.encode()).digest()[:7], "big") + 0.5) / 2**56
    if distribution == "uniform":
        return 2 * share - 1
    low = NormalDist().cdf(-CUT)
    return NormalDist().inv_cdf(low + share * (1 - 2 * low))


def _base(
    volume: Volume,
    spread: ViewSpread,
    field: Field,
    image_size: tuple[int, int],
    pixel_size: float | tuple[float, float] | None,
) -> Camera:
    """The view itself, aimed at the field and sized to it."""
    if isinstance(spread.view, Camera):
        camera = spread.view.resized(image_size)
        if pixel_size is None:
            return camera
        steps = (pixel_size, pixel_size) if isinstance(pixel_size, int | float) else pixel_size
        return replace(camera, pixel_size=(float(steps[0]), float(steps[1])))
    if PRESETS[spread.view].side is not None:
        return preset(spread.view, volume, image_size, pixel_size)
    camera = preset(spread.view, volume, image_size, pixel_size=1.0 if pixel_size is None else pixel_size)
    x, y = camera.world_from_camera[:3, 0], camera.world_from_camera[:3, 1]
    away = field.centre - camera.source
    camera = _moved(camera, (away @ x) * x + (away @ y) * y)
    return camera if pixel_size is not None else field.sized(camera)


def _strayed(camera: Camera, about: Float[Tensor, "3"], spread: ViewSpread, draws: dict[str, float]) -> Camera:
    turn = _turn(2, spread.primary * draws["primary"]) @ _turn(0, spread.secondary * draws["secondary"])
    matrix = camera.world_from_camera.clone()
    matrix[:3, :3] = turn @ matrix[:3, :3] @ _turn(2, spread.roll * draws["roll"])
    x, y, z = matrix[:3, :3].unbind(1)
    back = spread.distance * draws["distance"]
    source = turn @ (camera.source - about) + about
    matrix[:3, 3] = source + spread.shift * (draws["across"] * x + draws["along"] * y) - back * z
    scale = 1 + spread.zoom * draws["zoom"]
    row, column = camera.pixel_size
    distance = camera.source_to_detector + back
    return replace(
        camera, world_from_camera=matrix, source_to_detector=distance, pixel_size=(row * scale, column * scale)
    )


def _turn(axis: int, degrees: float) -> Float[Tensor, "3 3"]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.eye(3, dtype=torch.float64)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def _moved(camera: Camera, by: Float[Tensor, "3"]) -> Camera:
    matrix = camera.world_from_camera.clone()
    matrix[:3, 3] += by
    return replace(camera, world_from_camera=matrix)


def _framed(camera: Camera, core: Float[Tensor, "n 3"], resize: bool) -> Camera:
    """The detector moved in its plane, and made larger if need be and allowed, until it holds the core's shadow."""
    size = torch.tensor(camera.image_size, dtype=torch.float64)
    places = camera.project(core)
    if not bool(torch.isfinite(places).all()):
        return camera
    scale = max(1.0, ((places.amax(0) - places.amin(0)) / size).max().item()) if resize else 1.0
    principal = torch.tensor(camera.principal_point, dtype=torch.float64)
    middle = size / 2
    places, principal = (middle + (n - middle) / scale for n in (places, principal))
    low, high = places.amin(0), places.amax(0)
    move = torch.where(low < 0, -low, torch.where(high > size, size - high, 0.0))
    move = torch.where(high - low > size, middle - (low + high) / 2, move)  # larger than a detector of fixed size
    row, column = camera.pixel_size
    pixels = (row * scale, column * scale)
    return replace(camera, pixel_size=pixels, principal_point=tuple((principal + move).tolist()))
