"""A small, lopsided volume and what cameras should see of it: trainings that take seconds."""

import torch

from diffrender.camera import Camera
from diffrender.dvr.cases import Case
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.settings import TrainSettings
from diffrender.dvr.targets import Target
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import render_views
from diffrender.views import eye
from diffrender.volume import Volume
from phantoms import oblique_lattice

SHOWN = TransferFunction(  # what the targets are drawn with
    ((-1000.0, 0.1, 0.2, 0.9), (0.0, 0.9, 0.3, 0.1), (1000.0, 0.2, 0.9, 0.3)),
    ((-1000.0, 0.0), (-200.0, 0.01), (300.0, 0.06), (1000.0, 0.3)),
)
STARTED = TransferFunction(  # what the renderers start from
    ((-1000.0, 0.5, 0.5, 0.5), (1000.0, 0.6, 0.5, 0.4)), ((-1000.0, 0.0), (-100.0, 0.02), (1000.0, 0.1))
)
TOWARDS = ((0.3, 0.9, 0.2), (-0.8, 0.4, 0.1), (0.5, -0.7, 0.6), (0.1, 0.3, -0.9), (-0.6, -0.5, 0.2))


def lump(shape=(11, 13, 9), seed: int = 5) -> Volume:
    """Smooth numbers from -1000 to 1000 without any symmetry, on an oblique lattice of oblong voxels."""
    noise = torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool3d(noise, 3, 1, 1, count_include_pad=False)[0, 0]
    values = (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 2000 - 1000
    world = oblique_lattice(spacing=(3.0, 2.4, 4.1))
    return Volume(values.round().short(), torch.from_numpy(world))


def cameras(volume: Volume, count: int = 4, image_size: tuple[int, int] = (20, 17)) -> list[Camera]:
    """Eyes around a volume."""
    return [eye(volume, towards, image_size) for towards in TOWARDS[:count]]


def case(count: int = 4, seed: int = 5, image_size: tuple[int, int] = (20, 17), shape=(11, 13, 9)) -> Case:
    """A volume and targets drawn of it with SHOWN; all pixels count, those of a corner five times."""
    volume = lump(shape, seed)
    targets = []
    for view in render_views(volume, SHOWN, cameras(volume, count, image_size)).views:
        weight = torch.ones(image_size)
        weight[: image_size[0] // 3, image_size[1] // 2 :] = 5.0
        targets.append(Target(view.camera, view.image, weight, torch.ones(image_size)))
    return Case(volume, tuple(targets))


def drawing(**changes) -> RendererSettings:
    """Settings of a renderer that starts from STARTED, small."""
    return RendererSettings(
        **{"transfer": STARTED, "low": -1024.0, "high": 1024.0, "bins": 16, "width": 0.25, **changes}
    )


def brief(**changes) -> TrainSettings:
    """A training of a few steps, on the CPU."""
    return TrainSettings(
        **{"renderer": "lookup", "drawing": drawing(), "steps": 8, "batch": 2, "device": "cpu", **changes}
    )
