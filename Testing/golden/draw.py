"""Draws the golden images with the judges: `python Testing/golden/draw.py`. Run it when the scene below changes.

Each is a path in mm, exact for the trilinear interpolant, as a 16-bit PNG with 500 steps to the mm: `VIEW.water.png`
the water that would attenuate as much as the volume, `VIEW.label-ID.png` the path inside a label. The reference knows
nothing of `diffrender.rays`; cameras and volumes are the library's own.
"""

import sys
from pathlib import Path

import numpy as np
import SimpleITK
import torch

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import judges  # noqa: E402  the path above first

import phantoms  # noqa: E402
from diffrender.camera import Camera  # noqa: E402
from diffrender.volume import Volume  # noqa: E402

STEPS_PER_MM = 500.0
SIZE = (52, 66, 80)  # (k, j, i), about 104 mm each way
NAMES = {3: "soft", 7: "bone"}


def scene() -> Volume:
    """Soft tissue of 40 HU with a piece of bone of 900 HU that sticks out of it, in noisy air with padding of -2000."""
    lattice = phantoms.oblique_lattice((1.3, 1.6, 2.0), left_handed=True)
    centre = phantoms.point_at(lattice, SIZE, (0.52, 0.46, 0.53))
    soft = phantoms.drawn(phantoms.ellipsoid(centre), lattice, SIZE).values.numpy()
    bone = phantoms.drawn(phantoms.box(centre + np.array([9.0, -12.0, 14.0])), lattice, SIZE).values.numpy()
    texture = np.random.default_rng(17).normal(0, 15, SIZE)
    hu = -1000 + 1040 * soft * (1 - bone) + 1900 * bone + texture
    hu[:, :4, :] = -2000
    labels = np.where(bone > 0.5, 7, np.where(soft > 0.5, 3, 0))
    return Volume(
        torch.from_numpy(np.rint(hu).astype(np.int16)),
        torch.from_numpy(lattice),
        torch.from_numpy(labels.astype(np.int16)),
        NAMES,
    )


def views() -> dict[str, Camera]:
    """Along each of the volume's axes in turn, one of them seen from the detector; oblong pixels."""
    centre = scene().centre.numpy()
    directions = {"along-i": (0.9, 0.25, -0.3), "along-j": (-0.2, 0.92, 0.3), "along-k": (0.3, -0.15, -0.9)}
    return {
        name: phantoms.oblique_camera(centre, along, image_size=(60, 48), field=(150, 140), mirrored=name == "along-j")
        for name, along in directions.items()
    }


def paths(volume: Volume, camera: Camera) -> dict[str, np.ndarray]:
    """{"water": (h, w) mm, "label-ID": (h, w) mm}, by the judge."""
    source, directions = (t.reshape(-1, 3).numpy() for t in camera.rays())
    assert volume.labels is not None
    parts = {"water": np.maximum(volume.values.numpy().astype(np.float64) + 1000, 0) / 1000}
    parts |= {f"label-{n}": (volume.labels == n).numpy() for n in NAMES}
    lattice = volume.world_from_voxel.numpy()
    return {
        name: judges.trilinear_integral(values, lattice, source[0], directions).reshape(camera.image_size)
        for name, values in parts.items()
    }


def write(path: Path, image: np.ndarray, steps_per_mm: float = STEPS_PER_MM, zero: int = 0) -> None:
    steps = np.clip(np.rint(image * steps_per_mm) + zero, 0, 65535).astype(np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(steps), str(path))


def read(path: Path) -> np.ndarray:
    """A golden image, (h, w) [mm]."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) / STEPS_PER_MM


if __name__ == "__main__":
    volume = scene()
    for view, camera in views().items():
        for part, image in paths(volume, camera).items():
            write(HERE / f"{view}.{part}.png", image)
