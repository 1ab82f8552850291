"""Transfer functions: what colour and which opacity a Hounsfield unit has."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffrender.dvr.volume_property import Points, read_volume_property, write_volume_property
from diffrender.errors import PathError, SettingError
from diffrender.io.whole import write_whole
from diffrender.rays.field import Table

FORMAT = 1
OPAQUE = 0.9999  # an opacity of 1 within a finite length would need an infinite extinction


@dataclass(frozen=True)
class TransferFunction:
    """Colour and opacity over HU, linear between points, held beyond the outermost, as in VTK.

    Attributes:
        colours: (HU, r, g, b) with rising HU; sRGB display values 0..1.
        opacities: (HU, opacity) with rising HU; the opacity that `unit_distance` of it has.
        unit_distance: [mm]; VTK's ScalarOpacityUnitDistance.
        name: for menus and provenance.
    Raises: SettingError for fewer than two points, HU that do not rise, or numbers that no colour or opacity has.
    """

    colours: tuple[tuple[float, float, float, float], ...]
    opacities: tuple[tuple[float, float], ...]
    unit_distance: float = 1.0
    name: str = ""

    def __post_init__(self):
        _check_points(self.colours, "colours", "(HU, red, green, blue)")
        _check_points(self.opacities, "opacities", "(HU, opacity)")
        if not 0 < self.unit_distance < math.inf:
            raise SettingError(f"unit_distance is a length above 0 [mm], not {self.unit_distance}.")

    def at(self, hu: Shaped[Tensor, "*n"]) -> Float[Tensor, "*n 4"]:
        """Red, green, blue and extinction kappa [1/mm] at HU: -ln(1 - opacity) / unit_distance."""
        at = hu.detach().cpu().double().numpy()
        found = np.empty((*at.shape, 4), dtype=np.float32)
        points = np.array(self.colours)
        for channel in range(3):
            found[..., channel] = np.interp(at, points[:, 0], points[:, channel + 1])
        where, opacity = np.array(self.opacities).T
        covered = np.minimum(np.interp(at, where, opacity), OPAQUE)
        found[..., 3] = -np.log1p(-covered) / self.unit_distance
        return torch.from_numpy(found).to(hu.device)

    def table(self, bins: int = 256, low: float = -1024.0, high: float = 3071.0) -> Table:
        """Evenly spaced entries (red, green, blue, extinction [1/mm]) for the march."""
        if not low < high or bins < 2 or not math.isfinite(high - low):
            raise SettingError(f"A table has two bins or more over a rising range, not {bins} over {low} to {high}.")
        return Table(self.at(torch.linspace(low, high, bins, dtype=torch.float64, device="cpu")), ((low, high),))

    def to_dict(self) -> dict[str, Any]:
        """As transfer.json holds it."""
        return {
            "format": FORMAT,
            "name": self.name,
            "unit_distance": self.unit_distance,
            "colours": [list(point) for point in self.colours],
            "opacities": [list(point) for point in self.opacities],
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> "TransferFunction":
        """Back from `to_dict`. Raises: SettingError, saying what is missing or wrong."""
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, Mapping) else type(record).__name__
            raise SettingError(f'A transfer function in JSON says "format": {FORMAT}; this one says {found!r}.')
        try:
            return transfer_function(
                record["colours"], record["opacities"], record.get("unit_distance", 1.0), record.get("name", "")
            )
        except KeyError as missing:
            raise SettingError(
                f"A transfer function holds colours and opacities; {missing} are missing here."
            ) from None
        except (TypeError, ValueError):
            raise SettingError(
                "A transfer function holds colours [[HU, r, g, b], ...] and opacities [[HU, a], ...], all of them "
                "numbers; here something else stands in one of the two."
            ) from None


def transfer_function(
    colours: Sequence[Sequence[float]],
    opacities: Sequence[Sequence[float]],
    unit_distance: float = 1.0,
    name: str = "",
) -> TransferFunction:
    """A `TransferFunction` of lists, as files hold them. Raises: SettingError, TypeError, ValueError."""
    return TransferFunction(
        tuple((float(hu), float(r), float(g), float(b)) for hu, r, g, b in colours),
        tuple((float(hu), float(a)) for hu, a in opacities),
        float(unit_distance),
        str(name),
    )


def transfer_of_table(
    entries: Float[Tensor, "bins 4"], low: float, high: float, unit_distance: float = 1.0, name: str = ""
) -> TransferFunction:
    """Back from a table that may have been trained: one point an entry, so that VTK draws with it what the table draws.

    Between two points VTK interpolates opacity and the march extinction: the same up to second order in both.

    Args:
        entries: red, green, blue and extinction [1/mm] at even steps from `low` to `high` [HU].
        unit_distance: that the opacities are for [mm].
    """
    values = entries.detach().cpu().double()
    hu = np.linspace(low, high, len(values)).tolist()
    opacities = (-torch.expm1(-values[:, 3] * unit_distance)).clamp(0, 1).tolist()
    colours = values[:, :3].clamp(0, 1).tolist()
    return transfer_function(
        [(at, *colour) for at, colour in zip(hu, colours, strict=True)],
        list(zip(hu, opacities, strict=True)),
        unit_distance,
        name,
    )


def read_transfer(path: str | Path) -> TransferFunction:
    """A transfer function from our JSON, or from Slicer's volume property (.vp, .vp.json).

    Slicer shades and can make opacity depend on the gradient: neither is part of a transfer function, and a `Notice`
    says so where the file asks for it.
    Raises: PathError, SettingError.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise PathError(f"{path} is no file. A transfer function is read from .json, .vp or .vp.json.")
    try:
        text = place.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PathError(f"{path} is no text. A transfer function is read from .json, .vp or .vp.json.") from None
    try:
        if place.suffix != ".json":
            return transfer_function(*read_volume_property(text, str(path)), name=place.stem)
        record = json.loads(text)
        if isinstance(record, dict) and "volumeProperties" in record:
            return transfer_function(*read_volume_property(record, str(path)), name=place.name.split(".")[0])
        return TransferFunction.from_dict(record)
    except json.JSONDecodeError as error:
        raise SettingError(f"{path} is no JSON: {error}. Was it cut off?") from None
    except SettingError as error:
        raise SettingError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def write_transfer(path: str | Path, transfer: TransferFunction) -> Path:
    """Write by the ending: .json (ours), .vp.json (Slicer 5.8 and later) or .vp (any Slicer).

    Slicer reads no more than 1023 characters of a line of a .vp: a trained table is thinned to the points that matter
    most until it fits, with a `Notice`; .vp.json holds it whole.
    Raises: SettingError for another ending, OutputError.
    """
    place = Path(path)
    if place.suffix not in (".json", ".vp"):
        raise SettingError(f"{path}: a transfer function is written as .json, .vp.json or .vp (Slicer).")
    if place.suffix == ".json" and not place.name.endswith(".vp.json"):
        return write_whole(place, json.dumps(transfer.to_dict(), indent=2) + "\n")
    whole = place.name.endswith(".vp.json")
    points = Points(transfer.colours, transfer.opacities, transfer.unit_distance)
    return write_whole(place, write_volume_property(points, str(path), whole))


