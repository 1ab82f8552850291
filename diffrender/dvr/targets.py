"""Targets: what a renderer should draw, how much each pixel of it counts; from painted views, pictures or 3D labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor

from diffrender.camera import Camera, read_cameras
from diffrender.dvr.pictures import has_alpha, opened, premultiplied
from diffrender.dvr.transfer import OPAQUE, TransferFunction
from diffrender.dvr.view import classified
from diffrender.errors import ImageError, PathError, SettingError
from diffrender.io.files import found
from diffrender.rays.field import Field, MarchSettings
from diffrender.rays.march import march
from diffrender.volume import Volume

PAINTED = 5.0  # weight of a pixel that somebody painted
UNPAINTED = 1.0
TRACE = 1e-6  # 1/mm, 0.1 % of alpha in a metre
NEAR = 2  # of 255: what differs less from a background is background; JPEG and resizing leave as much


@dataclass(frozen=True, eq=False)
class Target:
    """What one camera should see.

    Attributes:
        camera: where from.
        image: premultiplied RGBA, sRGB display values 0..1, no background.
        weight: of each pixel's colour; 0 is not looked at.
        alpha_weight: of each pixel's alpha.
    Raises: ImageError where the sizes differ or a number is none.
    """

    camera: Camera
    image: Float[Tensor, "4 h w"]
    weight: Float[Tensor, "_ _"]  # sizes are compared in words
    alpha_weight: Float[Tensor, "_ _"]

    def __post_init__(self):
        height, width = self.camera.image_size
        for name, values in (("image", self.image), ("weight", self.weight), ("alpha_weight", self.alpha_weight)):
            if tuple(values.shape[-2:]) != (height, width):
                raise ImageError(
                    f"A target's {name} has {values.shape[-2]} x {values.shape[-1]} pixels and its camera {height} x "
                    f"{width}; resize the picture, or give `camera.resized(...)`."
                )
            if not bool((values >= 0).all()):  # NaN compares as False
                raise ImageError(f"A target's {name} holds numbers that are NaN or below 0; it cannot be trained on.")

    @property
    def painted(self) -> Bool[Tensor, "h w"]:
        """The pixels that somebody painted, by colour or as hidden; those that scores of a painting are taken over."""
        return (self.weight >= PAINTED) | (self.alpha_weight >= PAINTED)

    @property
    def counts(self) -> bool:
        """Whether any pixel is looked at: a view that nobody painted says nothing."""
        return bool((self.weight > 0).any() or (self.alpha_weight > 0).any())


def targets_from_images(folder: str | Path, background: tuple[float, float, float] | None = None) -> list[Target]:
    """Ready-made pictures as targets: the PNGs of a folder in the order of their names, and its cameras.json.

    RGBA pictures (straight alpha) are taken as they are. Of RGB ones `background` must be said: what has its colour is
    empty, all else is taken for opaque, or, on black, for colours that are premultiplied already; what covers how much
    is then unknown, so that alpha counts in the empty part alone.

    Args:
        background: sRGB display values 0..1.
    Raises: PathError, GeometryError, ImageError where counts or sizes differ or the background is needed.
    """
    place = found(folder)
    files = sorted(file for file in place.iterdir() if file.suffix.lower() == ".png") if place.is_dir() else []
    if not files:
        raise PathError(
            f"{folder} is no folder with PNG pictures. Give the one that holds them and their cameras.json."
        )
    if not (place / "cameras.json").is_file():
        raise PathError(f"{folder} holds no cameras.json, the list of the pictures' cameras; see docs/conventions.md.")
    cameras = read_cameras(place / "cameras.json")
    if len(cameras) != len(files):
        raise PathError(
            f"{folder} holds {len(files)} pictures and cameras.json {len(cameras)} cameras. Each picture has one, in "
            "the order of the pictures' names."
        )
    return [_target_of_picture(file, camera, background) for file, camera in zip(files, cameras, strict=True)]


def targets_from_labels(
    volume: Volume,
    colours: Mapping[int, tuple[float, float, float]],
    cameras: Sequence[Camera],
    opacity: float = 0.5,
    transfer: TransferFunction | None = None,
    faint: float = 0.1,
    smooth: float = 0.7,
    sampling_rate: float = 1.0,
) -> list[Target]:
    """Labels as coloured bodies, through the same march: what a renderer of a CT alone can learn to tell apart.

    Args:
        colours: {label id: (red, green, blue)}, sRGB display values 0..1.
        opacity: of 1 mm of a label.
        transfer: what the rest looks like; None: there is no rest.
        faint: share of the transfer function's extinction that the rest keeps.
        smooth: standard deviation of the labels' soft edges [voxels]; half a voxel to one hides their stairs.
    Raises: LabelError for a label that the volume has not; SettingError.
    Source: Weiss & Navab, section 4.3 (KIDNEY).
    """
    if not colours:
        raise SettingError("There is no label to colour. Give colours: {label id: (red, green, blue)}.")
    if not 0 < opacity <= 1 or not 0 <= faint <= 1 or not 0.3 <= smooth <= 10:
        raise SettingError(
            f"opacity lies between 0 and 1, faint too, smooth between 0.3 and 10 voxels; these are {opacity}, {faint}, "
            f"{smooth}."
        )
    shown = coloured_labels(volume, colours, opacity, transfer, faint, smooth)
    settings = MarchSettings(sampling_rate=sampling_rate)
    return [whole_target(camera, march(shown, camera, settings)) for camera in cameras]


def coloured_labels(
    volume: Volume,
    colours: Mapping[int, tuple[float, float, float]],
    opacity: float,
    transfer: TransferFunction | None,
    faint: float,
    smooth: float,
) -> Field:
    """The field of `targets_from_labels`: colours are the mean of what lies there, by extinction."""
    label_kappa = -float(np.log1p(-min(opacity, OPAQUE)))
    kappa, light, rest = torch.zeros(volume.shape), torch.zeros(3, *volume.shape), torch.ones(volume.shape)
    for label, colour in colours.items():
        mask = torch.from_numpy(ndimage.gaussian_filter(volume.mask(label).cpu().numpy().astype(np.float32), smooth))
        share = torch.minimum(mask, rest)  # where labels overlap, the earlier one
        rest = rest - share
        kappa += label_kappa * share
        light += label_kappa * share * torch.tensor(colour).reshape(3, 1, 1, 1)
    if transfer is not None:
        seen = classified(volume, transfer).cpu()
        other = faint * rest * seen[3]
        # a trace of it where nothing is seen too: colours are interpolated apart from kappa, and black would show there
        kappa, light = kappa + other, light + (other + TRACE) * seen[:3]
        return Field(torch.cat([light / (kappa + TRACE), kappa[None]]), volume.world_from_voxel)
    return Field(torch.cat([light / kappa.clamp(min=1e-12), kappa[None]]), volume.world_from_voxel)


def whole_target(camera: Camera, image: Float[Tensor, "4 h w"]) -> Target:
    """A target that is known in all pixels."""
    everywhere = torch.full(camera.image_size, UNPAINTED)
    return Target(camera, image.float().clamp(0, 1).cpu(), everywhere, everywhere)


def _target_of_picture(file: Path, camera: Camera, background: tuple[float, float, float] | None) -> Target:
    picture = opened(file)
    height, width = camera.image_size
    if picture.size != (width, height):
        raise ImageError(
            f"{file} has {picture.height} x {picture.width} pixels and its camera {height} x {width}. Are the pictures "
            "in the order of their cameras? If they were resized, write `camera.resized(...)` to cameras.json."
        )
    if has_alpha(picture):
        return whole_target(camera, premultiplied(np.asarray(picture.convert("RGBA"))))
    if background is None:
        raise ImageError(
            f"{file} has no alpha (its mode is {picture.mode}), so what is background in it is not known. Say its "
            "colour, background=(0, 0, 0) for black, or save RGBA."
        )
    rgb, empty = _before(picture, background)
    covered = (~empty).float()
    image = torch.cat([rgb * covered, covered[None]])
    return Target(camera, image, torch.full(camera.image_size, UNPAINTED), empty * UNPAINTED)


def _before(picture: Image.Image, background: tuple[float, float, float]) -> tuple[Tensor, Bool[Tensor, "h w"]]:
    """Colours (3, h, w), and where there is nothing before the background."""
    pixels: UInt8[np.ndarray, "h w 3"] = np.asarray(picture.convert("RGB"))
    away = np.abs(pixels.astype(np.float32) - 255 * np.array(background, np.float32)).max(-1)
    rgb = torch.from_numpy(pixels.astype(np.float32) / 255).movedim(-1, 0)
    return rgb, torch.from_numpy(away <= NEAR)
