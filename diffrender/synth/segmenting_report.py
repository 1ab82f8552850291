"""What a segmenter makes of radiographs, as one page: scores where there are masks, and overlays, the worst first."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from diffrender.pages import figure, figures, page, section, table
from diffrender.synth.films import Film
from diffrender.synth.overlays import MOST_SHOWN, SIDES, file_of, legend, outlined
from diffrender.synth.scores import Scored, mean_dice
from diffrender.synth.segmenter import Segmenter


def segmentation_page(
    segmenter: Segmenter,
    scored: Sequence[Scored],
    groups: Mapping[str, Sequence[str]] | None = None,
    title: str = "Segmentation of radiographs",
) -> str:
    """Scores and overlays of radiographs whose masks a person drew (white), the worst first.

    Args:
        scored: of `evaluate_segmenter`.
        groups: {name of a group: names of its films}, scored apart: views, findings.
    """
    names = segmenter.settings.names
    rows = [["", "images", "mean Dice", "worst", *names], _row("all", scored)]
    for group, members in (groups or {}).items():
        some = [one for one in scored if one.film.name in set(members)]
        if some:
            rows.append(_row(group, some))
    shown = [
        figure(outlined(one.film, one.found, one.one.masks), f"{file_of(one.film)}: {_values(names, one.dice)}")
        for one in scored[:MOST_SHOWN]
    ]
    return page(
        title,
        [
            section("Agreement with what people drew", table(rows)),
            section(
                "The radiographs, the worst first",
                f"<p>White: drawn by a person. {SIDES}</p>{legend(names)}{figures(shown)}",
            ),
            section("The segmenter", _about(segmenter)),
        ],
    )


def overlay_page(
    segmenter: Segmenter,
    films: Sequence[Film],
    found: Sequence[Bool[np.ndarray, "label _h _w"]],  # each as large as its film
    title: str = "Segmentation of radiographs",
) -> str:
    """Overlays of radiographs without masks, those first of which least was found."""
    names = segmenter.settings.names
    order = sorted(range(len(films)), key=lambda n: min(layer.mean() for layer in found[n]))
    shown = [
        figure(outlined(films[n], found[n]), f"{file_of(films[n])}: {_areas(names, found[n])}")
        for n in order[:MOST_SHOWN]
    ]
    left = f" {len(films) - MOST_SHOWN} more are not shown." if len(films) > MOST_SHOWN else ""
    text = f"<p>Those first of which least was found.{left} {SIDES}</p>{legend(names)}"
    return page(title, [section("The radiographs", text + figures(shown)), section("The segmenter", _about(segmenter))])


def _row(name: str, scored: Sequence[Scored]) -> list[str]:
    by_label = np.nanmean(np.array([one.dice for one in scored], dtype=float), axis=0)
    worst = min((one.mean for one in scored if one.mean == one.mean), default=float("nan"))
    return [name, str(len(scored)), f"{mean_dice(scored):.3f}", f"{worst:.3f}", *(f"{value:.3f}" for value in by_label)]


def _values(names: Sequence[str], dice: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in zip(names, dice, strict=True))


def _areas(names: Sequence[str], found: Bool[np.ndarray, "label h w"]) -> str:
    return ", ".join(f"{name} {100 * layer.mean():.1f} %" for name, layer in zip(names, found, strict=True)) + " of it"


def _about(segmenter: Segmenter) -> str:
    flat: dict[str, Any] = {"labels": ", ".join(segmenter.settings.names), "network": segmenter.settings.network}
    flat["image size"] = "{} x {} px".format(*segmenter.settings.image_size)
    flat |= {str(name): value for name, value in segmenter.info.items() if isinstance(value, str | int | float)}
    items = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in flat.items()
    )
    return f"<table>{items}</table>"
