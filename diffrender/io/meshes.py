"""Surfaces in and out: STL, PLY, OBJ, VTK and VTP; files in LPS or RAS, the library in RAS [mm]."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import VTK_STRING, vtkObject, vtkPoints, vtkStringArray
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkTriangleFilter
from vtkmodules.vtkIOGeometry import vtkSTLReader
from vtkmodules.vtkIOLegacy import vtkPolyDataReader
from vtkmodules.vtkIOXML import vtkXMLPolyDataReader, vtkXMLPolyDataWriter

from diffrender.errors import MeshError, OutputError, PathError, SettingError, notify
from diffrender.io.files import found
from diffrender.io.polygons import Polygons, read_obj, read_ply
from diffrender.io.whole import whole
from diffrender.mesh import Mesh

WORLDS = ("RAS", "LPS")
SPACE = "SPACE=RAS"  # the note in a mesh file's header that Slicer writes and honours since 4.8
TITLE = f"DiffRender mesh [mm]; {SPACE}"


def read_mesh(path: str | Path, world: str | None = None) -> Mesh:
    """A surface, in RAS [mm], its vertices in the file's order.

    Args:
        path: .stl, .ply, .obj, .vtk (legacy) or .vtp.
        world: "RAS" or "LPS", what the file's numbers are where its header has no SPACE=RAS or SPACE=LPS. Without
            both LPS is taken, as Slicer does since 4.11, and that is said.
    Vertices come as float32, or as float64 where the file holds doubles. Polygons become triangles, which is said. STL
    lists corners and no vertices: equal corners become one, in the order they first occur.
    Raises: PathError, MeshError; SettingError for another `world`.
    """
    if world is not None and world not in WORLDS:
        raise SettingError(f"world={world!r} is not offered: mesh files are in 'RAS' or 'LPS' millimetres.")
    suffix, shown = Path(path).suffix.lower(), str(path)
    place = found(path)
    if place.is_dir() or suffix not in READERS:
        raise PathError(
            f"{shown} is no mesh file that is known by its ending: meshes end with {', '.join(READERS)}. "
            "Give such a file."
        )
    polygons = READERS[suffix](place, shown)
    sizes = np.diff(polygons.offsets)
    if not len(sizes) or not len(polygons.vertices):
        raise MeshError(
            f"{shown} holds {len(polygons.vertices)} points and no polygons: there is no surface in it (perhaps lines "
            "or points alone). Export the surface."
        )
    corners = polygons.connectivity
    if corners.min() < 0 or corners.max() >= len(polygons.vertices):  # checked before VTK reads through such an index
        raise MeshError(
            f"{shown}: a face names vertex {int(corners.max())}, and there are {len(polygons.vertices)} (numbered from "
            "0). The file is damaged or cut off; export it again."
        )
    if sizes.min() < 3:
        raise MeshError(
            f"{shown}: a face has {sizes.min()} corners, and a polygon has three at least. The file is damaged or cut "
            "off; export it again."
        )
    faces = corners.reshape(-1, 3) if (sizes == 3).all() else _triangulated(polygons, shown)
    vertices = np.array(polygons.vertices, dtype=np.float64 if polygons.vertices.dtype == np.float64 else np.float32)
    if _world_of(polygons.header, world, shown) == "LPS":
        vertices[:, :2] *= -1
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(np.array(faces, np.int64)), source=shown)


def write_mesh(mesh: Mesh, path: str | Path) -> Path:
    """Write a mesh in RAS [mm], whole or not at all, with SPACE=RAS in its header: Slicer and `read_mesh` honour it.

    .ply, .vtk and .vtp keep vertices and faces to the last bit; .obj does in float32, .stl (binary) knows no vertices.
    Raises: OutputError for another ending, or where it cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise OutputError(f"{path} was not written: meshes are written as {', '.join(WRITERS)}. Choose such a name.")
    vertices = np.ascontiguousarray(mesh.vertices.detach().cpu().numpy())
    faces = np.ascontiguousarray(mesh.faces.cpu().numpy())
    with whole(Path(path)) as file:
        WRITERS[suffix](vertices, faces, file)
    return Path(path)


