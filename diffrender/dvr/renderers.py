"""The renderers by name: one table that menus list, the command line offers and tests run through."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffrender.dvr.renderer import Renderer, RendererSettings
from diffrender.errors import SettingError


@dataclass(frozen=True)
class Recipe:
    """How a renderer is made, and what is to be known of it before it is.

    Attributes:
        build: "module:function", of RendererSettings; imported when first used.
        what: for menus, one sentence.
        bakes: into what it can be baked without loss of what it has learned: "table", a transfer function; "voxels",
            colour and opacity a voxel; or None, where its picture is made in image space.
        rate: learning rate that training starts with.
        batch: views a step.
    """

    build: str
    what: str
    bakes: str | None
    rate: float
    batch: int


_NETWORKS = "diffrender.dvr.networks"

RENDERERS: dict[str, Recipe] = {
    "lookup": Recipe(
        "diffrender.dvr.tables:build_lookup",
        "A transfer function of HU whose 256 entries are learned; the others are measured against it.",
        "table",
        0.1,
        4,
    ),
    "lookup2d": Recipe(
        "diffrender.dvr.tables:build_lookup2d",
        "A transfer function of HU and gradient magnitude: tells surfaces from what lies within.",
        "voxels",
        0.1,
        4,
    ),
    "mlp": Recipe(
        "diffrender.dvr.tables:build_mlp",
        "A transfer function of HU written as a small network, which keeps it smooth.",
        "table",
        0.01,
        4,
    ),
    "clusters": Recipe(
        "diffrender.dvr.clusters:build_clusters",
        "The instant preview: a transfer function, and a change of colour for each group of voxels, solved in seconds.",
        "voxels",
        0.01,
        4,
    ),
    "vnet4-4": Recipe(
        f"{_NETWORKS}:build_vnet4_4",
        "A VNet that gives every voxel colour and opacity (45.6 M parameters).",
        "voxels",
        0.003,
        2,
    ),
    "vnetl16-4": Recipe(
        f"{_NETWORKS}:build_vnetl16_4",
        "A lighter VNet with small networks that read colour and opacity from its 16 features (12.3 M).",
        "voxels",
        0.003,
        2,
    ),
    "vnetl16-17": Recipe(
        f"{_NETWORKS}:build_vnetl16_17",
        "A lighter VNet whose 16 features are composited and coloured in the image (12.3 M).",
        None,
        0.003,
        2,
    ),
    "dvrnet": Recipe(
        f"{_NETWORKS}:build_dvrnet",
        "A VNet's encoder, composited at every scale, and a 2D U-Net that draws the image (25 M).",
        None,
        0.003,
        2,
    ),
    "rendernet": Recipe(
        f"{_NETWORKS}:build_rendernet",
        "The volume turned into the camera's view and drawn by a network that learns projection itself (226 M).",
        None,
        1e-4,
        2,
    ),
    "hybrid": Recipe(
        "diffrender.dvr.hybrid:build_hybrid",
        "A transfer function that stays editable, and a learned, bounded change of it at every voxel.",
        "voxels",
        0.01,
        4,
    ),
    "vnet-unet": Recipe(
        f"{_NETWORKS}:build_vnet_unet",
        "A whole VNet, composited at every scale, and a whole 2D U-Net that draws the image.",
        None,
        0.003,
        2,
    ),
    "unet-s": Recipe(
        f"{_NETWORKS}:build_unet_s",
        "A transfer function, and a small 3D U-Net that changes it voxel by voxel: the one to take without a GPU.",
        "voxels",
        0.002,
        4,
    ),
}


def renderer(name: str, settings: RendererSettings | None = None) -> Renderer:
    """A renderer of the table, its weights drawn by `settings.seed`; torch's random state stays as it was.

    Raises: SettingError for an unknown name.
    """
    settings = RendererSettings() if settings is None else settings
    build = _builder(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # not torch.manual_seed, which reseeds every GPU as well
        return build(settings)


def count_parameters(name: str, settings: RendererSettings | None = None) -> int:
    """How many numbers a renderer learns, counted on torch's meta device: no memory is taken for them.

    Raises: SettingError for an unknown name.
    """
    build = _builder(name)
    with torch.device("meta"):
        made = build(RendererSettings() if settings is None else settings)
    return sum(parameter.numel() for parameter in made.parameters())


def recipe(name: str) -> Recipe:
    """The line of the table. Raises: SettingError, listing the names."""
    if name not in RENDERERS:
        raise SettingError(f"{name!r} is no renderer; there are {', '.join(RENDERERS)}.")
    return RENDERERS[name]


def _builder(name: str) -> Callable[[RendererSettings], Renderer]:
    module, function = recipe(name).build.split(":")
    return getattr(importlib.import_module(module), function)
