"""Atlases: surfaces of many subjects in point correspondence, from a folder of .vtk files or an .npz; LPS becomes RAS.

The published one is that of Han et al., Phys. Med. Biol. 2019, doi:10.1088/1361-6560/ab1456: hips and sacra of 40
subjects, 5000 vertices a bone. Its subjects 15 and 25 are almost certainly the same person: leave out both together.
"""

import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffrender.errors import MeshError, Notice, PathError, SettingError
from diffrender.io.files import found
from diffrender.io.meshes import read_mesh
from diffrender.mesh import Mesh

PELVIS = ("left hip", "right hip", "sacrum")
FILE = re.compile(r"(left[ _-]?hip|right[ _-]?hip|sacrum)[ _-]?0*(\d+)(?:_cpd)?\.vtk", re.IGNORECASE)
KEYS = {"left hip": "left_hip", "right hip": "right_hip", "sacrum": "sacrum"}


@dataclass(frozen=True, eq=False)
class Subject:
    """One subject of an atlas: its number, and its surfaces by part, RAS [mm]."""

    id: int
    meshes: Mapping[str, Mesh]


def read_atlas(path: str | Path, exclude: Iterable[int] = ()) -> list[Subject]:
    """The subjects of a pelvis atlas, by their numbers.

    Args:
        path: a folder with LeftHip10_cpd.vtk, RightHip10_cpd.vtk, Sacrum10_cpd.vtk, ... in it or in folders below; or
            an .npz with ids (n,), left_hip_points (n, v, 3), left_hip_faces (f, 3), and so for right_hip and sacrum.
            Both hold LPS [mm].
        exclude: numbers of subjects to leave out; of the published atlas 15 and 25 are the same person.
    Raises: PathError, MeshError for meshes not in correspondence, SettingError for a subject that is not there.
    """
    place = found(path)
    subjects = _of_folder(place, str(path)) if place.is_dir() else _of_npz(place, str(path))
    ids = [subject.id for subject in subjects]
    left_out = set(exclude)
    if missing := sorted(left_out - set(ids)):
        raise SettingError(
            f"{path} has no subject {', '.join(map(str, missing))} to leave out; it has {', '.join(map(str, ids))}."
        )
    return [subject for subject in subjects if subject.id not in left_out]


def _of_folder(folder: Path, shown: str) -> list[Subject]:
    files: dict[int, dict[str, Path]] = {}
    for file in sorted(folder.rglob("*.vtk")):
        name = FILE.fullmatch(file.name)
        if name is None:
            continue
        part = next(part for part in PELVIS if part.split()[0] in name[1].lower())
        twin = files.setdefault(int(name[2]), {}).setdefault(part, file)
        if twin is not file:
            raise PathError(f"{shown} holds the {part} of subject {name[2]} twice: {twin} and {file}. Keep one.")
    if not files:
        raise PathError(
            f"{shown} holds no surface of an atlas: they are named LeftHip10_cpd.vtk, RightHip10_cpd.vtk, "
            "Sacrum10_cpd.vtk, where 10 is the subject. Give the folder with these."
        )
    for subject, parts in sorted(files.items()):
        if absent := [part for part in PELVIS if part not in parts]:
            raise PathError(
                f"{shown}: subject {subject} has no file of its {' and '.join(absent)}. Add it, or take the subject's "
                "other files away."
            )
    subjects = []
    for subject, parts in sorted(files.items()):
        with _without_notices():  # of the world they are in: that of a published atlas is known
            subjects.append(Subject(subject, {part: read_mesh(parts[part], "LPS") for part in PELVIS}))
    first = subjects[0]
    for subject in subjects[1:]:
        for part in PELVIS:
            _check_same(subject.meshes[part], first.meshes[part])
    return subjects


def _check_same(mesh: Mesh, first: Mesh) -> None:
    if len(mesh.vertices) != len(first.vertices):
        raise MeshError(
            f"{mesh.source} has {len(mesh.vertices)} vertices and {first.source} {len(first.vertices)}: they are not "
            "in point correspondence. Warp one template to all of them first."
        )
    if not torch.equal(mesh.faces, first.faces):
        raise MeshError(
            f"{mesh.source} and {first.source} have different triangles: they are not in point correspondence. Warp "
            "one template to all of them first."
        )


def _of_npz(file: Path, shown: str) -> list[Subject]:
    try:
        with np.load(file, allow_pickle=False) as atlas:
            ids = [int(n) for n in atlas["ids"]]
            points = {part: np.asarray(atlas[f"{key}_points"]) for part, key in KEYS.items()}
            faces = {part: np.asarray(atlas[f"{key}_faces"]) for part, key in KEYS.items()}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as problem:
        raise PathError(
            f"{shown} is no atlas of surfaces ({_first_line(problem)}): it needs the arrays ids, "
            f"{', '.join(f'{key}_points and {key}_faces' for key in KEYS.values())}. Give such an .npz, or the folder "
            "with the .vtk files."
        ) from None
    for part in PELVIS:
        if points[part].ndim != 3 or points[part].shape[::2] != (len(ids), 3):
            raise MeshError(
                f"{shown}: the points of the {part} have the shape {list(points[part].shape)}, and {len(ids)} subjects "
                f"need [{len(ids)}, vertices, 3]."
            )
    if len(set(ids)) < len(ids):
        raise MeshError(f"{shown} holds a subject twice: its ids are {', '.join(map(str, ids))}.")
    return [
        Subject(
            ids[n],
            {part: _turned(points[part][n], faces[part], f"{shown}, subject {ids[n]}, {part}") for part in PELVIS},
        )
        for n in np.argsort(ids)
    ]


def _turned(points: np.ndarray, faces: np.ndarray, source: str) -> Mesh:
    """LPS to RAS: a half turn about the body's axis, so that the winding stays."""
    kind = np.float64 if points.dtype == np.float64 else np.float32
    vertices = torch.from_numpy(points.astype(kind) * np.array([-1, -1, 1], kind))
    return Mesh(vertices, torch.from_numpy(faces.astype(np.int64)), source)


def _first_line(problem: BaseException) -> str:
    if "pickle" in str(problem):  # what numpy says of any other file, with the advice to trust it
        return "it holds no plain arrays"
    return str(problem).strip().partition("\n")[0].strip("'") or type(problem).__name__


@contextmanager
def _without_notices() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        yield
