"""Pictures by VTK's own volume renderer, which is Slicer's: what a transfer function or a baked volume shows there.

VTK runs in a process of its own (`vtk_worker`), offscreen: where no OpenGL library can be loaded (Debian: `libegl1` and
`libgl1`) its first Render ends the interpreter, and here that is an error with a sentence.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

import diffrender
from diffrender.camera import Camera
from diffrender.dvr.bake import UNIT, Baked
from diffrender.dvr.transfer import TransferFunction
from diffrender.errors import BackendError, SettingError
from diffrender.volume import Volume

MAPPERS = ("gpu", "cpu")
WORKER = ("-m", "diffrender.dvr.vtk_worker")
NEAREST = 1e-3  # of the far plane: depths nearer than that to the eye are cut off


@dataclass(frozen=True)
class VtkSettings:
    """How VTK draws.

    Attributes:
        sampling_rate: samples a voxel along the shortest voxel edge, as in `MarchSettings`.
        mapper: "gpu" is vtkGPUVolumeRayCastMapper, in software where there is no GPU; "cpu" is
            vtkFixedPointVolumeRayCastMapper.
        seconds: after which it is given up.
    Raises: SettingError.
    """

    sampling_rate: float = 1.0
    mapper: str = "gpu"
    seconds: float = 600.0

    def __post_init__(self):
        if self.mapper not in MAPPERS:
            raise SettingError(f"mapper is one of {', '.join(MAPPERS)}, not {self.mapper!r}.")
        if not 0 < self.sampling_rate < float("inf"):
            raise SettingError(f"sampling_rate is a number of samples a voxel, above 0, not {self.sampling_rate}.")


def draw_in_vtk(
    volume: Volume, transfer: TransferFunction, camera: Camera | Sequence[Camera], settings: VtkSettings | None = None
) -> Float[Tensor, "*batch 4 h w"]:
    """A CT with a transfer function as VTK shows it: no shading, linear interpolation, no jitter, no background.

    Returns: (4, h, w) premultiplied RGBA, in steps of 1/255; one more leading axis for a sequence of cameras.
    Raises: BackendError where VTK cannot draw here; SettingError for images of several sizes.
    """
    look = {
        "colours": [list(point) for point in transfer.colours],
        "opacities": [list(point) for point in transfer.opacities],
        "unit_distance": transfer.unit_distance,
    }
    values = volume.values if volume.values.dtype in (torch.int16, torch.float32) else volume.values.float()
    return draw_classified(values.detach().cpu().contiguous().numpy(), volume.world_from_voxel, look, camera, settings)


def draw_baked_in_vtk(
    baked: Baked, camera: Camera | Sequence[Camera], settings: VtkSettings | None = None
) -> Float[Tensor, "*batch 4 h w"]:
    """A baked volume as VTK shows it, with dependent components; as `draw_in_vtk`."""
    look = {"colours": None, "opacities": [list(point) for point in baked.opacities], "unit_distance": UNIT}
    if baked.bits != 8 and settings is not None and settings.mapper == "cpu":
        raise SettingError("VTK's CPU mapper draws colours of 8 bits alone. Bake in 8 bits, or take the GPU mapper.")
    return draw_classified(baked.pixels, baked.world_from_voxel, look, camera, settings)


def draw_classified(
    values: Shaped[np.ndarray, "k j i"] | Shaped[np.ndarray, "k j i 4"],
    world_from_voxel: Float[Tensor, "4 4"],
    look: dict[str, Any],
    camera: Camera | Sequence[Camera],
    settings: VtkSettings | None = None,
) -> Float[Tensor, "*batch 4 h w"]:
    """As `draw_in_vtk`, of numbers and a `look`: "colours" (number, r, g, b), or None where the volume is RGBA itself,
    "opacities" (number, opacity) and "unit_distance" [mm]."""
    settings = VtkSettings() if settings is None else settings
    cameras = [camera] if isinstance(camera, Camera) else list(camera)
    if len({one.image_size for one in cameras}) != 1:
        raise SettingError("VTK draws one camera or more at once, all with images of one size.")
    spacing = world_from_voxel[:3, :3].norm(dim=0)
    shape = values.shape[:3]
    task = {
        **look,
        "mapper": settings.mapper,
        "step": float(spacing.min()) / settings.sampling_rate,
        "spacing": spacing.tolist(),
        "world_from_image": (world_from_voxel @ torch.diag(torch.cat([1 / spacing, spacing.new_ones(1)]))).tolist(),
        "cameras": [_view_of(one, world_from_voxel, shape) for one in cameras],
    }
    images = _drawn_elsewhere(values, task, settings.seconds)
    drawn = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return drawn[0] if isinstance(camera, Camera) else drawn


@functools.cache
def why_not() -> str | None:
    """A sentence on why VTK cannot draw here, or None where it can; found out by drawing one pixel, once."""
    axes = torch.eye(4, dtype=torch.float64)
    axes[2, 3] = -10.0
    look = {"colours": [[0, 1, 1, 1], [1, 1, 1, 1]], "opacities": [[0, 1], [1, 1]], "unit_distance": 1.0}
    camera = Camera(axes, 10.0, (1.0, 1.0), (8, 8))
    try:
        draw_classified(
            np.ones((3, 3, 3), np.float32), torch.eye(4, dtype=torch.float64), look, camera, VtkSettings(seconds=60)
        )
    except BackendError as problem:
        return str(problem)
    return None


def _view_of(camera: Camera, world_from_voxel: Tensor, shape: Sequence[int]) -> dict[str, Any]:
    """A camera in VTK's words. VTK knows no mirrored camera: its mirror image is drawn, and the picture turned over."""
    axes = camera.world_from_camera[:3, :3].clone()
    height, width = camera.image_size
    row, column = camera.principal_point
    if camera.mirrored:
        axes[:, 0] *= -1
        column = width - column
    ends = torch.tensor([[0.0, n - 1] for n in reversed(shape)], dtype=torch.float64)
    corners = torch.cartesian_prod(*ends) @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]
    depths = (corners - camera.source) @ camera.direction
    far = max(float(depths.max()) * 1.01, 1.0)
    near = max(float(depths.min()) * 0.99, NEAREST * far)
    return {
        "position": camera.source.tolist(),
        "focal_point": (camera.source + camera.direction).tolist(),
        "up": (-axes[:, 1]).tolist(),
        "range": [near, far],
        "projection": _projection(camera, row, column, near, far),
        "image_size": [height, width],
        "mirrored": camera.mirrored,
    }


