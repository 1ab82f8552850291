"""A trained renderer in one file that is safe to open."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffrender import __version__
from diffrender.dvr.renderer import Renderer, RendererSettings
from diffrender.dvr.renderers import renderer as renderer_of
from diffrender.dvr.transfer import TransferFunction
from diffrender.errors import InputError, PathError
from diffrender.io.tensor_files import fill, opened, packed
from diffrender.io.whole import write_whole

FORMAT = 1
KEY = "diffrender"  # of the header's metadata


def save_model(path: str | Path, renderer: Renderer, info: Mapping[str, Any] | None = None) -> Path:
    """Write NAME.safetensors, whole or not at all.

    Args:
        info: what should be known of it, as JSON data; `Trained.info` has hashes of the training volumes and scores.
    Raises: SettingError for another ending, OutputError.
    """
    record = {
        "format": FORMAT,
        "name": renderer.name,
        "settings": settings_record(renderer.settings),
        "info": {"version": __version__, **(info or {})},
    }
    return write_whole(path, packed(path, renderer.state_dict(), KEY, record))


def load_model(path: str | Path) -> tuple[Renderer, dict[str, Any]]:
    """The renderer in a file, on the CPU and ready to draw, and the info that was saved with it.

    Runs no code from the file.
    Raises: PathError for a file that is missing, damaged, a pickle, of another format, or of other tensors.
    """
    record, tensors = opened(path, KEY, FORMAT, "renderer (`diffrender dvr train`)")
    try:
        made = renderer_of(str(record["name"]), settings_from(record["settings"]))
    except (InputError, KeyError, TypeError, ValueError) as problem:
        raise PathError(
            f"{path} does not describe a renderer that this DiffRender ({__version__}) can make: {problem}"
        ) from None
    fill(made, tensors, str(path))
    return made.eval(), dict(record.get("info") or {})


def settings_record(settings: RendererSettings) -> dict[str, Any]:
    """A renderer's settings as JSON data."""
    record = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {**record, "transfer": None if settings.transfer is None else settings.transfer.to_dict()}


def settings_from(record: Mapping[str, Any]) -> RendererSettings:
    """Back from `settings_record`. Raises: SettingError, TypeError for keys that settings do not have."""
    transfer = record.get("transfer")
    return RendererSettings(
        **{**record, "transfer": None if transfer is None else TransferFunction.from_dict(transfer)}
    )
