"""The parts of a report's page: one HTML file that needs no other."""

import base64
import html
import io
import platform
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from diffrender import __version__

TEMPLATE = Path(__file__).with_name("pages.html")
QUALITY = 90  # of JPEG


def figure(image: Shaped[np.ndarray, "h w 3"], caption: str) -> str:
    """A picture with what stands under it."""
    buffer = io.BytesIO()
    # A frame's noise makes a PNG four times as large; colours at full resolution, for thin lines.
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return encoded(buffer.getvalue(), "jpeg", caption)


def encoded(content: bytes, kind: str, caption: str) -> str:
    """A picture file, "png" or "jpeg", with what stands under it."""
    data, text = base64.b64encode(content).decode("ascii"), html.escape(caption)
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def figures(pictures: Sequence[str], three: bool = False) -> str:
    """Figures side by side: as many as there is room for, or three in a row."""
    return f'<div class="pictures{" three" * three}">{"".join(pictures)}</div>' if pictures else ""


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def section(title: str, content: str) -> str:
    """A part of the page; `content` is HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def page(title: str, sections: Sequence[str]) -> str:
    """The whole page."""
    footer = (
        f"DiffRender {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}. Research use only, not a medical device. This page is one file and asks nothing of the "
        "network."
    )
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), sections="\n".join(sections), footer=html.escape(footer))