def _check_points(points: Sequence[tuple[float, ...]], what: str, each: str) -> None:
    if len(points) < 2:
        raise SettingError(f"A transfer function has two {what} {each} or more, not {len(points)}.")
    if not all(math.isfinite(number) for point in points for number in point):
        raise SettingError(f"A transfer function's {what} are finite numbers; these hold NaN or infinity.")
    for (before, *_), (after, *_) in itertools.pairwise(points):
        if not before < after:
            raise SettingError(f"The HU of a transfer function's {what} rise; {before:g} comes before {after:g}.")
    for hu, *numbers in points:
        if not all(0 <= number <= 1 for number in numbers):
            raise SettingError(f"A transfer function's {what} lie between 0 and 1; at {hu:g} HU they are {numbers}.")


PRESETS: dict[str, TransferFunction] = {
    name: transfer_function(colours, opacities, name=name)
    for name, colours, opacities in (
        (
            "ct-bone",
            [
                (-1024, 0.36, 0.20, 0.11),
                (200, 0.36, 0.20, 0.11),
                (320, 0.66, 0.46, 0.30),
                (480, 0.92, 0.80, 0.62),
                (900, 1.0, 0.96, 0.87),
                (3071, 1.0, 1.0, 1.0),
            ],
            [(-1024, 0.0), (190, 0.0), (300, 0.07), (420, 0.32), (700, 0.75), (1200, 0.95), (3071, 0.98)],
        ),
        (
            "ct-vessels",
            [
                (-1024, 0.28, 0.02, 0.02),
                (160, 0.28, 0.02, 0.02),
                (270, 0.50, 0.05, 0.05),
                (360, 0.92, 0.16, 0.12),
                (440, 1.0, 0.42, 0.32),
                (520, 0.88, 0.72, 0.58),
                (800, 0.95, 0.88, 0.76),
                (3071, 1.0, 1.0, 1.0),
            ],
            [
                (-1024, 0.0),
                (160, 0.0),
                (250, 0.015),
                (310, 0.1),
                (360, 0.25),
                (430, 0.25),
                (500, 0.03),
                (900, 0.03),
                (3071, 0.05),
            ],
        ),
        (
            "ct-lung",
            [
                (-1024, 0.10, 0.22, 0.45),
                (-920, 0.10, 0.22, 0.45),
                (-820, 0.32, 0.55, 0.85),
                (-650, 0.66, 0.82, 0.98),
                (-400, 0.98, 0.92, 0.90),
                (3071, 0.98, 0.92, 0.90),
            ],
            [
                (-1024, 0.0),
                (-950, 0.0),
                (-880, 0.007),
                (-780, 0.014),
                (-600, 0.02),
                (-400, 0.01),
                (-250, 0.0),
                (3071, 0.0),
            ],
        ),
        (
            "ct-soft-tissue",
            [
                (-1024, 0.42, 0.25, 0.18),
                (-200, 0.52, 0.33, 0.24),
                (-90, 0.95, 0.80, 0.58),
                (-20, 0.48, 0.12, 0.10),
                (25, 0.72, 0.26, 0.22),
                (55, 0.90, 0.48, 0.42),
                (100, 0.97, 0.68, 0.60),
                (180, 0.97, 0.80, 0.70),
                (400, 0.98, 0.93, 0.82),
                (3071, 1.0, 1.0, 1.0),
            ],
            [
                (-1024, 0.0),
                (-300, 0.0),
                (-150, 0.003),
                (-60, 0.002),
                (-10, 0.008),
                (30, 0.03),
                (80, 0.06),
                (200, 0.15),
                (500, 0.6),
                (3071, 0.9),
            ],
        ),
        (
            "ct-skin",
            [
                (-1024, 0.36, 0.19, 0.12),
                (-500, 0.36, 0.19, 0.12),
                (-250, 0.55, 0.33, 0.24),
                (-100, 0.93, 0.74, 0.62),
                (20, 1.0, 0.86, 0.76),
                (3071, 1.0, 0.95, 0.90),
            ],
            [(-1024, 0.0), (-600, 0.0), (-400, 0.04), (-200, 0.10), (-100, 0.16), (0, 0.45), (200, 0.8), (3071, 0.95)],
        ),
    )
}


def transfer_preset(name: str) -> TransferFunction:
    """One of `PRESETS`. Raises: SettingError, listing them."""
    if name not in PRESETS:
        raise SettingError(f"{name!r} is no transfer function of ours; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