def _world_of(header: str, world: str | None, shown: str) -> str:
    stated = re.search(r"SPACE\s*=\s*(RAS|LPS)", header, re.IGNORECASE)
    if stated is None:
        if world is None:
            notify(
                f"{shown} does not say whether it is in LPS or RAS; LPS is taken, as Slicer does. If the mesh appears "
                "turned by 180 degrees about the body's axis, read it with world='RAS'."
            )
        return world or "LPS"
    if world is not None and stated[1].upper() != world:
        notify(f"{shown} says {stated[0]}, which counts; world={world!r} was asked for files that say nothing.")
    return stated[1].upper()


def _triangulated(polygons: Polygons, shown: str) -> np.ndarray:
    surface = _surface(polygons.vertices, polygons.connectivity, polygons.offsets)
    divide = vtkTriangleFilter()
    divide.PassLinesOff()
    divide.PassVertsOff()
    divide.SetInputData(surface)
    problems = _heard(divide)
    divide.Update()
    faces = vtk_to_numpy(divide.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3)
    sizes = np.diff(polygons.offsets)
    lost = f" ({problems[0]})" if problems else ""
    notify(
        f"{shown}: {int((sizes != 3).sum())} of {len(sizes)} polygons are no triangles; they were divided into "
        f"triangles, {len(faces)} in all, without new vertices{lost}."
    )
    return faces


def _surface(vertices: np.ndarray, connectivity: np.ndarray, offsets: np.ndarray) -> vtkPolyData:
    points, cells, surface = vtkPoints(), vtkCellArray(), vtkPolyData()
    points.SetData(numpy_to_vtk(vertices, deep=True))
    cells.SetData(numpy_to_vtkIdTypeArray(offsets.copy(), deep=True), numpy_to_vtkIdTypeArray(connectivity, deep=True))
    surface.SetPoints(points)
    surface.SetPolys(cells)
    return surface


def _heard(*objects: vtkObject) -> list[str]:
    """A list that fills with the errors of VTK objects, which then do not print them."""
    words: list[str] = []

    def hear(_: vtkObject, __: str, text: str) -> None:
        words.append(" ".join(text.partition("): ")[2].split("Debug:")[0].split())[:200])

    hear.CallDataType = VTK_STRING  # pyright: ignore[reportFunctionMemberAccess]
    for each in objects:
        for event in ("ErrorEvent", "WarningEvent"):
            each.AddObserver(event, hear)  # pyright: ignore[reportArgumentType]
    return words


def _read_by_vtk(reader: Any, place: Path, shown: str) -> vtkPolyData:
    problems = _heard(reader, reader.GetExecutive())
    reader.SetFileName(str(place))
    reader.Update()
    if problems:
        raise MeshError(
            f"{shown} cannot be read as a mesh: {problems[0].rstrip('.')}. It is damaged, cut off or of another kind. "
            "Copy or export it again."
        )
    return reader.GetOutput()


def _polygons_of(surface: vtkPolyData, header: str) -> Polygons:
    if surface.GetNumberOfStrips():
        divide = vtkTriangleFilter()  # strips are triangles already, written shorter
        divide.SetInputData(surface)
        divide.Update()
        surface = divide.GetOutput()
    points, polygons = surface.GetPoints(), surface.GetPolys()
    vertices = vtk_to_numpy(points.GetData()) if points is not None else np.zeros((0, 3), np.float32)
    offsets = vtk_to_numpy(polygons.GetOffsetsArray()) if polygons.GetNumberOfCells() else np.zeros(1)
    return Polygons(
        vertices, offsets.astype(np.int64), vtk_to_numpy(polygons.GetConnectivityArray()).astype(np.int64), header
    )


def _read_stl(place: Path, shown: str) -> Polygons:
    with place.open("rb") as file:
        head = file.read(300)
    line = head[:80] if not head.startswith(b"solid") or b"\0" in head[:80] else head.partition(b"\n")[0]
    return _polygons_of(_read_by_vtk(vtkSTLReader(), place, shown), line.decode("latin-1"))


def _read_vtk(place: Path, shown: str) -> Polygons:
    with place.open("rb") as file:
        head = file.read(1024).split(b"\n", 4)
    if len(head) > 3 and b"DATASET" in head[3] and b"POLYDATA" not in head[3].upper():
        kind = head[3].decode("latin-1").replace("DATASET", "").strip().lower()
        raise MeshError(
            f"{shown} holds a VTK data set of the kind {kind}, not a surface (POLYDATA). Extract its surface first."
        )
    title = head[1].decode("latin-1") if len(head) > 1 else ""
    return _polygons_of(_read_by_vtk(vtkPolyDataReader(), place, shown), title)


