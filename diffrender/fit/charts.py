"""Small drawings for reports, as SVG in the page: no library, and they follow its colours."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT, LEFT, BELOW = 760, 300, 46, 46  # px
LABEL = 110  # px, the most that two numbers take
GRID = 'stroke="var(--line)" stroke-width="1"'


def boxes(groups: Mapping[str, Mapping[str, Sequence[float]]], colours: Mapping[str, str], unit: str) -> str:
    """Box plots side by side: of each group one for each kind; whiskers from the 5th to the 95th percentile.

    Args:
        groups: {group: {kind: values}}.
        colours: {kind: CSS colour}, in the order of drawing.
    """
    values = [v for kinds in groups.values() for some in kinds.values() for v in some if math.isfinite(v)]
    top = _round_up(float(np.percentile(values, 99))) if values else 1.0
    scale = (HEIGHT - BELOW - 12) / top
    parts, step = [_axis(top, unit)], (WIDTH - LEFT) / max(1, len(groups))
    slot = step * 0.8 / len(colours)
    for n, (group, kinds) in enumerate(groups.items()):
        first = LEFT + step * (n + 0.1)
        for m, (kind, colour) in enumerate(colours.items()):
            some = [v for v in kinds.get(kind, ()) if math.isfinite(v)]
            parts += _box(some, first + slot * (m + 0.5), min(slot * 0.7, 34), scale, colour) if some else []
        middle = LEFT + step * (n + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 26}" text-anchor="middle">{html.escape(group)}</text>')
    return _svg([*parts, *_legend(colours)], f"Box plots [{unit}]")


def stages_of(costs: Sequence[float]) -> list[list[float]]:
    """The stages of a fit: its costs, cut where one rises, since there the images become finer."""
    stages: list[list[float]] = []
    for cost in costs:
        if not math.isfinite(cost):
            continue
        if not stages or cost > stages[-1][-1]:
            stages.append([])
        stages[-1].append(cost)
    return stages


def fallen(stage: Sequence[float]) -> list[float]:
    """How much of a stage's fall is left: from 1 to 0; 0 where it did not fall."""
    span = stage[0] - stage[-1]
    return [(cost - stage[-1]) / span if span > 0 else 0.0 for cost in stage]


def line(costs: Sequence[float], what: str) -> str:
    """How the cost falls in each stage of a fit, each from its own highest to its own lowest."""
    stages, count = stages_of(costs), len(costs)
    if count < 2:
        return ""
    parts, done = [f'<line x1="{LEFT}" y1="{HEIGHT - BELOW}" x2="{WIDTH}" y2="{HEIGHT - BELOW}" {GRID}/>'], 0
    for stage in stages:
        x = LEFT + (WIDTH - LEFT - 10) * (done + np.arange(len(stage))) / (count - 1)
        y = 30 + (HEIGHT - BELOW - 30) * (1 - np.array(fallen(stage)))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="var(--found)" stroke-width="2"/>')
        at, anchor = (x[0], "start") if x[0] < WIDTH - LABEL else (WIDTH, "end")
        parts.append(f'<text x="{at:.1f}" y="20" text-anchor="{anchor}">{stage[0]:.4g} to {stage[-1]:.4g}</text>')
        done += len(stage)
    parts.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(what)}</text>')
    return _svg(parts, what)


def scatter(x: Sequence[float], y: Sequence[float], across: str, up: str) -> str:
    """Points, and the diagonal: below it, y is smaller."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    top = _round_up(max((max(pair) for pair in pairs), default=1.0))
    scale, across_scale = (HEIGHT - BELOW - 12) / top, (WIDTH / 2 - LEFT) / top
    floor = HEIGHT - BELOW
    dots = "".join(
        f'<circle cx="{LEFT + a * across_scale:.1f}" cy="{floor - b * scale:.1f}" r="3" fill="var(--found)" '
        'fill-opacity="0.5"/>'
        for a, b in pairs
    )
    parts = [
        _axis(top, "mm", WIDTH // 2),
        f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH // 2}" y2="12" stroke="var(--soft)" stroke-dasharray="4 4"/>',
        dots,
        f'<text x="{WIDTH // 4}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(across)} (0 to {top:g})</text>',
        f'<text x="{LEFT + 6}" y="24">{html.escape(up)}</text>',
    ]
    return _svg(parts, f"{up} against {across}", WIDTH // 2)


def _box(some: Sequence[float], x: float, width: float, scale: float, colour: str) -> list[str]:
    low, first, middle, third, high = (
        HEIGHT - BELOW - float(v) * scale for v in np.percentile(some, [5, 25, 50, 75, 95])
    )
    high = max(high, 2.0)
    return [
        f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-width="1.5"/>',
        (
            f'<rect x="{x - width / 2:.1f}" y="{third:.1f}" width="{width:.1f}" height="{max(first - third, 1):.1f}" '
            f'fill="{colour}" fill-opacity="0.35" stroke="{colour}"/>'
        ),
        (
            f'<line x1="{x - width / 2:.1f}" y1="{middle:.1f}" x2="{x + width / 2:.1f}" y2="{middle:.1f}" '
            f'stroke="{colour}" stroke-width="2.5"/>'
        ),
    ]


def _axis(top: float, unit: str, width: int = WIDTH) -> str:
    parts = []
    for n in range(5):
        y = HEIGHT - BELOW - (HEIGHT - BELOW - 12) * n / 4
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{width}" y2="{y:.1f}" {GRID}/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * n / 4:.3g}</text>')
    return "".join([*parts, f'<text x="2" y="{HEIGHT - BELOW + 16}">{html.escape(unit)}</text>'])


def _legend(colours: Mapping[str, str]) -> list[str]:
    parts, x = [], float(LEFT)
    for kind, colour in colours.items():
        parts.append(f'<rect x="{x:.0f}" y="{HEIGHT - 14}" width="12" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="{HEIGHT - 5}">{html.escape(kind)}</text>')
        x += 40 + 7.5 * len(kind)
    return parts


def _svg(parts: Sequence[str], says: str, width: int = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="img" '
        f'aria-label="{html.escape(says)}">' + "".join(parts) + "</svg>"
    )


def _round_up(value: float) -> float:
    """To 1, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((n * power for n in (1, 2, 3, 4, 5, 6, 8) if n * power >= value), 10 * power)
