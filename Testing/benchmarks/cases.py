"""What the benches render: two synthetic volumes for the clock, and the real CTs of DIFFRENDER_DATA."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

import phantoms
from diffrender.camera import Camera, c_arm
from diffrender.volume import Volume

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DIFFRENDER_DATA") or REPOSITORY.parent / "shared" / "data")
REAL = {
    "abdomen": "ct-abdomenpelvis-totalseg/ct.nii.gz",
    "chest 1": "ct-chest-lidc0001/ct_256.nii.gz",
    "chest 2": "ct-chest-cmbcrc/ct_256.nii.gz",
}
WATER = 0.0193  # [1/mm], about that of water at 70 keV; the ratios asked for do not depend on it


@dataclass(frozen=True, eq=False)
class Case:
    """Attenuation [1/mm] float32 (k, j, i), its lattice, one camera; and what the volume turns about."""

    values: torch.Tensor
    world_from_voxel: torch.Tensor
    camera: Camera
    centre: torch.Tensor
    what: str


def cube(image_size: tuple[int, int] = (200, 200)) -> Case:
    """256^3 voxels of 1 mm; every ray passes through the volume."""
    return synthetic((256, 256, 256), (1.0, 1.0, 1.0), image_size, 298.0)


def slab(image_size: tuple[int, int] = (256, 256)) -> Case:
    """512 x 512 x 133 voxels of 0.7 x 0.7 x 2.5 mm; nearly every ray passes through the volume."""
    return synthetic((133, 512, 512), (0.7, 0.7, 2.5), image_size, 420.0)


def synthetic(size, spacing, image_size, field) -> Case:
    """A cloud of Gaussians over some tissue, oblique; a C-arm 1020 / 700 mm at 25 / -15 degrees, `field` [mm] wide."""
    lattice = phantoms.oblique_lattice(spacing, turned=(4.0, -7.0, 9.0))
    centre = phantoms.point_at(lattice, size, (0.5, 0.5, 0.5))
    coarse_size = tuple(-(-n // 4) for n in size)
    coarse = lattice @ np.diag([4.0, 4.0, 4.0, 1.0])
    cloud = phantoms.drawn(phantoms.smooth(centre, scale=2.2), coarse, coarse_size).values
    fine = interpolate(cloud[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]
    volume = Volume(fine.clamp_(min=0).add_(0.002), torch.from_numpy(lattice), unit="arbitrary")
    camera = c_arm(volume, 25, -15, pixel_size=(field / image_size[0], field / image_size[1]), image_size=image_size)
    k, j, i = size
    oblong = " x ".join(f"{s:g}" for s in spacing)
    what = f"{i} x {j} x {k} voxels of {oblong} mm at {image_size[0]} x {image_size[1]} px over {field:.0f} mm"
    return Case(volume.values, volume.world_from_voxel, camera, volume.centre, what)


def real_volumes() -> dict[str, Volume]:
    """The real CTs that are there, in HU. Empty, and said, where there are none."""
    from diffrender.io import read_volume

    there = {name: DATA / path for name, path in REAL.items() if (DATA / path).exists()}
    if not there:
        print(f"No real CT: {DATA} holds none of {', '.join(REAL.values())} (DIFFRENDER_DATA names the folder).")
    return {name: read_volume(path) for name, path in there.items()}


def attenuation(volume: Volume) -> torch.Tensor:
    """HU to 1/mm, float32, written here once more so that the benches do not lean on diffrender.physics."""
    return (volume.values.float().clamp(min=-1000) + 1000) * (WATER / 1000)
