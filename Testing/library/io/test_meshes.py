"""Meshes written by VTK, by us and by hand, read back: every vertex in its place, in RAS, and in its order."""

import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from diffrender.errors import MeshError, Notice, OutputError, PathError, SettingError
from diffrender.io.meshes import READERS, WRITERS, read_mesh, write_mesh
from diffrender.mesh import Mesh

LPS = np.array([-1.0, -1.0, 1.0])
# A lopsided tetrahedron and a loose triangle; vertices in an order no program would choose, coordinates of any digits.
POINTS = np.array(
    [
        [10.1, 2.7, -30.3],
        [13.3, 2.2, -31.9],
        [9.7, 8.8, -29.1],
        [11.5, 4.1, -22.2],
        [50.123456, -7.7, 1.0],
        [52, -7, 2],
        [51, -9, 5.5],
    ]
)
FACES = np.array([[4, 5, 6], [0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def tetrahedra(dtype=torch.float32):
    return Mesh(torch.tensor(POINTS, dtype=dtype), torch.tensor(FACES))


def polydata(points=POINTS, polygons=FACES, dtype=np.float32):
    vtk_points, cells, data = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
    vtk_points.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=dtype), deep=True))
    for polygon in polygons:
        cells.InsertNextCell(len(polygon), [int(n) for n in polygon])
    data.SetPoints(vtk_points)
    data.SetPolys(cells)
    return data


def write_by_vtk(path, data, space=None, ascii_=False):
    """As Slicer does: a word in the header, in VTP a field."""
    suffix = path.suffix
    writer = {
        ".stl": vtk.vtkSTLWriter,
        ".ply": vtk.vtkPLYWriter,
        ".vtk": vtk.vtkPolyDataWriter,
        ".vtp": vtk.vtkXMLPolyDataWriter,
    }[suffix]()
    if suffix == ".vtp":
        writer.SetDataModeToAscii() if ascii_ else writer.SetDataModeToAppended()
        if space:
            field = vtk.vtkStringArray()
            field.SetName("SPACE")
            field.InsertNextValue(space)
            data.GetFieldData().AddArray(field)
    else:
        writer.SetFileTypeToASCII() if ascii_ else writer.SetFileTypeToBinary()
    if space and suffix == ".ply":
        writer.AddComment(f"SPACE={space}")
    elif space and suffix in (".stl", ".vtk"):
        writer.SetHeader(f"3D Slicer output. SPACE={space}")
    writer.SetInputData(data)
    writer.SetFileName(str(path))
    assert writer.Write()
    return path


def corners(mesh):
    return mesh.vertices[mesh.faces].numpy()


def refused(kind, words, path, **options):
    with pytest.raises(kind, match=words) as caught:
        read_mesh(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_we_write_we_read_exactly(tmp_path, suffix, dtype, recwarn):
    path = tmp_path / "Ordner mit ä" / f"Hüfte links{suffix}"
    assert write_mesh(tetrahedra(dtype), path) == path
    mesh = read_mesh(path)
    double = dtype == torch.float64 and suffix in (".ply", ".vtk", ".vtp")
    assert mesh.vertices.dtype == (torch.float64 if double else torch.float32)
    want = tetrahedra(dtype).vertices.to(mesh.vertices.dtype)
    assert torch.equal(mesh.vertices[mesh.faces], want[torch.tensor(FACES)])
    if suffix != ".stl":  # which lists corners, no vertices
        assert torch.equal(mesh.vertices, want)
        assert np.array_equal(mesh.faces.numpy(), FACES)
    assert mesh.source == str(path)
    assert not recwarn  # our files say that they are RAS
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".vtk", ".vtp"])
def test_other_programs_read_what_we_write(tmp_path, suffix):
    path = write_mesh(tetrahedra(), tmp_path / f"m{suffix}")
    reader = {
        ".stl": vtk.vtkSTLReader,
        ".ply": vtk.vtkPLYReader,
        ".vtk": vtk.vtkPolyDataReader,
        ".vtp": vtk.vtkXMLPolyDataReader,
    }[suffix]()
    reader.SetFileName(str(path))
    reader.Update()
    data = reader.GetOutput()
    assert data.GetNumberOfCells() == len(FACES)
    for face, want in enumerate(POINTS[FACES].astype(np.float32)):
        cell = data.GetCell(face).GetPoints()
        assert np.array_equal([cell.GetPoint(n) for n in range(3)], want)


