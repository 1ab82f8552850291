"""DiffRender: cast rays through a patient, compare the picture with the one you have, and differentiate.

The names below are the public surface. They are loaded when first used, so that `import diffrender` costs
milliseconds and imports no torch: Slicer imports this package at start-up.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Volume": "volume",
    "Camera": "camera",
    "Mesh": "mesh",
    "Radiograph": "xray",
    "RadiographSettings": "xray",
    "radiograph": "xray",
    "c_arm": "camera",
    "camera_from_projection": "camera",
    "orbit": "views",
    "preset": "views",
    "moved": "pose",
    "pose_between": "pose",
    "prepare": "rays.line",
    "line_integrals": "rays.line",
    "line_integrals_with_jacobian": "rays.line",
    "torso": "phantom",
    "read_volume": "io",
    "read_mesh": "io",
    "read_radiographs": "io",
}
_MODULES = ("errors", "io", "jobs", "physics", "rays")

__all__ = ["__version__", *_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from diffrender.camera import Camera, c_arm, camera_from_projection
    from diffrender.io import read_mesh, read_volume
    from diffrender.mesh import Mesh
    from diffrender.phantom import torso
    from diffrender.pose import moved, pose_between
    from diffrender.rays.line import line_integrals, line_integrals_with_jacobian, prepare
    from diffrender.views import orbit, preset
    from diffrender.volume import Volume
    from diffrender.xray import Radiograph, RadiographSettings, radiograph


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
