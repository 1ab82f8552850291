"""Weights in one file that is safe to open: tensors as safetensors, the rest as JSON in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffrender import __version__
from diffrender.errors import PathError, SettingError

ENDING = ".safetensors"


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give a module these parameters and buffers, no more and no fewer. Raises: PathError, naming what differs."""
    own = module.state_dict()
    for what, names in (("lacks", own.keys() - tensors.keys()), ("also holds", tensors.keys() - own.keys())):
        if names:
            raise PathError(
                f"{source} {what} {sorted(names)[0]!r}{_more(len(names))}, so it is of another renderer, or of another "
                "version. Train again, or open it with the version that wrote it."
            )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise PathError(
                f"{source}: {name!r} has the shape {list(tensors[name].shape)} and should have {list(tensor.shape)}. "
                "Its settings and its tensors do not fit each other; train again."
            )
        if tensor.is_floating_point() and not bool(tensors[name].isfinite().all()):
            raise PathError(
                f"{source}: {name!r} holds numbers that are NaN or infinite, so nothing can be drawn with it: of a "
                "training that diverged, or a damaged file. Train again, with a lower rate."
            )
    module.load_state_dict(dict(tensors))


def packed(path: str | Path, tensors: Mapping[str, Tensor], key: str, record: Mapping[str, Any]) -> bytes:
    """The content of a file with these tensors and, under `key` of its header, this record.

    Raises: SettingError for a path of another ending.
    """
    from safetensors.torch import save

    if Path(path).suffix != ENDING:
        raise SettingError(f"{path}: a model is written as {ENDING}, which is safe to open.")
    # copies of their own: safetensors takes no views, and none that share memory
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(copies, {key: json.dumps(record, ensure_ascii=False)})


def opened(path: str | Path, key: str, edition: int, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record under `key` of a file that `packed` made, and its tensors.

    Args:
        edition: the record's "format" that is read.
        what: is looked for, and what writes it: "renderer (`diffrender dvr train`)".
    Raises: PathError for a file that is missing, damaged, a pickle, of something else, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as problem:
        raise PathError(f"{path} cannot be read: {problem.strerror}. Give a model file, NAME{ENDING}.") from None
    try:
        tensors = load(content)  # checks that the file is as long as its header says
        size = int.from_bytes(content[:8], "little")
        record = json.loads(json.loads(content[8 : 8 + size]).get("__metadata__", {}).get(key, "null"))
    except (SafetensorError, ValueError, KeyError) as problem:
        if content[:2] == b"PK" or content[:1] == b"\x80":  # torch.save's archive, or a bare pickle
            raise PathError(
                f"{path} is a pickle (.pt, .pth), which can run code when opened; it was not. Models of ours are "
                f"{ENDING} files. A .ckpt is a training's own save: go on from it with the same training."
            ) from None
        raise PathError(
            f"{path} is no {ENDING} file, or not all of one ({problem}). It has {len(content)} bytes; copy it again."
        ) from None
    if not isinstance(record, dict):
        raise PathError(f"{path} holds tensors and does not say that they are a {what}. Give the file of one.")
    if record.get("format") != edition:
        raise PathError(
            f"{path} is a {what} of format {record.get('format')!r}, and DiffRender {__version__} reads {edition}. "
            "Open it with the version that wrote it, or train again."
        )
    return record, tensors


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""