def test_the_obj_that_we_write_is_read_by_vtk(tmp_path):
    reader = vtk.vtkOBJReader()
    reader.SetFileName(str(write_mesh(tetrahedra(), tmp_path / "m.obj")))
    reader.Update()
    got = [reader.GetOutput().GetPoint(n) for n in range(len(POINTS))]
    assert np.allclose(got, POINTS, rtol=0, atol=1e-5)  # single precision, at 50 mm


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".vtk", ".vtp"])
@pytest.mark.parametrize("ascii_", [False, True])
@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_the_note_in_the_header_decides(tmp_path, suffix, ascii_, space, recwarn):
    stored = POINTS * LPS if space == "LPS" else POINTS
    mesh = read_mesh(write_by_vtk(tmp_path / f"m{suffix}", polydata(stored), space, ascii_))
    # VTK writes text with six digits in PLY: 5e-5 of 50 mm.
    assert np.abs(corners(mesh) - POINTS[FACES]).max() < 1e-4
    assert mesh.enclosed_volume != 0
    assert not recwarn
    with pytest.warns(Notice, match=f"says SPACE={space}, which counts"):
        other = read_mesh(tmp_path / f"m{suffix}", world="LPS" if space == "RAS" else "RAS")
    assert torch.equal(other.vertices, mesh.vertices)


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".vtk", ".vtp"])
def test_without_a_note_lps_is_taken_and_said_unless_the_caller_says(tmp_path, suffix, recwarn):
    path = write_by_vtk(tmp_path / f"m{suffix}", polydata())
    assert np.array_equal(corners(read_mesh(path, world="RAS")), POINTS[FACES].astype(np.float32))
    assert np.array_equal(corners(read_mesh(path, world="LPS")), (POINTS * LPS)[FACES].astype(np.float32))
    assert not recwarn
    with pytest.warns(Notice, match="does not say whether it is in LPS or RAS; LPS is taken"):
        mesh = read_mesh(path)
    assert np.array_equal(corners(mesh), (POINTS * LPS)[FACES].astype(np.float32))


def test_turning_to_ras_keeps_the_outside_out(tmp_path):
    inside_out = Mesh(torch.tensor(POINTS[:4]), torch.tensor(FACES[1:]))
    path = write_by_vtk(tmp_path / "m.ply", polydata(POINTS[:4] * LPS, FACES[1:]), "LPS")
    # Single precision: 1e-6 of coordinates of 30 mm, on a volume of some 60 mm^3.
    assert read_mesh(path).enclosed_volume.item() == pytest.approx(inside_out.enclosed_volume.item(), rel=1e-4)
    assert inside_out.enclosed_volume > 10


def test_polygons_become_triangles_without_new_vertices(tmp_path):
    # A notched pentagon that a fan from its first corner would fill wrongly, a quad, a triangle.
    flat = np.array(
        [[0.0, 0, 5], [4, 0, 5], [4, 4, 5], [2, 1, 5], [0, 4, 5], [9, 9, 9], [9, 12, 9], [13, 12, 9], [13, 9, 9]]
    )
    path = write_by_vtk(tmp_path / "m.vtk", polydata(flat, [[4, 0, 1, 2, 3], [5, 6, 7, 8], [0, 5, 1]]), "RAS")
    with pytest.warns(Notice, match="2 of 3 polygons are no triangles.*6 in all, without new vertices"):
        mesh = read_mesh(path)
    assert np.array_equal(mesh.vertices.numpy(), flat.astype(np.float32))
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
    assert area[:3].sum().item() == pytest.approx(10.0, abs=1e-5)  # 16 less the notch of 6
    assert area[3:5].sum().item() == pytest.approx(12.0, abs=1e-5)


def test_triangle_strips_are_triangles(tmp_path):
    data, strips = polydata(POINTS, []), vtk.vtkCellArray()
    strips.InsertNextCell(4, [0, 1, 2, 3])
    data.SetStrips(strips)
    mesh = read_mesh(write_by_vtk(tmp_path / "m.vtp", data, "RAS"))
    assert len(mesh.faces) == 2
    assert len(mesh.vertices) == len(POINTS)


def test_an_obj_with_normals_keeps_its_vertices(tmp_path):
    path = tmp_path / "m.obj"
    lines = [
        "# made by hand, SPACE=RAS",
        "o thing",
        *(f"v {x} {y} {z} 1.0" for x, y, z in POINTS),
        "vn 0 0 1",
        "vn 1 0 0",
    ]
    lines += ["f 5/1/1 6//2 7//1", "f 1//1 3//2 2//2", "f 1 2 4", "f -6 -5 -4", "f 3 1 4"]
    path.write_text("\n".join(lines))
    mesh = read_mesh(path)
    assert np.array_equal(mesh.vertices.numpy(), POINTS.astype(np.float32))
    assert np.array_equal(mesh.faces.numpy(), FACES)


@pytest.mark.parametrize("order", ["<", ">", "text"])
def test_a_ply_of_another_hand(tmp_path, order):
    """Doubles, colours, lists of other lengths before and after, an element that is none of ours, big endian."""
    kind = {"<": "binary_little_endian", ">": "binary_big_endian", "text": "ascii"}[order]
    head = ["ply", f"format {kind} 1.0", "comment SPACE=LPS", "element note 2", "property list uchar short words"]
    head += ["element vertex 7", "property uchar red", "property double x", "property double y", "property double z"]
    head += ["element face 5", "property list uchar uint vertex_index", "property float quality", "end_header", ""]
    if order == "text":
        rows = ["1 4", "3 1 2 3", *(f"255 {-x!r} {-y!r} {z!r}" for x, y, z in POINTS.tolist())]
        rows += [f"3 {a} {b} {c} 0.5" for a, b, c in FACES]
        body = "\n".join(rows).encode()
    else:
        body = struct.pack(f"{order}BhB3h", 1, 4, 3, 1, 2, 3)
        body += b"".join(struct.pack(f"{order}B3d", 255, -x, -y, z) for x, y, z in POINTS)
        body += b"".join(struct.pack(f"{order}B3If", 3, *face, 0.5) for face in FACES.tolist())
    (tmp_path / "m.ply").write_bytes("\n".join(head).encode() + body)
    mesh = read_mesh(tmp_path / "m.ply")
    assert np.array_equal(mesh.vertices.numpy(), POINTS)
    assert np.array_equal(mesh.faces.numpy(), FACES)


