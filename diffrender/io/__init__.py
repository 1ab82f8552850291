"""The door: every file comes in here, is checked, and turns from LPS to RAS, once.

The names below are loaded when first used, so that importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "read_volume": "volumes",
    "list_series": "volumes",
    "read_labels": "labels",
    "read_mesh": "meshes",
    "write_mesh": "meshes",
    "write_radiograph": "images",
}

__all__ = ["list_series", "read_labels", "read_mesh", "read_volume", "write_mesh", "write_radiograph"]

if TYPE_CHECKING:
    from diffrender.io.images import write_radiograph
    from diffrender.io.labels import read_labels
    from diffrender.io.meshes import read_mesh, write_mesh
    from diffrender.io.volumes import list_series, read_volume


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
