"""Registration: a shape model or a CT, fitted to radiographs through differentiable rays.

The names below are loaded when first used, so that importing this package costs nothing.
"""

from typing import TYPE_CHECKING

from diffrender.lazy import lazily

_HOME = {
    "ShapeModel": "shape",
    "build_shape_model": "building",
    "load_shape_model": "model_files",
    "save_shape_model": "model_files",
    "default_pelvis": "parametric",
    "FitSettings": "settings",
    "Fit": "result",
    "pelvis": "registration",
    "ct": "ct_registration",
    "simulate": "simulation",
    "evaluate": "evaluation",
    "Start": "start",
    "start_from_landmarks": "start",
    "start_at_isocentre": "start",
    "read_start": "start",
    "write_start": "start",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from diffrender.fit.shape import ShapeModel as ShapeModel

__getattr__, __dir__ = lazily(__name__, _HOME)
