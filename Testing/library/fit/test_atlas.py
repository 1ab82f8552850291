"""Atlases in folders and arrays: LPS becomes RAS, subjects go by their numbers, and bad files are named."""

import atlases
import numpy as np
import pytest
import torch

from diffrender.errors import MeshError, PathError, SettingError
from diffrender.fit.atlas import PELVIS, read_atlas


@pytest.fixture(scope="module")
def pelves():
    return atlases.pelves(3)


@pytest.fixture
def folder(pelves, tmp_path):
    return atlases.write_folder(tmp_path / "atlas", pelves, [2, 10, 9])


def test_folder_and_arrays_hold_the_same(folder, pelves, tmp_path):
    of_folder = read_atlas(folder)
    of_npz = read_atlas(atlases.write_npz(tmp_path / "atlas.npz", pelves, [2, 10, 9]))
    assert [subject.id for subject in of_folder] == [2, 9, 10] == [subject.id for subject in of_npz]
    for a, b, subject in zip(of_folder, of_npz, (0, 2, 1), strict=True):
        assert list(a.meshes) == list(PELVIS) == list(b.meshes)
        for part in PELVIS:
            truth = pelves[subject][part]
            assert torch.equal(a.meshes[part].vertices, truth.vertices)
            assert torch.equal(b.meshes[part].vertices, truth.vertices)
            assert torch.equal(a.meshes[part].faces, truth.faces)
            assert torch.equal(b.meshes[part].faces, truth.faces)
            assert a.meshes[part].enclosed_volume > 0


def test_subjects_are_left_out_by_number(folder):
    assert [subject.id for subject in read_atlas(folder, exclude=[9, 2])] == [10]
    with pytest.raises(SettingError, match="has no subject 11 to leave out; it has 2, 9, 10"):
        read_atlas(folder, exclude=[11, 9])


def test_a_folder_that_is_not_whole_is_named(folder):
    (folder / "surface/sacrum/Sacrum9_cpd.vtk").unlink()
    with pytest.raises(PathError, match="subject 9 has no file of its sacrum"):
        read_atlas(folder)


def test_a_subject_there_twice_is_named(folder):
    file = folder / "surface/left/LeftHip10_cpd.vtk"
    (folder / "LeftHip10.vtk").write_bytes(file.read_bytes())
    with pytest.raises(PathError, match="left hip of subject 10 twice"):
        read_atlas(folder)


def test_other_triangles_are_no_correspondence(folder, pelves):
    from diffrender.io.meshes import write_mesh
    from diffrender.mesh import Mesh

    mesh = pelves[0]["sacrum"]
    write_mesh(Mesh(mesh.vertices, mesh.faces[1:]), folder / "surface/sacrum/Sacrum9_cpd.vtk")
    with pytest.raises(MeshError, match=r"Sacrum9_cpd\.vtk and .*Sacrum2_cpd\.vtk have different triangles"):
        read_atlas(folder)
    used = torch.cat([mesh.vertices, mesh.vertices[:1]])
    write_mesh(Mesh(used, mesh.faces), folder / "surface/sacrum/Sacrum9_cpd.vtk")
    with pytest.raises(MeshError, match=f"has {len(used)} vertices and"):
        read_atlas(folder)


def test_no_atlas_at_all(tmp_path):
    (tmp_path / "bone.vtk").write_text("no name of ours")
    with pytest.raises(PathError, match=r"holds no surface of an atlas: they are named LeftHip10_cpd\.vtk"):
        read_atlas(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda a: a.pop("sacrum_faces"), PathError, "no atlas of surfaces .*sacrum_faces"),
        (lambda a: a.update(ids=np.array([4, 4, 5])), MeshError, "a subject twice: its ids are 4, 4, 5"),
        (lambda a: a.update(sacrum_points=a["sacrum_points"][:2]), MeshError, "points of the sacrum have the shape"),
        (lambda a: a.update(sacrum_points=a["sacrum_points"] * np.nan), MeshError, "NaN or infinite"),
        (
            lambda a: a.update(ids=np.array([4, 5, {}], object)),
            PathError,
            r"no atlas of surfaces .it holds no plain arrays.",
        ),
    ],
)
def test_bad_arrays_are_named(pelves, tmp_path, change, error, words):
    file = atlases.write_npz(tmp_path / "atlas.npz", pelves, [4, 6, 5])
    with np.load(file) as opened:
        arrays = dict(opened)
    change(arrays)
    np.savez(file, **arrays)
    with pytest.raises(error, match=words):
        read_atlas(file)


def test_a_cut_off_archive_is_named(pelves, tmp_path):
    file = atlases.write_npz(tmp_path / "atlas.npz", pelves, [4, 6, 5])
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(PathError, match=r"atlas\.npz is no atlas of surfaces"):
        read_atlas(file)
