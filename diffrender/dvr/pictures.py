"""Colour pictures in files: straight alpha in 8 bits there, premultiplied in memory."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor

from diffrender.errors import ImageError, LabelError, PathError
from diffrender.io.files import found
from diffrender.io.whole import write_whole

LEVELS = 255
ALIKE = 12  # of 255: as far as a paint program or a colour profile moves a flat colour
CHOSEN = 40  # px of one and the same colour, which no soft edge has


def write_picture(path: str | Path, image: Float[Tensor, "4 h w"]) -> Path:
    """Premultiplied RGBA 0..1 as a PNG of 8 bits with straight alpha. Raises: OutputError."""
    return _write_png(path, Image.fromarray(straight(image), "RGBA"))


def write_ids(path: str | Path, ids: UInt8[Tensor, "h w"]) -> Path:
    """Ids as a grey PNG of 8 bits. Raises: OutputError."""
    return _write_png(path, Image.fromarray(ids.cpu().numpy(), "L"))


def read_picture(path: str | Path) -> Float[Tensor, "4 h w"]:
    """Premultiplied RGBA of a PNG with alpha. Raises: PathError, ImageError for one without."""
    picture = opened(path)
    if not has_alpha(picture):
        raise ImageError(
            f"{path} has no alpha (its mode is {picture.mode}): what is background in it is not known. Save it as RGBA."
        )
    return premultiplied(np.asarray(picture.convert("RGBA")))


def read_paint(path: str | Path, colours: Mapping[int, tuple[float, float, float]]) -> UInt8[Tensor, "h w"]:
    """The ids of a paint, 0 where nothing is painted.

    Args:
        path: a PNG of 8 bits whose greys, or indices into its palette, are the ids; or a layer of colours, transparent
            (without alpha: black) where nothing is painted, as paint programs write it.
        colours: {id: red, green, blue}, sRGB display values 0..1, of the ids that have one.
    Raises: PathError; LabelError for a colour that is none of `colours`; blends at the edges of strokes are no paint.
    """
    picture = opened(path)
    if picture.mode in ("L", "P"):
        return torch.from_numpy(np.array(picture))
    pixels = np.asarray(picture.convert("RGBA")).astype(np.int16)
    painted = (pixels[..., 3] >= LEVELS // 2) & (has_alpha(picture) | (pixels[..., :3].max(-1) > ALIKE))
    ids, nearest = np.zeros(painted.shape, np.uint8), np.full(painted.shape, ALIKE + 1)
    for number, colour in colours.items():
        apart = np.abs(pixels[..., :3] - np.rint(np.array(colour) * LEVELS)).max(-1)
        here = painted & (apart < nearest)
        ids[here], nearest[here] = number, apart[here]
    _refuse_strange(path, pixels[painted & (ids == 0)], int(painted.sum()))
    return torch.from_numpy(ids)


def _refuse_strange(path: str | Path, pixels: Integer[np.ndarray, "n 4"], painted: int) -> None:
    """Colours of no role: blends where strokes end are many and rare, what somebody chose is one and frequent."""
    if not len(pixels):
        return
    found, counts = np.unique(pixels[:, :3], axis=0, return_counts=True)
    most = int(counts.argmax())
    if counts[most] > CHOSEN or len(pixels) > painted / 2:
        colour = "#" + "".join(f"{int(n):02x}" for n in found[most])
        raise LabelError(
            f"{path} is painted in {colour} on {counts[most]} pixels, and no role has this colour. Give a role the "
            "colour you painted with, and save strokes as a layer of their own, transparent elsewhere."
        )


def opened(path: str | Path) -> Image.Image:
    """A picture of 8 bits, decoded. Raises: PathError, ImageError."""
    try:
        with Image.open(found(path)) as file:
            file.load()
            picture = file.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises on damage
        raise PathError(f"{path} is no picture, or it is damaged. Save it again as PNG.") from None
    if picture.mode.startswith(("I", "F")):
        raise ImageError(f"{path} has 16 bits or more a pixel (mode {picture.mode}). Save it with 8 bits a channel.")
    return picture


def has_alpha(picture: Image.Image) -> bool:
    """Whether some part of it may be transparent."""
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def premultiplied(pixels: UInt8[np.ndarray, "h w 4"]) -> Float[Tensor, "4 h w"]:
    """In memory, of what a file holds."""
    rgba = torch.from_numpy(pixels.astype(np.float32) / LEVELS).movedim(-1, 0)
    return torch.cat([rgba[:3] * rgba[3:], rgba[3:]])


def straight(image: Float[Tensor, "4 h w"]) -> UInt8[np.ndarray, "h w 4"]:
    """For a file, of what is in memory; the colour that shows best what was meant at the alpha that 8 bits can say."""
    image = image.detach().cpu().clamp(0, 1).double()
    alpha = (image[3] * LEVELS).round()
    colour = (image[:3] * LEVELS**2 / alpha.clamp(min=1)).round().clamp(0, LEVELS)
    colour = torch.where(alpha > 0, colour, 0.0)
    return torch.cat([colour, alpha[None]]).movedim(0, -1).to(torch.uint8).numpy()


def _write_png(path: str | Path, picture: Image.Image) -> Path:
    content = BytesIO()
    picture.save(content, format="PNG")
    return write_whole(path, content.getvalue())
