"""Masks of labels against another way to the same: path lengths of surfaces drawn around the labels."""

import dataclasses

import numpy as np
import torch
from cases import DATA
from report import Result, Row, at_least

import diffrender as dr
from diffrender.fit.contour import contour
from diffrender.rays.surface import surface_pass
from diffrender.synth import drawn_camera, masks_of
from diffrender.volume import Volume

HIPS = ("hip_left", "hip_right")
VIEWS = 6
THRESHOLD = 1.0  # [mm] of path inside the surface


def hips() -> Result | None:
    """Six drawn pelvis views of the abdomen CT and of the phantom, 256 x 256: hips by both ways."""
    torch.set_num_threads(1)
    rows = _rows("phantom", dr.torso())
    folder = DATA / "ct-abdomenpelvis-totalseg"
    if folder.exists():
        labels = folder / "labels_totalsegv1_multilabel.nii.gz"
        abdomen = dr.read_volume(folder / "ct.nii.gz", labels=labels, names="totalsegmentator-v1")
        rows = _rows("abdomen CT", abdomen) + rows
    note = (
        f"Surfaces by flying edges at one half, seen where their path exceeds {THRESHOLD:g} mm. The first rows are "
        "masks by the default rule for bones, 2 mm, chosen because of this: a label's indicator is interpolated, its "
        "edge soft by half a voxel, and a ray beside the surface gathers 1 mm before it meets it. So with 1 mm for "
        "both the masks are the wider ones, by up to half a voxel of 3 mm."
    )
    return Result(rows, {}, [note])


def _rows(what: str, volume: Volume) -> list[Row]:
    ids = {volume.label_name(n): n for n in volume.label_ids}
    masks = torch.stack([volume.mask(ids[name]) for name in HIPS])
    names = dict(enumerate(HIPS, 1))
    alone = dataclasses.replace(volume, labels=masks, names=names)
    lattice = volume.world_from_voxel.numpy()
    meshes = [contour(mask.numpy().astype(np.float32), 0.5, lattice) for mask in masks]
    lowest, both = 1.0, 1.0
    for view in range(VIEWS):
        camera = drawn_camera(volume, "pelvis-ap", ct_hash=what, view=view, seed=1, image_size=(256, 256))
        taken = masks_of(dr.radiograph(alone, camera))
        assert taken.masks is not None
        assert taken.path_lengths is not None
        surfaces = surface_pass(meshes, camera).lengths > THRESHOLD
        lowest = min(lowest, *_dice(taken.masks, surfaces))
        both = min(both, *_dice(taken.path_lengths > THRESHOLD, surfaces))
    which = f"projected hips, {what}, worst of {2 * VIEWS}: Dice with the surface's paths"
    return [
        at_least(which, lowest, 0.98, ""),
        Row(f"{which}, with {THRESHOLD:g} mm for both", "", f"{both:.3f}"),
    ]


def _dice(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    return (2 * (a & b).flatten(1).sum(1) / (a.flatten(1).sum(1) + b.flatten(1).sum(1))).tolist()
