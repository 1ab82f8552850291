"""What the benches of volume rendering draw and train on: CTs of the data folder (the phantom where they are absent),
transfer functions, eyes, painted views; and how they count seconds and decibels."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cases
import torch
import torch.nn.functional as F

from diffrender.camera import Camera
from diffrender.dvr.losses import mean_square, ssim
from diffrender.dvr.painting import paint_from_labels, targets_of
from diffrender.dvr.renderer import Renderer
from diffrender.dvr.targets import Target
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import Role, Views, render_views
from diffrender.io.volumes import read_volume
from diffrender.phantom.drawing import torso
from diffrender.views import eye
from diffrender.volume import Volume

T = TypeVar("T")

LABELLED = {
    "abdomen": ("ct-abdomenpelvis-totalseg", "ct.nii.gz", "labels_totalsegv1_multilabel.nii.gz", "labels.csv"),
    "chest 1": ("ct-chest-lidc0001", "ct_256.nii.gz", "labels_256.nii.gz", "structures.csv"),
}
PLAIN = {"chest 2": ("ct-chest-cmbcrc", "ct_256.nii.gz")}

# The abdomen was scanned without contrast: kidneys 17 HU, aorta 41, liver 46. A usual function either hides them or
# shows one haze, so this one is thin enough that a trunk is seen through.
TRANSLUCENT = TransferFunction(
    (
        (-1024.0, 0.35, 0.25, 0.2),
        (-80.0, 0.85, 0.7, 0.45),
        (0.0, 0.75, 0.35, 0.3),
        (60.0, 0.85, 0.5, 0.42),
        (120.0, 0.9, 0.65, 0.5),
        (300.0, 0.95, 0.88, 0.75),
        (3071.0, 1.0, 1.0, 1.0),
    ),
    ((-40.0, 0.0), (0.0, 0.004), (60.0, 0.006), (120.0, 0.02), (300.0, 0.3)),
    name="translucent",
)
THRESHOLD = 0.12  # share of what a pixel of TRANSLUCENT shows, from which a person sees an organ there and paints it
ORGANS = {
    "kidney_left": (0.95, 0.85, 0.1),
    "kidney_right": (0.95, 0.85, 0.1),
    "aorta": (0.9, 0.1, 0.15),
    "hip_left": (0.2, 0.75, 0.35),
    "hip_right": (0.2, 0.4, 0.95),
}
HIPS = {"hip_left": (0.95, 0.8, 0.1), "hip_right": (0.2, 0.4, 0.95)}

# Where eyes lie, as seen from the middle of the volume, RAS: the first n are what a person would paint first.
PAINTED_FROM = (
    (0.1, 1.0, 0.15),
    (0.2, -1.0, 0.1),
    (1.0, 0.5, 0.1),
    (-1.0, 0.6, 0.2),
    (0.6, 0.9, -0.25),
    (-0.7, -0.8, 0.3),
    (0.8, -0.7, -0.2),
    (-0.5, 0.9, 0.4),
)
HELD_OUT_FROM = ((0.6, 0.9, 0.25), (-0.4, 1.0, -0.1), (0.6, -1.0, 0.3), (-0.9, -0.2, 0.0))


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall, and of all processors for this process."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} CPU s)"


def timed(work: Callable[[], T]) -> tuple[T, Spent]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def labelled(name: str) -> Volume | None:
    """A CT of the data folder with its labels and their names; None where it is absent."""
    folder, *files = LABELLED[name]
    ct, labels, names = (cases.DATA / folder / file for file in files)
    return read_volume(ct, labels, names) if ct.exists() else None


def plain(name: str) -> Volume | None:
    """A CT of the data folder, without labels; None where it is absent."""
    path = cases.DATA.joinpath(*(PLAIN | {n: parts[:2] for n, parts in LABELLED.items()})[name])
    return read_volume(path) if path.exists() else None


def phantom(longest: int = 128) -> Volume:
    """The torso that stands in for a CT where there is none."""
    return torso((longest, longest, longest))


def coarser(volume: Volume, longest: int) -> Volume:
    """The volume with no side longer than so many voxels: means of blocks, and the label in the block's middle."""
    k, j, i = (-(-n // longest) for n in volume.shape)
    if max(k, j, i) == 1:
        return volume
    values = F.avg_pool3d(volume.values.float()[None, None], (k, j, i))[0, 0]
    world = volume.world_from_voxel.clone()
    steps = torch.tensor([i, j, k], dtype=torch.float64)
    world[:3, 3] += world[:3, :3] @ ((steps - 1) / 2)
    world[:3, :3] *= steps
    labels = None
    if volume.labels is not None:
        size = tuple(n * step for n, step in zip(values.shape, (k, j, i), strict=True))
        labels = volume.labels[..., : size[0], : size[1], : size[2]][..., k // 2 :: k, j // 2 :: j, i // 2 :: i]
    return replace(volume, values=values.round().short(), world_from_voxel=world, labels=labels)


def cut(volume: Volume, shape: Sequence[int]) -> Volume:
    """The middle of a volume, of at most `shape` (k, j, i) voxels."""
    first = [max(0, (n - m) // 2) for n, m in zip(volume.shape, shape, strict=True)]
    parts = tuple(slice(a, a + m) for a, m in zip(first, shape, strict=True))
    world = volume.world_from_voxel.clone()
    world[:3, 3] += world[:3, :3] @ torch.tensor(first[::-1], dtype=torch.float64)
    labels = None if volume.labels is None else volume.labels[(..., *parts)]
    return replace(volume, values=volume.values[parts], world_from_voxel=world, labels=labels)


def ids(volume: Volume, words: Sequence[str]) -> list[int]:
    """The labels whose names begin with one of the words, in the order of the words."""
    return [n for word in words for n in volume.label_ids if volume.label_name(n).startswith(word)]


def roles(volume: Volume, colours: dict[str, tuple[float, float, float]]) -> dict[int, Role]:
    """A paint for each label that the volume has; the colour replaces the render's."""
    return {n: Role(word, "recolour", colour) for word, colour in colours.items() for n in ids(volume, [word])}


def eyes(volume: Volume, towards: Sequence[Sequence[float]], size: int) -> list[Camera]:
    return [eye(volume, one, (size, size)) for one in towards]


def painted(
    volume: Volume,
    transfer: TransferFunction,
    colours: dict[str, tuple[float, float, float]],
    threshold: float,
    size: int = 200,
) -> tuple[list[Target], list[Target], Views]:
    """Targets of PAINTED_FROM and of HELD_OUT_FROM, painted alike from the labels; and all of the views."""
    blank = render_views(volume, transfer, eyes(volume, (*PAINTED_FROM, *HELD_OUT_FROM), size))
    views = paint_from_labels(blank, volume, roles(volume, colours), threshold=threshold)
    targets = targets_of(views)
    return targets[: len(PAINTED_FROM)], targets[len(PAINTED_FROM) :], views


def draw(renderer: Renderer, volume: Volume, cameras: Sequence[Camera]) -> list[torch.Tensor]:
    """Premultiplied RGBA by each camera, the volume encoded once."""
    with torch.no_grad():
        fields = renderer.eval().encode(volume)
        return [renderer.show(fields, camera) for camera in cameras]


def decibels(images: Sequence[torch.Tensor], targets: Sequence[Target], within_paint: bool = False) -> float:
    """PSNR of the colours [dB] of the mean square over the pixels of all views, or over the painted ones."""
    squares, pixels = 0.0, 0.0
    for image, target in zip(images, targets, strict=True):
        weight = target.painted if within_paint else torch.ones(target.camera.image_size, dtype=torch.bool)
        count = float(weight.sum())
        squares += count * float(mean_square(image[:3], target.image[:3], weight))
        pixels += count
    return -10 * float(torch.tensor(max(squares / max(pixels, 1.0), 1e-10)).log10())


def similarity(images: Sequence[torch.Tensor], targets: Sequence[Target]) -> float:
    """The views' mean SSIM, of all their pixels."""
    found = [float(ssim(image[:3], target.image[:3])) for image, target in zip(images, targets, strict=True)]
    return sum(found) / len(found)
