"""Colour pictures in files: straight alpha in 8 bits there, premultiplied in memory."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffrender.errors import ImageError, PathError
from diffrender.io.files import found
from diffrender.io.whole import write_whole

LEVELS = 255


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


def read_ids(path: str | Path) -> UInt8[Tensor, "h w"]:
    """Ids of a PNG of 8 bits: its greys, or the indices into its palette. Raises: PathError, ImageError."""
    picture = opened(path)
    if picture.mode not in ("L", "P"):
        raise ImageError(
            f"{path} holds colours or other greys (mode {picture.mode}), not ids. Paint is a PNG of 8 bit greys, or "
            "one with a palette, whose numbers are the ids of the roles; save it so."
        )
    return torch.from_numpy(np.array(picture))


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