def test_equal_corners_of_an_stl_become_one_vertex(tmp_path):
    mesh = read_mesh(write_mesh(tetrahedra(), tmp_path / "m.stl"))
    assert len(mesh.vertices) == len(POINTS)


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("ascii_", [False, True])
def test_a_file_that_broke_off_is_refused_or_whole_but_never_wrong(tmp_path, suffix, ascii_):
    path = tmp_path / f"m{suffix}"
    if suffix == ".obj":
        write_mesh(tetrahedra(), path)
    else:
        write_by_vtk(path, polydata(), "RAS", ascii_)
    content, whole = path.read_bytes(), corners(read_mesh(path))
    refusals = 0
    for share in (0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        try:
            mesh = read_mesh(path, world="RAS")
        except MeshError:
            refusals += 1
        else:  # all of the surface was there (normals or an empty rest were lost), or, in an OBJ, some of its faces
            got = corners(mesh)
            assert np.array_equal(got, whole[: len(got)])
            assert len(got) == len(whole) or suffix == ".obj"
    assert refusals >= 5


def test_vtk_prints_nothing(tmp_path):
    """In a process of its own, since VTK prints past Python's sys.stderr."""
    names = []
    for suffix in (".stl", ".vtk", ".vtp"):
        for ascii_ in (False, True):
            path = write_by_vtk(tmp_path / f"{ascii_}{suffix}", polydata(), "RAS", ascii_)
            content = path.read_bytes()
            for n, broken in enumerate(
                (content[: len(content) * 2 // 3], b"this is nothing\n" * 40, content[:30] + content[60:])
            ):
                names.append(tmp_path / f"{ascii_}{n}{suffix}")
                names[-1].write_bytes(broken)
    program = (
        "import sys\nfrom diffrender.errors import MeshError\nfrom diffrender.io.meshes import read_mesh\n"
        "for name in sys.argv[1:]:\n    try:\n        read_mesh(name, 'RAS')\n    except MeshError:\n        pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, names)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_files_that_are_no_meshes(tmp_path):
    refused(PathError, "does not exist", tmp_path / "gone.ply")
    (tmp_path / "zero.stl").touch()
    refused(PathError, "is empty", tmp_path / "zero.stl")
    (tmp_path / "m.step").write_text("ISO-10303-21")
    refused(PathError, "known by its ending: meshes end with .stl, .ply, .obj, .vtk, .vtp", tmp_path / "m.step")
    (tmp_path / "folder.ply").mkdir()
    refused(PathError, "no mesh file", tmp_path / "folder.ply")
    with pytest.raises(SettingError, match="world='lps' is not offered"):
        read_mesh(write_mesh(tetrahedra(), tmp_path / "m.ply"), world="lps")


def test_meshes_without_a_surface(tmp_path):
    lines, cells = polydata(POINTS, []), vtk.vtkCellArray()
    cells.InsertNextCell(3, [0, 1, 2])
    lines.SetLines(cells)
    refused(MeshError, "7 points and no polygons", write_by_vtk(tmp_path / "lines.vtk", lines, "RAS"))
    (tmp_path / "cloud.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n1 2 3\n"
    )
    refused(MeshError, "holds no surface", tmp_path / "cloud.ply")
    (tmp_path / "grid.vtk").write_text(
        "# vtk DataFile Version 4.2\nx\nASCII\nDATASET STRUCTURED_POINTS\nDIMENSIONS 1 1 1\n"
    )
    refused(MeshError, "VTK data set of the kind structured_points", tmp_path / "grid.vtk")


def test_vertices_that_are_not_there_or_not_finite(tmp_path):
    (tmp_path / "m.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    refused(MeshError, "names vertex 8, and there are 3", tmp_path / "m.obj", world="RAS")
    (tmp_path / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    refused(MeshError, "NaN or infinite", tmp_path / "nan.obj", world="RAS")
    path = write_by_vtk(tmp_path / "far.vtk", polydata(POINTS, [[0, 1, 2], [0, 1, 3]]), "RAS", ascii_=True)
    path.write_text(path.read_text().replace("0 1 3", "0 1 77"))
    refused(MeshError, "names vertex 77", path)


def test_meshes_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match=r"meshes are written as .stl, .ply, .obj, .vtk, .vtp"):
        write_mesh(tetrahedra(), tmp_path / "m.gltf")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="could not be written"):
        write_mesh(tetrahedra(), tmp_path / "file" / "m.ply")
