"""Models in and out: every vertex in its place and its order, faces outward, under transforms of any kind."""

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.errors import InputError, MeshError
from diffrender.mesh import Mesh
from phantoms import rotation
from Testing.mrml.bodies import INNER, OUTER

VERTICES = np.array([[0, 0, 0], [31, 2, 1], [4, 17, -3], [2, 5, 23]], np.float32) + np.float32([-61, 37, 83])
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])  # outward
SINGLE = 1e-5  # [mm] float32 at some 200 mm keeps 8e-6
GRID = 3e-4  # [mm] VTK holds a place in its grid as float32, which keeps some 1e-4


def mesh(dtype=torch.float32) -> Mesh:
    return Mesh(torch.from_numpy(VERTICES).to(dtype), torch.from_numpy(FACES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(scene, dtype):
    made = mesh(dtype)
    node = mrml.mesh_to_node(scene, made, "bone")
    back = mrml.mesh_of(node)
    assert back.vertices.dtype == dtype
    assert torch.equal(back.vertices, made.vertices)
    assert torch.equal(back.faces, made.faces)
    assert (back.source, node.GetPolyData().GetPoint(1)) == ("bone", tuple(VERTICES[1].tolist()))
    assert node.GetDisplayNode() is not None


def test_parents_move_the_vertices(slicer_):
    node = mrml.mesh_to_node(slicer_.scene, mesh(), "bone")
    node.SetAndObserveTransformNodeID(slicer_.transform(INNER, slicer_.transform(OUTER)).GetID())
    expected = VERTICES.astype(float) @ (OUTER @ INNER)[:3, :3].T + (OUTER @ INNER)[:3, 3]
    np.testing.assert_allclose(mrml.mesh_of(node).vertices.numpy(), expected, atol=SINGLE)
    again = mrml.mesh_to_node(slicer_.scene, mesh(), "", node=node)
    np.testing.assert_allclose(mrml.mesh_of(again).vertices.numpy(), VERTICES, atol=SINGLE)


def test_a_mirror_keeps_faces_outward(slicer_):
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[:3, :3] = rotation(10, 20, 30) @ mirror[:3, :3]
    node = mrml.mesh_to_node(slicer_.scene, mesh(), "bone")
    before = mrml.mesh_of(node).enclosed_volume
    node.SetAndObserveTransformNodeID(slicer_.transform(mirror).GetID())
    assert float(before) > 0
    assert float(mrml.mesh_of(node).enclosed_volume) == pytest.approx(float(before), rel=1e-5)


def test_a_warp_bends_each_vertex(slicer_):
    bend, shift = np.array([[0.08, 0.02, 0.0], [-0.03, -0.05, 0.04], [0.01, 0.0, 0.06]]), np.array([4.0, -7.0, 9.0])
    node = mrml.mesh_to_node(slicer_.scene, mesh(), "bone")
    node.SetAndObserveTransformNodeID(slicer_.grid(bend, shift, slicer_.transform(OUTER)).GetID())
    warped = VERTICES.astype(float) @ (np.eye(3) + bend).T + shift
    expected = warped @ OUTER[:3, :3].T + OUTER[:3, 3]
    np.testing.assert_allclose(mrml.mesh_of(node).vertices.numpy(), expected, atol=GRID)


def test_polygons_become_triangles_on_the_same_vertices(slicer_):
    from vtkmodules.vtkFiltersSources import vtkCubeSource

    cube, node = vtkCubeSource(), slicer_.add("Model")
    cube.SetBounds(3, 5, -7, -4, 11, 17)
    cube.Update()
    node.SetAndObservePolyData(cube.GetOutput())
    found = mrml.mesh_of(node)
    assert (len(found.vertices), len(found.faces)) == (24, 12)
    assert float(found.enclosed_volume) == pytest.approx(2 * 3 * 6, rel=1e-5)


def test_numbers_at_the_vertices_colour_the_model(scene):
    node = mrml.mesh_to_node(scene, mesh(), "bone", {"deviation [mm]": [0.5, 1.0, 2.0, 4.0], "other": np.arange(4)})
    column = node.GetPolyData().GetPointData().GetArray("deviation [mm]")
    assert [column.GetTuple1(n) for n in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert node.GetDisplayNode().GetActiveScalarName() == "deviation [mm]"
    assert node.GetDisplayNode().GetScalarVisibility()
    with pytest.raises(MeshError, match=r"has shape \[3\]; the mesh has 4 vertices"):
        mrml.mesh_to_node(scene, mesh(), "bone", {"x": [1.0, 2.0, 3.0]})


def test_what_is_no_surface_is_refused(slicer_):
    with pytest.raises(MeshError, match="'M' holds no surface"):
        mrml.mesh_of(slicer_.add("Model", "M"))
    with pytest.raises(InputError, match="choose a model"):
        mrml.mesh_of(slicer_.add("ScalarVolume"))
