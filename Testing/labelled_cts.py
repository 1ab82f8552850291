"""Small labelled CTs as files: a body with three structures, one of them to one side, on an oblique lattice."""

from pathlib import Path

import label_files
import numpy as np

NAMES = {1: "hip_left", 2: "hip_right", 5: "nodule"}
SHAPE = (16, 20, 22)  # k, j, i


def write(folder: Path, seed: int = 0, nodule: bool = True) -> tuple[str, str, str]:
    """CT, labels and names' table of one patient; another seed, another patient. Returns the three paths."""
    folder.mkdir(parents=True, exist_ok=True)
    world_from_voxel = label_files.lattice((-30.0, 12.0, 40.0), (0.1, -0.05, 0.2), (6.0, 7.0, 8.0), (-1, 1, 1))
    k, j, i = np.indices(SHAPE)
    random = np.random.default_rng(seed)
    body = ((k - 7.5) / 9) ** 2 + ((j - 9.5) / 8.5) ** 2 + ((i - 10.5) / 9.5) ** 2 < 1
    values = np.where(body, 40, -1000) + np.where(body, random.normal(0, 15, SHAPE), 0)
    labels = np.zeros(SHAPE, np.uint8)
    for label, centre, hu in ((1, (8, 11, 15), 700), (2, (8, 11, 6), 600), (5, (11, 6, 14), 200)):
        if label == 5 and not nodule:
            continue
        near = (k - centre[0]) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2 < (6 if label == 5 else 10)
        labels[near], values[near] = label, hu
    label_files.write_image(folder / "ct.nii.gz", values.astype(np.int16), world_from_voxel)
    label_files.write_image(folder / "labels.nii.gz", labels, world_from_voxel)
    rows = "".join(f"{n},{name}\n" for n, name in NAMES.items())
    (folder / "names.csv").write_text("id,name\n" + rows)
    return tuple(str(folder / name) for name in ("ct.nii.gz", "labels.nii.gz", "names.csv"))