def _projection(camera: Camera, row: float, column: float, near: float, far: float) -> list[list[float]]:
    """OpenGL's matrix, eye to clip coordinates (its y goes up, its z to the viewer): the picture's edges are at 1."""
    height, width = camera.image_size
    row_step, column_step = camera.pixel_size
    f = camera.source_to_detector
    return [
        [2 * f / (column_step * width), 0, 1 - 2 * column / width, 0],
        [0, 2 * f / (row_step * height), 2 * row / height - 1, 0],
        [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
        [0, 0, -1, 0],
    ]


def _drawn_elsewhere(values: np.ndarray, task: dict[str, Any], seconds: float) -> np.ndarray:
    root = str(Path(diffrender.__file__).resolve().parents[1])
    paths = [root, os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [root]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), PYTHONUTF8="1")
    with tempfile.TemporaryDirectory(prefix="diffrender-vtk-") as folder:
        np.save(Path(folder, "values.npy"), values)
        Path(folder, "task.json").write_text(json.dumps(task), encoding="utf-8")
        try:
            ended = subprocess.run(
                [sys.executable, *WORKER, folder],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BackendError(
                f"VTK had not drawn after {seconds:g} s and was stopped. Without a GPU it draws in software: take a "
                "smaller image, or give it longer (VtkSettings.seconds)."
            ) from None
        result = Path(folder, "images.npy")
        if ended.returncode == 0 and result.exists():
            return np.load(result)
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    raise BackendError(
        f"VTK cannot draw on this computer: its process ended with {ended.returncode}"
        f"{f' ({said[-1].strip()[:200]})' if said else ''}. It needs OpenGL; on Debian and Ubuntu: "
        "`apt-get install libegl1 libgl1` (then no screen and no GPU is needed)."
    )
