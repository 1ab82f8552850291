"""Parent transforms: all of them, in the right order, to the world and not from it."""

import numpy as np
import pytest

from diffrender import mrml
from diffrender.errors import GeometryError, InputError, WarpError
from Testing.mrml.bodies import INNER, OUTER

EXACT = 1e-9  # [mm] float64 over some 100 mm, three products


def test_a_node_without_parent_is_in_the_world(slicer_):
    np.testing.assert_array_equal(mrml.world_from_node(slicer_.add("Model")), np.eye(4))


def test_parents_apply_from_the_inside_out(slicer_):
    inner = slicer_.transform(INNER, slicer_.transform(OUTER))
    found = mrml.world_from_node(slicer_.add("Model", parent=inner))
    np.testing.assert_allclose(found, OUTER @ INNER, atol=EXACT)
    np.testing.assert_allclose(mrml.matrix_of(inner), OUTER @ INNER, atol=EXACT)


def test_a_transform_node_is_written_under_its_parent(slicer_):
    parent = slicer_.transform(OUTER)
    node = mrml.transform_to_node(slicer_.scene, INNER, "pose", slicer_.add("LinearTransform", parent=parent))
    point = [0.0, 0.0, 0.0]
    slicer_.add("Model", parent=node).TransformPointToWorld([3.0, -5.0, 7.0], point)
    np.testing.assert_allclose(point, (INNER @ [3.0, -5.0, 7.0, 1.0])[:3], atol=EXACT)
    np.testing.assert_allclose(mrml.matrix_of(mrml.transform_to_node(slicer_.scene, INNER, "x")), INNER, atol=EXACT)


def test_a_warp_is_said_by_the_name_of_node_and_transform(slicer_):
    node = slicer_.add("ScalarVolume", "CT 7", slicer_.grid(np.zeros((3, 3)), [1.0, 2.0, 3.0]))
    with pytest.raises(WarpError, match="'CT 7' lies under the transform 'warp', which bends space"):
        mrml.world_from_node(node)
    with pytest.raises(WarpError, match="a matrix cannot hold it"):
        mrml.matrix_of(node.GetParentTransformNode())


def test_what_is_no_transform_is_refused(scene, slicer_):
    with pytest.raises(InputError, match="'M' is a Model; choose a linear transform"):
        mrml.matrix_of(slicer_.add("Model", "M"))
    with pytest.raises(InputError, match="Nothing is selected; choose a linear transform"):
        mrml.matrix_of(None)
    with pytest.raises(GeometryError, match="has an inverse"):
        mrml.transform_to_node(scene, np.diag([1.0, 1.0, 0.0, 1.0]), "flat")
