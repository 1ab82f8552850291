"""The files of one image as bytes, the same for the same image."""

import json
from io import BytesIO

import numpy as np
import tifffile
import torch
from jaxtyping import Bool, Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffrender import __version__
from diffrender.errors import OutputError
from diffrender.io.images import GREYS, NOTICE, encoded
from diffrender.physics.presentation import present
from diffrender.physics.presets import presentation_preset
from diffrender.xray import Radiograph

IMAGES = {"png": ".png", "nifti": ".nii.gz"}
MASKS = ("npz", "tiff", "png")
ON = 255  # in masks that are pictures, so that they can be looked at


def image_file(name: str, radiograph: Radiograph, kind: str) -> dict[str, bytes]:
    """{file: bytes} of the picture, its values in 16 bits (PNG) or float32 (NIfTI, in the image plane's place)."""
    file = f"images/{name}{IMAGES[kind]}"
    return {file: encoded(radiograph, file)}


def presented(radiograph: Radiograph, name: str) -> Float[Tensor, "h w"]:
    """Greys 0 to 1 as an examination of this name is shown. Raises: SettingError."""
    pixels = radiograph.pixels[0]
    p = pixels if radiograph.kind == "log-attenuation" else -torch.log(pixels)
    return present(p, presentation_preset(name), radiograph.exposed)


def presented_bytes(shown: Float[np.ndarray, "h w"], radiograph: Radiograph) -> bytes:
    """A PNG of a picture as on a viewing station, greys 0 to 1, in 16 bits."""
    text = PngInfo()
    text.add_text("Software", f"DiffRender {__version__}")
    text.add_text("Disclaimer", NOTICE)
    about = {"format": 1, "kind": "presented", "camera": radiograph.camera.to_dict(), "notice": NOTICE}
    text.add_text("diffrender", json.dumps({**about, "orientation": radiograph.camera.orientation()}))
    buffer = BytesIO()
    Image.fromarray(np.rint(shown * GREYS).astype(np.uint16)).save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def mask_files(name: str, radiograph: Radiograph, kind: str) -> dict[str, bytes]:
    """{file: bytes} of all labels' masks, overlaps kept; none where there are no labels.

    "npz": `masks` (label, h, w) bool, `path_lengths` (label, h, w) float16 [mm], `ids`, `names`, `camera`;
    "tiff": a page for each label, named, 0 and 255; "png": a file for each label.
    """
    if radiograph.masks is None:
        return {}
    masks = radiograph.masks.cpu().numpy().astype(bool)
    names = [radiograph.label_name(label) for label in radiograph.ids]
    if kind == "npz":
        return {f"masks/{name}.npz": _npz(radiograph, masks, names)}
    if kind == "tiff":
        return {f"masks/{name}.tif": _tiff(masks, names)}
    files = {f"masks/{name}/{safe(label)}.png": _png(mask) for label, mask in zip(names, masks, strict=True)}
    if len(files) < len(names):
        raise OutputError(f"Labels of one name cannot have a file each: {', '.join(sorted(names))}. Name them apart.")
    return files


def safe(name: str) -> str:
    """A label's name as part of a file's on every system."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name).strip(". ") or "_"


def _npz(radiograph: Radiograph, masks: Bool[np.ndarray, "label h w"], names: list[str]) -> bytes:
    arrays = {
        "ids": np.array(radiograph.ids, dtype=np.int64),
        "names": np.array(names, dtype=np.str_),
        "camera": np.array(json.dumps(radiograph.camera.to_dict())),
        "masks": masks,
    }
    if radiograph.path_lengths is not None:
        # to 0.05 %: half a voxel of the finest CT over the longest path through a body
        arrays["path_lengths"] = radiograph.path_lengths.detach().cpu().numpy().astype(np.float16)
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _tiff(masks: Bool[np.ndarray, "label h w"], names: list[str]) -> bytes:
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for name, mask in zip(names, masks, strict=True):
            page = mask.astype(np.uint8) * ON
            text = name.encode("ascii", "replace").decode()
            file.write(
                page, photometric="minisblack", compression="deflate", description=text, metadata=None, software=NOTICE
            )
    return buffer.getvalue()


def _png(mask: Bool[np.ndarray, "h w"]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(mask.astype(np.uint8) * ON).save(buffer, format="PNG")
    return buffer.getvalue()