def _read_vtp(place: Path, shown: str) -> Polygons:
    content = place.read_bytes()  # the parser inside VTK's reader prints its errors, so the ends are looked at first
    if b"<VTKFile" not in content[:1024] or b"</VTKFile>" not in content[-1024:]:
        raise MeshError(
            f"{shown} is no whole VTP file: it lacks the {'begin' if b'<VTKFile' not in content[:1024] else 'end'} of "
            "its XML. It is damaged, cut off or of another kind. Copy or export it again."
        )
    surface = _read_by_vtk(vtkXMLPolyDataReader(), place, shown)
    space = surface.GetFieldData().GetAbstractArray("SPACE")
    if space is None or not space.GetNumberOfValues():
        return _polygons_of(surface, "")
    return _polygons_of(surface, f"SPACE={space.GetVariantValue(0).ToString()}")


def _write_stl(vertices: np.ndarray, faces: np.ndarray, file: BinaryIO) -> None:
    corners = vertices[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(float).tiny)
    rows = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])
    rows["normal"], rows["corners"] = normals, corners
    file.write(TITLE.encode().ljust(80, b"\0") + np.uint32(len(faces)).astype("<u4").tobytes() + rows.tobytes())


def _write_ply(vertices: np.ndarray, faces: np.ndarray, file: BinaryIO) -> None:
    kind = "double" if vertices.dtype == np.float64 else "float"
    lines = ["ply", "format binary_little_endian 1.0", "comment DiffRender mesh [mm]", f"comment {SPACE}"]
    lines += [f"element vertex {len(vertices)}", *(f"property {kind} {axis}" for axis in "xyz")]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    rows = np.zeros(len(faces), [("size", "u1"), ("corners", "<i4", 3)])
    rows["size"], rows["corners"] = 3, faces
    file.write("\n".join(lines).encode() + vertices.astype(vertices.dtype.newbyteorder("<")).tobytes() + rows.tobytes())


def _write_obj(vertices: np.ndarray, faces: np.ndarray, file: BinaryIO) -> None:
    lines = [f"# {TITLE}"]
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.tolist()]  # nine digits hold a float32 exactly
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    file.write(("\n".join(lines) + "\n").encode())


def _triangle_surface(vertices: np.ndarray, faces: np.ndarray) -> vtkPolyData:
    return _surface(vertices, faces.reshape(-1), np.arange(0, 3 * len(faces) + 1, 3))


def _write_vtk(vertices: np.ndarray, faces: np.ndarray, file: BinaryIO) -> None:
    # Version 4.2 is what Slicer writes too: 5.1 is not read by Slicer before 5 and most other programs.
    kind = "double" if vertices.dtype == np.float64 else "float"
    rows = np.column_stack([np.full(len(faces), 3), faces])
    head = f"# vtk DataFile Version 4.2\n{TITLE}\nBINARY\nDATASET POLYDATA\nPOINTS {len(vertices)} {kind}\n"
    file.write(head.encode() + vertices.astype(vertices.dtype.newbyteorder(">")).tobytes())
    file.write(f"\nPOLYGONS {len(faces)} {rows.size}\n".encode() + rows.astype(">i4").tobytes() + b"\n")


def _write_vtp(vertices: np.ndarray, faces: np.ndarray, file: BinaryIO) -> None:
    surface, space = _triangle_surface(vertices, faces), vtkStringArray()
    space.SetName("SPACE")
    space.InsertNextValue("RAS")
    surface.GetFieldData().AddArray(space)
    writer = vtkXMLPolyDataWriter()
    writer.SetInputData(surface)
    writer.SetDataModeToBinary()
    writer.WriteToOutputStringOn()
    writer.Write()
    file.write(writer.GetOutputString().encode())


READERS: dict[str, Callable[[Path, str], Polygons]] = {
    ".stl": _read_stl,
    ".ply": lambda place, shown: read_ply(place.read_bytes(), shown),
    ".obj": lambda place, shown: read_obj(place.read_bytes(), shown),
    ".vtk": _read_vtk,
    ".vtp": _read_vtp,
}
WRITERS: dict[str, Callable[[np.ndarray, np.ndarray, BinaryIO], None]] = {
    ".stl": _write_stl,
    ".ply": _write_ply,
    ".obj": _write_obj,
    ".vtk": _write_vtk,
    ".vtp": _write_vtp,
}
