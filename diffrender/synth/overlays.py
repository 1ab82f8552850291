"""Radiographs with outlines on them, as a report shows them."""

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from diffrender.display import label_colour
from diffrender.synth.films import Film

SIDE = 360  # px of the longer side as shown
TRUTH = (255, 255, 255)
MOST_SHOWN = 60  # overlays; the page of more is too large to open
SIDES = (
    "L is the patient's left, at the image's right as frontal films are hung; laterality is not read from the image."
)


def outlined(
    film: Film,
    found: Bool[np.ndarray, "label h w"],
    truth: Bool[np.ndarray, "label h w"] | None = None,
) -> UInt8[np.ndarray, "a b 3"]:
    """The film in grey, what was found outlined in each label's colour, what a person drew in white under it.

    "L" is written at the image's right, where the patient's left is on a frontal film hung as usual.
    """
    h, w = film.values.shape
    scale = min(1.0, SIDE / max(h, w))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    grey = Image.fromarray(np.rint(film.values * 255).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    picture = np.stack([np.asarray(grey)] * 3, axis=-1)
    for layer in () if truth is None else truth:
        picture[_edge(layer, size)] = TRUTH
    for number, layer in enumerate(found):
        picture[_edge(layer, size)] = label_colour(number)
    drawn = Image.fromarray(picture)
    ImageDraw.Draw(drawn).text((size[0] - 18, 4), "L", fill=(255, 255, 0), font_size=16)
    return np.asarray(drawn)


def legend(names: Sequence[str]) -> str:
    """Which colour is which label's, as HTML."""
    spans = (
        f'<span style="color: rgb{label_colour(number)}">&#9632;</span> {html.escape(name)}'
        for number, name in enumerate(names)
    )
    return f"<p>{', '.join(spans)}</p>"


def file_of(film: Film) -> str:
    """The file's name without its folder, and whether the film was turned round."""
    turned = {"stated": " (MONOCHROME1)", "detected": " (bone was dark, not said; turned round)"}.get(film.inverted, "")
    return film.name.replace("\\", "/").rsplit("/", 1)[-1] + turned


def _edge(layer: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "a b"]:
    from scipy import ndimage

    small = np.asarray(Image.fromarray(layer.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 127
    return small & np.logical_not(ndimage.binary_erosion(small, border_value=1))
