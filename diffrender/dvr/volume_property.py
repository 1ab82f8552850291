"""Slicer's volume property files: .vp (nine lines of numbers) and .vp.json.

Source: vtkMRMLVolumePropertyStorageNode and volume-property-schema-v1.0.0 of 3D Slicer.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffrender.errors import SettingError, notify

LINES = ("interpolation", "shade", "diffuse", "ambient", "specular", "specular power")
FUNCTIONS = ("scalar opacity", "gradient opacity", "colour")
LIGHT = {"ambient": 0.1, "diffuse": 0.9, "specular": 0.2, "specularPower": 10.0}
LONGEST = 1023  # characters that Slicer reads of a line
OPAQUE = 0.9999  # as in transfer functions: what an opacity of 1 stands for
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/main/Modules/Loadable/VolumeRendering/Resources/Schema/"
    "volume-property-schema-v1.0.0.json#"
)


class Points(NamedTuple):
    """The points of a transfer function: (HU, r, g, b), (HU, opacity) and the length that opacity is for [mm]."""

    colours: Sequence[Sequence[float]]
    opacities: Sequence[Sequence[float]]
    unit_distance: float


def read_volume_property(content: str | Mapping[str, Any], what: str) -> Points:
    """The points of a .vp's text or a .vp.json's record; `what` begins messages.

    Raises: SettingError. What a transfer function cannot hold (shading, gradient opacity) gets a `Notice`.
    """
    read = _of_text(content, what) if isinstance(content, str) else _of_record(content, what)
    colours, opacities, gradient, shade, unit_distance = read
    lost = ["shading"] if shade else []
    if any(opacity != 1 for _, opacity in gradient):
        lost.append("opacity by gradient")
    if lost:
        notify(f"{what} asks for {' and '.join(lost)}; we draw colour and opacity of HU alone, so it looks different.")
    return Points(_rising(colours), _rising(opacities), unit_distance)


def write_volume_property(points: Points, what: str, whole: bool) -> str:
    """The text of a .vp.json (`whole`) or a .vp, whose opacities are for 1 mm, Slicer's default."""
    if whole:
        return json.dumps(_record(points), indent=2) + "\n"
    opacities = points.opacities
    if points.unit_distance != 1:
        opacities = [(hu, -math.expm1(math.log1p(-min(a, OPAQUE)) / points.unit_distance)) for hu, a in opacities]
    lines = [_fitted(opacities, "opacities", what), "4 0 1 255 1", _fitted(points.colours, "colours", what)]
    light = [f"{LIGHT[key]:g}" for key in ("diffuse", "ambient", "specular", "specularPower")]
    return "\n".join(["1", "0", *light, *lines]) + "\n"


def _of_text(text: str, what: str) -> tuple[list, list, list, bool, float]:
    lines = text.splitlines()
    if len(lines) < len(LINES) + len(FUNCTIONS):
        raise SettingError(
            f"{what} has {len(lines)} lines; Slicer's volume property has nine ({', '.join((*LINES, *FUNCTIONS))}). "
            "Was it cut off?"
        )
    opacities, gradient, colours = (
        _points(line, size, f"{what}, line {n + 7} ({name})")
        for n, (line, size, name) in enumerate(zip(lines[6:9], (2, 2, 4), FUNCTIONS, strict=True))
    )
    return colours, opacities, gradient, lines[1].split()[:1] not in ([], ["0"]), 1.0


def _points(line: str, size: int, what: str) -> list[list[float]]:
    """The numbers of a line: how many, then the points one behind the other."""
    try:
        count, *numbers = [float(word) for word in line.split()]
    except ValueError:
        raise SettingError(f"{what} holds something that is no number, or nothing: {line[:40]!r}.") from None
    if count != len(numbers) or len(numbers) % size:
        raise SettingError(
            f"{what} announces {count:g} numbers and holds {len(numbers)}, {size} a point. Was it cut off?"
        )
    return [numbers[n : n + size] for n in range(0, len(numbers), size)]


def _of_record(record: Mapping[str, Any], what: str) -> tuple[list, list, list, bool, float]:
    try:
        component = record["volumeProperties"][0]["components"][0]
        colours = [[point["x"], *point["color"]] for point in component["rgbTransferFunction"]["points"]]
        opacities = [[point["x"], point["y"]] for point in component["scalarOpacity"]["points"]]
        gradient = [[p["x"], p["y"]] for p in component.get("gradientOpacity", {"points": []})["points"]]
    except (KeyError, IndexError, TypeError) as error:
        raise SettingError(f"{what} is no volume property of Slicer, or one without a component: {error!r}.") from None
    if component.get("disableGradientOpacity"):
        gradient = []
    return (
        colours,
        opacities,
        gradient,
        bool(component.get("shade")),
        float(component.get("scalarOpacityUnitDistance", 1)),
    )


def _record(points: Points) -> dict[str, Any]:
    middle = {"midpoint": 0.5, "sharpness": 0.0}
    flat = [{"x": x, "y": 1.0, **middle} for x in (0.0, 255.0)]
    component = {
        "componentWeight": 1.0,
        "shade": False,
        "lighting": LIGHT,
        "scalarOpacityUnitDistance": points.unit_distance,
        "rgbTransferFunction": {"points": [{"x": x, "color": list(c), **middle} for x, *c in points.colours]},
        "scalarOpacity": {"points": [{"x": x, "y": y, **middle} for x, y in points.opacities]},
        "gradientOpacity": {"points": flat},
    }
    effective = [min(points.colours[0][0], points.opacities[0][0]), max(points.colours[-1][0], points.opacities[-1][0])]
    return {
        "@schema": SCHEMA,
        "volumeProperties": [
            {
                "effectiveRange": effective,
                "independentComponents": True,
                "interpolationType": "linear",
                "components": [component],
            }
        ],
    }


def _rising(points: list[list[float]]) -> list[list[float]]:
    """Points at one HU make a step; as Slicer does, each is moved behind the one before by the least there is."""
    moved: list[list[float]] = []
    for hu, *rest in points:
        least = np.nextafter(moved[-1][0], math.inf) if moved else hu
        moved.append([max(hu, float(least)), *rest])
    return moved


def _fitted(points: Sequence[Sequence[float]], kind: str, what: str) -> str:
    """The line of these points, thinned until Slicer reads it whole."""
    kept, worst = np.array(points), 0.0
    while len(line := _line(kept.tolist())) > LONGEST:
        # the point that lies closest to the line between its neighbours goes
        before, at, after = kept[:-2], kept[1:-1], kept[2:]
        share = ((at[:, 0] - before[:, 0]) / (after[:, 0] - before[:, 0]))[:, None]
        kept = np.delete(kept, 1 + np.abs(before + share * (after - before) - at)[:, 1:].max(1).argmin(), 0)
    if len(kept) < len(points):
        whole = np.array(points)
        found = np.stack([np.interp(whole[:, 0], kept[:, 0], column) for column in kept.T[1:]], 1)
        worst = np.abs(found - whole[:, 1:]).max()
        notify(
            f"{what}: {len(kept)} of {len(points)} {kind} are kept, since Slicer reads {LONGEST} characters of a line; "
            f"they differ by at most {worst:.3f}. A name that ends with .vp.json keeps all of them."
        )
    return line


def _line(points: Sequence[Sequence[float]]) -> str:
    numbers = [number for point in points for number in point]
    return " ".join([str(len(numbers)), *(f"{number:.10g}" for number in numbers)])
