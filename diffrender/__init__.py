"""DiffRender: cast rays through a patient, compare the picture with the one you have, and differentiate.

The names below are the public surface. They are loaded when first used, so that `import diffrender` costs
milliseconds and imports no torch: Slicer imports this package at start-up.
"""

from typing import TYPE_CHECKING

from diffrender.lazy import lazily

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
    "prepare": "rays.prepared",
    "line_integrals": "rays.line",
    "line_integrals_with_jacobian": "rays.line",
    "path_lengths": "rays.surface",
    "torso": "phantom",
    "read_volume": "io",
    "read_mesh": "io",
    "read_radiographs": "io",
    "renderer": "dvr.renderers",
    "RendererSettings": "dvr.renderer",
}
_MODULES = ("dvr", "errors", "fit", "io", "jobs", "physics", "rays", "synth")

__all__ = ["__version__", *_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ finds the same names
    from diffrender.camera import Camera as Camera
    from diffrender.camera import c_arm as c_arm
    from diffrender.camera import camera_from_projection as camera_from_projection
    from diffrender.dvr.renderer import RendererSettings as RendererSettings
    from diffrender.dvr.renderers import renderer as renderer
    from diffrender.io import read_mesh as read_mesh
    from diffrender.io import read_radiographs as read_radiographs
    from diffrender.io import read_volume as read_volume
    from diffrender.mesh import Mesh as Mesh
    from diffrender.phantom import torso as torso
    from diffrender.pose import moved as moved
    from diffrender.pose import pose_between as pose_between
    from diffrender.rays.line import line_integrals as line_integrals
    from diffrender.rays.line import line_integrals_with_jacobian as line_integrals_with_jacobian
    from diffrender.rays.prepared import prepare as prepare
    from diffrender.rays.surface import path_lengths as path_lengths
    from diffrender.views import orbit as orbit
    from diffrender.views import preset as preset
    from diffrender.volume import Volume as Volume
    from diffrender.xray import Radiograph as Radiograph
    from diffrender.xray import RadiographSettings as RadiographSettings
    from diffrender.xray import radiograph as radiograph

__getattr__, __dir__ = lazily(__name__, _HOME, ("__version__", *_MODULES))
