"""Small atlases: pelves drawn from formulas, in point correspondence, and files as published ones are kept."""

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from diffrender.fit.parametric import default_pelvis
from diffrender.io.meshes import write_mesh
from diffrender.mesh import Mesh

FILES = {"left hip": ("left", "LeftHip{}_cpd.vtk"), "right hip": ("right", "RightHip{}.vtk")}
FILES["sacrum"] = ("sacrum", "Sacrum{}_cpd.vtk")
KEYS = {"left hip": "left_hip", "right hip": "right_hip", "sacrum": "sacrum"}


def parts_of(points: torch.Tensor) -> dict[str, Mesh]:
    """An instance of the parametric pelvis as the meshes of its bones, RAS."""
    model = default_pelvis()
    bones = {}
    for name, _ in model.parts:
        here = model.range_of(name)
        own = model.faces[(model.faces[:, 0] >= here.start) & (model.faces[:, 0] < here.stop)]
        bones[name] = Mesh(points[here], own - here.start)
    return bones


def pelves(count: int, seed: int = 4, modes: int = 3, lying: float = 8.0) -> list[dict[str, Mesh]]:
    """Subjects that differ in the first modes of the parametric pelvis, lie crooked by some degrees, and anywhere."""
    model, random = default_pelvis(), np.random.default_rng(seed)
    subjects = []
    for _ in range(count):
        points = model.points(torch.tensor(random.standard_normal(modes), dtype=torch.float32)).double().numpy()
        turn = Rotation.from_euler("xyz", random.normal(0, lying, 3), degrees=True).as_matrix()
        moved = points @ turn.T + random.uniform(-200, 200, 3)
        subjects.append(parts_of(torch.from_numpy(moved.astype(np.float32))))
    return subjects


def write_folder(folder: Path, subjects: list[dict[str, Mesh]], ids: list[int]) -> Path:
    """As published: surface/left/LeftHip10_cpd.vtk, ...; LPS, without a note of it."""
    for number, parts in zip(ids, subjects, strict=True):
        for part, mesh in parts.items():
            under, name = FILES[part]
            file = folder / "surface" / under / name.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_mesh(Mesh(mesh.vertices * torch.tensor([-1.0, -1.0, 1.0]), mesh.faces), file)
            file.write_bytes(file.read_bytes().replace(b"SPACE=RAS", b"made  now"))
    return folder


def write_npz(file: Path, subjects: list[dict[str, Mesh]], ids: list[int]) -> Path:
    """The same as arrays."""
    arrays: dict[str, np.ndarray] = {"ids": np.array(ids)}
    for part, key in KEYS.items():
        points = np.stack([parts[part].vertices.numpy() for parts in subjects])
        arrays[f"{key}_points"] = points * np.array([-1, -1, 1], np.float32)
        arrays[f"{key}_faces"] = subjects[0][part].faces.numpy().astype(np.int32)
    np.savez_compressed(file, **arrays)
    return file
