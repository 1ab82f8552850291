"""The door: every file comes in here, is checked, and turns from LPS to RAS, once.

The names below are loaded when first used, so that importing this package costs nothing.
"""

from typing import TYPE_CHECKING

from diffrender.lazy import lazily

_HOME = {
    "read_volume": "volumes",
    "list_series": "volumes",
    "read_labels": "labels",
    "read_mesh": "meshes",
    "read_radiographs": "xray",
    "read_calibration": "calibration",
    "read_landmarks": "points",
    "deepfluoro_volume": "deepfluoro",
    "deepfluoro_landmarks": "deepfluoro",
    "write_mesh": "meshes",
    "write_radiograph": "images",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from diffrender.io.calibration import read_calibration as read_calibration
    from diffrender.io.deepfluoro import deepfluoro_landmarks as deepfluoro_landmarks
    from diffrender.io.deepfluoro import deepfluoro_volume as deepfluoro_volume
    from diffrender.io.images import write_radiograph as write_radiograph
    from diffrender.io.labels import read_labels as read_labels
    from diffrender.io.meshes import read_mesh as read_mesh
    from diffrender.io.meshes import write_mesh as write_mesh
    from diffrender.io.points import read_landmarks as read_landmarks
    from diffrender.io.volumes import list_series as list_series
    from diffrender.io.volumes import read_volume as read_volume
    from diffrender.io.xray import read_radiographs as read_radiographs

__getattr__, __dir__ = lazily(__name__, _HOME)
