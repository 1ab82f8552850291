"""Outlines of fitted bones drawn on the frame, so that a person sees whether the pelvis lies on the pelvis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffrender.camera import Camera
from diffrender.display import annotated
from diffrender.errors import ImageError
from diffrender.mesh import Mesh
from diffrender.rays.surface import surface_pass
from diffrender.xray import Radiograph

START, FOUND, TRUE = (255, 150, 40), (60, 220, 255), (120, 255, 90)  # RGB: before, after, truth
SIZE = 512  # px, of a picture's longer side
SEEN = 0.5  # mm of path from which a bone is drawn
LINE = 340  # px of the picture for each px of a line's width


@dataclass(frozen=True, eq=False)
class Outline:
    """What is drawn around.

    Attributes:
        mask: (part, height, width) bool; of the picture's proportions, at any resolution.
        colour: RGB.
        name: for the legend; "" for none.
    """

    mask: Bool[Tensor, "part height width"]
    colour: tuple[int, int, int]
    name: str = ""


def outline_of(
    bodies: Mesh | Mapping[str, Mesh] | Sequence[Mesh],
    camera: Camera,
    colour: tuple[int, int, int] = FOUND,
    name: str = "",
    size: int = SIZE,
) -> Outline:
    """The shadows of closed surfaces, one outline each, at the picture's own resolution.

    Args:
        bodies: RAS [mm]; a mapping or a sequence for one outline around each.
        size: of the picture's longer side [px].
    """
    meshes = [bodies] if isinstance(bodies, Mesh) else list(bodies.values() if isinstance(bodies, Mapping) else bodies)
    fine = camera.resized(shown_size(camera, size))
    return Outline(torch.stack([surface_pass(mesh, fine).lengths.detach() > SEEN for mesh in meshes]), colour, name)


def parts_of(mesh: Mesh, parts: Sequence[tuple[str, int]]) -> dict[str, Mesh]:
    """The bones of a mesh whose vertices are those of its parts (name, number of vertices), one after the other."""
    found, first = {}, 0
    for name, count in parts:
        own = mesh.faces[((mesh.faces >= first) & (mesh.faces < first + count)).all(1)] - first
        found[name] = Mesh(mesh.vertices[first : first + count], own)
        first += count
    return found


def overlay(
    radiograph: Radiograph,
    outlines: Sequence[Outline],
    size: int = SIZE,
    window: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The frame with orientation letters, L where left is, and outlines in their colours, with a legend.

    Args:
        outlines: drawn in this order, the last one on top.
        size: of the frame's longer side [px], legend and notice not counted.
        window: as in `display.annotated`.
    Raises: ImageError for a mask of other proportions than the frame's.
    """
    picture = annotated(replace(radiograph, masks=None, path_lengths=None, ids=()), size=size, window=window).copy()
    height, width = shown_size(radiograph.camera, size)
    for outline in outlines:
        _draw(picture[:height, :width], outline)
    return _with_legend(picture, outlines, height)


def shown_size(camera: Camera, size: int) -> tuple[int, int]:
    """(height, width) [px] of a picture in its true proportion, the longer side of `size`."""
    (height, width), (row_step, column_step) = camera.image_size, camera.pixel_size
    across, down = width * column_step, height * row_step
    scale = size / max(across, down)
    return max(1, round(down * scale)), max(1, round(across * scale))


def _draw(picture: np.ndarray, outline: Outline) -> None:
    height, width = picture.shape[:2]
    if abs(outline.mask.shape[1] * width - outline.mask.shape[2] * height) > max(outline.mask.shape[1:]) * 2:
        raise ImageError(
            f"An outline of {outline.mask.shape[1]} x {outline.mask.shape[2]} pixels is not of the frame's "
            f"proportions, {height} x {width}. Was it made for another camera?"
        )
    for mask in outline.mask.cpu().numpy():
        image = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.NEAREST)
        large = np.asarray(image) > 0
        inner = large
        for _ in range(max(1, round(max(height, width) / LINE))):
            inner = _eroded(inner)
        picture[large & ~inner] = outline.colour


def _eroded(mask: np.ndarray) -> np.ndarray:
    wide = np.pad(mask, 1, constant_values=True)  # what goes on beyond the image has no outline along its edge
    return mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def _with_legend(picture: np.ndarray, outlines: Sequence[Outline], below: int) -> np.ndarray:
    """Names in their colours, in a row under the frame, above the notice."""
    named = [outline for outline in outlines if outline.name]
    if not named:
        return picture
    tall = max(12, round(below * 0.035))
    font = ImageFont.load_default(tall)
    strip = Image.new("RGB", (picture.shape[1], round(1.7 * tall)))
    draw, x = ImageDraw.Draw(strip), tall // 2
    for outline in named:
        draw.line((x, strip.height / 2, x + tall, strip.height / 2), fill=outline.colour, width=max(2, tall // 6))
        draw.text((x + 1.4 * tall, strip.height / 2), outline.name, anchor="lm", font=font, fill=(235, 235, 235))
        x += round(2.4 * tall + font.getlength(outline.name))
    return np.concatenate([picture[:below], np.asarray(strip), picture[below:]])
