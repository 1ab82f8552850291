"""What the commands of `dvr` share: choices, colours, roles of labels, and what is read before work begins."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from diffrender.commands.target import size_of
from diffrender.errors import LabelError, MemoryNeedError, PathError, SettingError

if TYPE_CHECKING:
    from diffrender import Volume
    from diffrender.dvr.transfer import TransferFunction
    from diffrender.dvr.view import Role

Colour = tuple[float, float, float]
MODEL, VIEWS = "model.safetensors", "cameras.json"
LAST, CHECKPOINT, PREVIEW, HISTORY = "last.safetensors", "checkpoint.pt", "preview.png", "history.csv"
BEFORE, WANTED, AFTER = "before.png", "wanted.png", "after.png"
# What of a folder with a trained model, or with views, belongs to it.
OF_MODEL = (MODEL, LAST, CHECKPOINT, PREVIEW, HISTORY, BEFORE, WANTED, AFTER, "provenance.json")
OF_VIEWS = re.compile(r"\d{4,}\.png|(cameras|transfer|volume|provenance)\.json|paint")
MOST_VIEWS = 4096
# Bytes of memory a pixel: while one is drawn (rays, samples, layers of a decoder), and of each that is kept.
DRAWING_NEED, PICTURE_NEED = 400, 20
NAMED = 10  # labels named in an error


# The choices of the library, here as well because --help imports no torch; a test compares.
class Preset(str, Enum):
    """Transfer functions of ours."""

    bone = "ct-bone"
    vessels = "ct-vessels"
    lung = "ct-lung"
    soft_tissue = "ct-soft-tissue"
    skin = "ct-skin"


class Name(str, Enum):
    """Renderers."""

    lookup = "lookup"
    lookup2d = "lookup2d"
    mlp = "mlp"
    clusters = "clusters"
    vnet4_4 = "vnet4-4"
    vnetl16_4 = "vnetl16-4"
    vnetl16_17 = "vnetl16-17"
    dvrnet = "dvrnet"
    rendernet = "rendernet"
    hybrid = "hybrid"
    vnet_unet = "vnet-unet"
    unet_s = "unet-s"


def transfer_of(preset: Preset | None, tf: str | None) -> "TransferFunction":
    """The transfer function that was asked for; ct-bone by default. Raises: SettingError, PathError."""
    from diffrender.dvr.transfer import read_transfer, transfer_preset

    if tf is None:
        return transfer_preset((preset or Preset.bone).value)
    if preset is not None:
        raise SettingError(f"--tf {tf} and --preset {preset.value} are two transfer functions; give one of them.")
    if tf in [one.value for one in Preset] and not os.path.exists(tf):
        return transfer_preset(tf)
    if not os.path.exists(os.path.expanduser(tf)):
        presets = ", ".join(one.value for one in Preset)
        raise PathError(f"{tf} is no file (.json, .vp or .vp.json), nor a transfer function of ours: {presets}.")
    return read_transfer(tf)


def check_apart(files: Iterable[Path]) -> None:
    """Refuse to write over parts of a trained model or of a folder of views, whoever reads them. Raises: PathError."""
    for file in files:
        folder = file.parent
        model = file.name in OF_MODEL and (folder / MODEL).is_file()
        views = OF_VIEWS.fullmatch(file.name) and (folder / VIEWS).is_file()
        if model or views:
            what = "a trained model" if model else "views to paint on"
            raise PathError(f"{folder} holds {what}, and {file.name} belongs to it. Choose another place with -o.")


def count_of(number: int, option: str, most: int = MOST_VIEWS) -> int:
    """A number of pictures. Raises: SettingError."""
    if not 1 <= number <= most:
        raise SettingError(f"{option} is a number of views from 1 to {most}, not {number}.")
    return number


def colour_of(text: str, option: str) -> Colour:
    """Red, green, blue from 0 to 1 of "#rrggbb" or a colour's name. Raises: SettingError."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise SettingError(
            f"{option}: {text!r} is no colour; give one as #rrggbb, in quotes, or by name, as red."
        ) from None
    return red / 255, green / 255, blue / 255


