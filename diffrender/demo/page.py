"""The page itself: sections of text, pictures and figures as one HTML file that needs no other."""

import base64
import html
import io
import json
import os
import platform
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from diffrender import __version__

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN, SMALL = 350, 255  # longer side of a picture on the page [px]: three or four stand side by side


@dataclass(frozen=True, eq=False)
class Picture:
    """An image (h, w, 3), what stands under it, and what it says to those who do not see it."""

    image: Shaped[np.ndarray, "h w 3"]
    caption: str
    alt: str


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page. `figures` are rows (what, value), `settings` is what a program would read."""

    title: str
    text: str
    pictures: Sequence[Picture] = ()
    figures: Sequence[tuple[str, str]] = ()
    settings: object = None


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def page_of(subject: str, sections: Mapping[str, Section], seconds: float) -> str:
    contents = "\n".join(f'<li><a href="#{name}">{html.escape(s.title)}</a></li>' for name, s in sections.items())
    footer = (
        f"DiffRender {__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores. "
        f"Made in {duration(seconds)}. Research use only, not a medical device. This page is one file and asks nothing "
        "of the network."
    )
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        subject=html.escape(subject),
        contents=contents,
        sections="\n".join(_section(name, section) for name, section in sections.items()),
        footer=html.escape(footer),
    )


def _section(name: str, section: Section) -> str:
    pictures = "\n".join(_figure(picture) for picture in section.pictures)
    rows = "\n".join(
        f"<tr><td>{html.escape(what)}</td><td>{html.escape(value)}</td></tr>" for what, value in section.figures
    )
    parts = [f'<section id="{name}">', f"<h2>{html.escape(section.title)}</h2>", f"<p>{section.text}</p>"]
    parts += [f'<div class="pictures">\n{pictures}\n</div>'] if pictures else []
    parts += [f"<table>\n{rows}\n</table>"] if rows else []
    if section.settings is not None:
        settings = html.escape(json.dumps(section.settings, indent=1))
        parts.append(f"<details><summary>Settings</summary><pre>{settings}</pre></details>")
    return "\n".join([*parts, "</section>"])


def _figure(picture: Picture) -> str:
    image = Image.fromarray(picture.image)
    grey = bool((picture.image == picture.image[..., :1]).all())
    buffer = io.BytesIO()
    (image.convert("L") if grey else image).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{html.escape(picture.alt)}"><figcaption>{html.escape(picture.caption)}</figcaption></figure>'
    )
