"""The options of `dvr train` that say how it is learned, and the settings that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.errors import SettingError

if TYPE_CHECKING:
    from diffrender.dvr.losses import LossSettings
    from diffrender.dvr.settings import TrainSettings

PARTS = ("mse", "ssim", "alpha", "gradient", "perceptual")  # of the loss


# The choices of the library, here as well because --help imports no torch; a test compares.
class Precision(str, Enum):
    """Of the arithmetic."""

    auto = "auto"
    float32 = "float32"


class Accumulate(str, Enum):
    """How samples become a pixel."""

    alpha = "alpha"
    mip = "mip"
    mean = "mean"
    mida = "mida"
    gru = "gru"


class Norm(str, Enum):
    """Of a network's layers."""

    group = "group"
    batch = "batch"
    none = "none"


Rotation = Annotated[
    float | None,
    typer.Option(
        metavar="DEG", help="Turn CT and camera together, by up to this. By default 10 for several CTs, else 0."
    ),
]
Shift = Annotated[
    float | None,
    typer.Option(metavar="HU", help="Add a number to all HU, of this deviation; 15 for several CTs, else 0."),
]
Noise = Annotated[
    float | None,
    typer.Option(metavar="HU", help="Add noise to each voxel, of this deviation; 10 for several CTs, else 0."),
]
Sampling = Annotated[
    str | None,
    typer.Option(metavar="A:B", help="Samples a voxel, few at first and more at the end: 0.25:1. One number keeps it."),
]
Coarse = Annotated[
    float | None,
    typer.Option(metavar="R", help="Share of the time in which views are looked at coarsely; what suits the renderer."),
]
Jitter = Annotated[bool, typer.Option("--jitter/--no-jitter", help="Start each ray anew within its first step.")]
Decay = Annotated[
    float | None, typer.Option(metavar="R", help="Share of the learning rate that is left at the end; 0.1.")
]
Loss = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PART=W",
        help=f"Weight of a part of the loss, several times: {', '.join(PARTS[:4])} (edges; 0), or perceptual (0).",
    ),
]
Lpips = Annotated[
    str | None,
    typer.Option(
        metavar="F", help="Weights of LPIPS, .safetensors, for --loss perceptual=W; none come with DiffRender."
    ),
]
PrecisionOf = Annotated[
    Precision | None,
    typer.Option("--precision", help="auto: half precision where CUDA has it, which it is by default."),
]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Compute layers twice instead of keeping them: slower, in less memory.")
]
Patches = Annotated[
    bool | None,
    typer.Option("--patches/--no-patches", help="Learn from parts of the views; by default with rendernet alone."),
]
AccumulateBy = Annotated[
    Accumulate | None, typer.Option("--accumulate", help="How samples become a pixel; by default alpha.")
]
NormOf = Annotated[
    Norm | None, typer.Option("--norm", help="Of the network's layers; by default group, in the paper batch.")
]
Dropout = Annotated[
    float | None, typer.Option(metavar="P", help="Of the network's features; 0, in the paper 0.5 (frames flicker).")
]
Scratch = Annotated[
    bool,
    typer.Option("--scratch", help="Begin with weights by chance, as the paper does, and not as the views are drawn."),
]


def settings_of(
    renderer: str,
    seed: int,
    slots: str | None,
    sampling: str | None,
    loss: Sequence[str] | None,
    lpips: str | None,
    augment: Mapping[str, float | None],
    drawing: Mapping[str, object],
    others: Mapping[str, object],
    several: bool,
) -> "TrainSettings":
    """What was typed as settings; None stands for what is usual.

    Args:
        augment, drawing, others: by the names of the fields of `Augmentation`, `RendererSettings` and `TrainSettings`.
        several: whether there are several CTs.
    Raises: SettingError.
    """
    from diffrender.dvr.renderer import SLOTS, RendererSettings
    from diffrender.dvr.settings import OF_SEVERAL, Augmentation, TrainSettings

    parts = SLOTS if slots is None else tuple(word.strip() for word in slots.split(",") if word.strip())
    made = TrainSettings(
        renderer, RendererSettings(seed=seed, **_given(drawing)), slots=parts, seed=seed, **_given(others)
    )
    if _given(augment):
        made = replace(made, augment=replace(OF_SEVERAL if several else Augmentation(), **_given(augment)))
    if sampling is not None:
        made = replace(made, sampling=_sampling(sampling))
    return replace(made, loss=_loss(made.loss, loss or (), lpips))


def drawing_options(drawing: Mapping[str, object]) -> list[str]:
    """Which of the options of `RendererSettings` were typed."""
    return [f"--{'scratch' if name == 'start' else name}" for name in _given(drawing)]


def _given(values: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _sampling(text: str) -> tuple[float, float]:
    first, colon, last = text.partition(":")
    try:
        low, high = float(first), float(last) if colon else float(first)
    except ValueError:
        raise SettingError(
            f"--sampling {text!r} cannot be read; it is two numbers of samples a voxel, as 0.25:1, or one."
        ) from None
    return low, high


def _loss(usual: "LossSettings", texts: Sequence[str], lpips: str | None) -> "LossSettings":
    weights: dict[str, Any] = {}
    for text in texts:
        part, equals, number = text.partition("=")
        if part not in PARTS or not equals:
            raise SettingError(f"--loss {text!r} cannot be read; it is PART=WEIGHT, of {', '.join(PARTS)}: ssim=0.5.")
        try:
            weights[part] = float(number)
        except ValueError:
            raise SettingError(f"--loss {text!r}: a weight is a number from 0 on, not {number!r}.") from None
    if weights.get("perceptual") and lpips is None:
        raise SettingError(
            "--loss perceptual needs the weights of LPIPS, which do not come with DiffRender and are not downloaded. "
            "Give them with --lpips, or take --loss gradient=W, which compares edges and needs none."
        )
    if lpips is not None and not weights.get("perceptual"):
        raise SettingError(f"--lpips {lpips} is not looked at without --loss perceptual=W, as perceptual=0.1.")
    return replace(usual, **weights, perceptual_file=lpips)
