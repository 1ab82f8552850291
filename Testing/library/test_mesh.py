"""Meshes: what they say of themselves, and what is no surface."""

import pytest
import torch

import diffrender as dr
from diffrender.errors import MeshError

VERTICES = torch.tensor([[1.0, 0, 0], [4, 0, 0], [1, 5, 0], [1, 0, 7]])
FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def test_a_tetrahedron():
    mesh = dr.Mesh(VERTICES, FACES)
    assert mesh.enclosed_volume.item() == pytest.approx(3 * 5 * 7 / 6)
    assert dr.Mesh(VERTICES, FACES.flip(1)).enclosed_volume.item() == pytest.approx(-3 * 5 * 7 / 6)
    assert mesh.centre.tolist() == [2.5, 2.5, 3.5]
    assert repr(mesh) == "Mesh(4 vertices, 4 triangles, 3.0 x 5.0 x 7.0 mm (R x A x S))"


def test_arrays_and_lists_are_taken():
    mesh = dr.Mesh(VERTICES.int().numpy(), FACES.int().tolist())
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (torch.float32, torch.int64)
    assert dr.Mesh(VERTICES.double(), FACES).vertices.dtype == torch.float64


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (VERTICES, [[0, 1, 4]], r"names vertex 4, and there are 4 \(numbered from 0\)"),
        (VERTICES, [[0, 1, -1]], "names vertex"),
        (VERTICES * torch.nan, FACES, "NaN or infinite"),
        (VERTICES, torch.zeros((0, 3)), "no surface"),
        (VERTICES, [[0, 1, 2, 3]], "Triangulate"),
        (VERTICES, [[0, 1, 2.7]], "faces are whole numbers"),
    ],
)
def test_what_is_no_surface_is_refused(vertices, faces, words):
    with pytest.raises(MeshError, match=words):
        dr.Mesh(vertices, faces)