def role_of(text: str) -> "tuple[str, Role]":
    """A label and what its paint means, of "liver=#cc2200:recolour:0.8", "liver=red" or "liver=hide".

    Raises: SettingError.
    """
    from diffrender.dvr.view import ROLES, Role

    label, equals, meaning = text.rpartition("=")
    words = meaning.split(":")
    if not equals or not label.strip() or not words[0] or len(words) > 3:
        raise SettingError(
            f"--paint-from-labels {text!r} cannot be read; it is LABEL=COLOUR, as liver=#cc2200, "
            "LABEL=COLOUR:ROLE:STRENGTH, as liver=red:recolour:0.8, or LABEL=hide, LABEL=keep, LABEL=ignore."
        )
    plain = words[0] in ROLES  # without a colour; the roles but recolour need none
    colour = None if plain else colour_of(words[0], "--paint-from-labels")
    role, *strength = words if plain else words[1:] or ["recolour"]
    try:
        share = float(strength[0]) if strength else 1.0
    except ValueError:
        raise SettingError(
            f"--paint-from-labels {text!r}: a strength is a number from 0 to 1, not {strength[0]!r}."
        ) from None
    return label.strip(), Role(label.strip(), role, colour, share)


def roles_of(wanted: "Sequence[tuple[str, Role]]", volume: "Volume") -> "dict[int, Role]":
    """Of each label that is meant, by id, name or pattern (rib_*), its role. Raises: LabelError."""
    from dataclasses import replace

    names = {label: volume.label_name(label) for label in volume.label_ids}
    roles: dict[int, Role] = {}
    for label, role in wanted:
        meant = [n for n, name in names.items() if str(n) == label or fnmatchcase(name.lower(), label.lower())]
        if not meant:
            there = [f"{n} ({name})" for n, name in names.items()]
            more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
            raise LabelError(f"The CT has no label {label!r}; it has {', '.join(there[:NAMED]) or 'none'}{more}.")
        twice = [n for n in meant if n in roles]
        if twice:
            raise LabelError(
                f"Label {twice[0]} ({names[twice[0]]}) is to be painted in two ways; say one of each label."
            )
        roles.update((n, replace(role, name=names[n])) for n in meant)
    return roles


def spread(count: int, total: int) -> list[int]:
    """`count` numbers from 0 to total - 1, evenly apart and away from the ends, as an orbit's poles are."""
    return [int((n + 0.5) * total / count) for n in range(count)]


def check_rate(sampling_rate: float | None) -> None:
    """Raises: SettingError for samples a voxel that no march takes."""
    if sampling_rate is not None and not 0.01 <= sampling_rate <= 64:
        raise SettingError(f"--sampling-rate is a number of samples a voxel from 0.01 to 64, not {sampling_rate:g}.")


def check_memory_for(size: tuple[int, int], count: int = 1) -> None:
    """Refuse pictures that memory cannot hold. Raises: MemoryNeedError."""
    from diffrender.io.files import available_memory

    (h, w), free = size, available_memory()
    need = h * w * (DRAWING_NEED + count * PICTURE_NEED)
    if need > free:
        raise MemoryNeedError(
            f"{count} pictures of {h} x {w} pixels take {size_of(need)} of memory, and {size_of(free)} are free. "
            "Nothing was drawn. Take a smaller --size or fewer pictures, or close other programs."
        )


def model_of(path: str) -> Path:
    """The model file that is meant: it, or the best one in a folder of `dvr train`. Raises: PathError."""
    from diffrender.io.files import found

    place = found(path)
    if place.is_dir():
        if not (place / MODEL).is_file():
            raise PathError(f"{path} holds no {MODEL}, so it is no folder that `dvr train` has finished. Give a model.")
        place = place / MODEL
    return place


def ct_of(ct: str | None, model: Path | None) -> str:
    """The CT that is meant: as typed, or the one that a model was trained on. Raises: SettingError, PathError."""
    if ct is not None:
        return ct
    if model is None:
        raise SettingError("Say which CT to draw, with --ct.")
    return trained_on(model, "cts", "the CT to draw, with --ct")


def trained_on(model: Path, key: str, what: str) -> str:
    """The first of "cts" or "views" in the record that `dvr train` left beside a model.

    Args:
        what: is to be said where that is not known, or not there any more.
    Raises: SettingError, PathError.
    """
    try:
        record = json.loads((model.parent / "provenance.json").read_text(encoding="utf-8"))
        first = str(record["settings"][key][0])
    except (OSError, ValueError, LookupError, TypeError):
        raise SettingError(f"What {model} was trained on is not known. Give {what}.") from None
    if not os.path.exists(os.path.expanduser(first)):
        raise PathError(f"{model} was trained on {first}, which is not there as seen from here. Give {what}.")
    return first


def check_device(device: str) -> None:
    """Raises: SettingError for what is no device, or not of this machine."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise SettingError(f"--device is auto, cpu, cuda or cuda:1, not {device!r}.")
    if device.startswith("cuda"):
        import torch

        count = torch.cuda.device_count()
        if int(device.partition(":")[2] or 0) >= count:
            raise SettingError(
                f"--device {device} is not there: torch sees {count} CUDA devices here. Take auto or cpu."
            )
