"""Segments in and out: which voxels, on whose lattice, called what, in which colour; overlapping ones too."""

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.errors import InputError, LabelError, Notice
from diffrender.volume import Volume
from Testing.mrml.bodies import INNER, OUTER, SHAPE, ids, lattice, volume
from Testing.mrml.scenes import vtk4

COLOURS = {1: (0.25, 0.5, 0.75), 2: (1.0, 0.0, 0.125), 7: (0.5, 1.0, 0.0)}
NAMES = {1: "Milz", 2: "Hüfte links", 7: "Femur"}


def layers() -> np.ndarray:
    """Two structures that overlap in a corner, and one apart."""
    found = np.zeros((3, *SHAPE), bool)
    found[0, 1:4, 1:5, 2:9] = True
    found[1, 3:5, 2:6, 6:10] = True
    found[2, 0, 6, 10] = True
    return found


def drawn_by_hand(slicer_, masks, world_from_voxel, names, parent=None, first=(0, 0, 0)):
    """A segmentation whose segments have labelmaps of their own, voxel by voxel, whose extents start at `first`."""
    import slicer
    from vtkmodules.vtkCommonCore import VTK_UNSIGNED_CHAR

    node = slicer_.add("Segmentation", "seg", parent)
    i0, j0, k0 = first
    for mask, name in zip(masks, names, strict=True):
        image = slicer.vtkOrientedImageData()
        k, j, i = mask.shape
        image.SetExtent(i0, i0 + i - 1, j0, j0 + j - 1, k0, k0 + k - 1)
        image.AllocateScalars(VTK_UNSIGNED_CHAR, 1)
        matrix = np.array(world_from_voxel)
        matrix[:3, 3] -= matrix[:3, :3] @ np.array(first, float)
        image.SetGeometryFromImageToWorldMatrix(vtk4(matrix))
        for (c, b, a), value in np.ndenumerate(mask):
            image.SetScalarComponentFromDouble(a + i0, b + j0, c + k0, 0, float(value))
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(*COLOURS[2])
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, f"id of {name}")
    return node


@pytest.mark.parametrize("left_handed", [False, True])
def test_overlapping_segments_come_in_as_layers(slicer_, left_handed):
    reference = mrml.volume_to_node(slicer_.scene, volume(left_handed), "ct")
    masks = layers()[:, :4, :, 1:]  # the lattice of the segments begins a voxel later along i, and ends earlier along k
    offset = np.array(lattice(left_handed))
    offset[:3, 3] += offset[:3, 0]
    node = drawn_by_hand(slicer_, masks, offset, "abc", first=(5, -3, 2))
    found = mrml.segments_of(node, reference)
    expected = layers()
    expected[:, 4] = False
    np.testing.assert_array_equal(found.labels.numpy(), expected)
    assert found.names == {1: "a", 2: "b", 3: "c"}
    assert found.segments == {1: "id of a", 2: "id of b", 3: "id of c"}
    assert found.colours[3] == COLOURS[2]
    assert mrml.volume_of(reference, labels=node).label_ids == (1, 2, 3)


def test_segments_follow_their_own_parents_and_the_volume_its_own(slicer_):
    inner = slicer_.transform(INNER, slicer_.transform(OUTER))
    reference = mrml.volume_to_node(slicer_.scene, volume(), "ct")
    local = np.linalg.inv(OUTER @ INNER) @ lattice(False)
    node = drawn_by_hand(slicer_, layers()[:1], local, "a", parent=inner)
    np.testing.assert_array_equal(mrml.segments_of(node, reference).labels.numpy(), layers()[0].astype(np.uint8))
    both = mrml.volume_to_node(slicer_.scene, volume(), "ct")
    both.SetAndObserveTransformNodeID(slicer_.transform(OUTER).GetID())
    node = drawn_by_hand(slicer_, layers()[:1], lattice(False), "a", parent=slicer_.transform(OUTER))
    np.testing.assert_array_equal(mrml.segments_of(node, both).labels.numpy(), layers()[0].astype(np.uint8))


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("under", [False, True])
def test_ids_there_and_back(slicer_, left_handed, under):
    made = volume(left_handed, labels=torch.from_numpy(ids()), names=NAMES)
    reference = mrml.volume_to_node(slicer_.scene, made, "ct")
    node = slicer_.add("Segmentation", parent=slicer_.transform(INNER)) if under else None
    node = mrml.segmentation_to_node(slicer_.scene, made, "seg", COLOURS, reference, node)
    found = mrml.segments_of(node, reference)
    np.testing.assert_array_equal(found.labels.numpy(), ids())
    assert (found.names, found.colours) == (NAMES, COLOURS)
    assert found.segments == {1: "Segment_1", 2: "Segment_2", 7: "Segment_7"}


def test_layers_there_and_back(slicer_):
    made = volume(labels=torch.from_numpy(layers()), names=NAMES)
    reference = mrml.volume_to_node(slicer_.scene, made, "ct")
    node = mrml.segmentation_to_node(slicer_.scene, made, "seg", reference=reference)
    found = mrml.segments_of(node, reference)
    np.testing.assert_array_equal(found.labels.numpy(), layers())
    assert list(found.names.values()) == list(NAMES.values())


def test_slicer_counts_the_voxels_that_we_wrote(slicer_):
    """Its own export, which knows nothing of this bridge."""
    import slicer
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkStringArray

    made = volume(True, labels=torch.from_numpy(ids()), names=NAMES)
    reference = mrml.volume_to_node(slicer_.scene, made, "ct")
    node = mrml.segmentation_to_node(slicer_.scene, made, "seg", COLOURS, reference)
    assert node.GetSegmentation().GetSegment("Segment_7").GetName() == "Femur"
    assert node.GetSegmentation().GetSegment("Segment_7").GetColor() == COLOURS[7]
    out, wanted = slicer_.add("LabelMapVolume"), vtkStringArray()
    wanted.InsertNextValue("Segment_7")
    export = slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode
    assert export(node, wanted, out, reference)
    array = vtk_to_numpy(out.GetImageData().GetPointData().GetScalars()).reshape(SHAPE)
    np.testing.assert_array_equal(array != 0, ids() == 7)


def test_surfaces_alone_are_filled(slicer_):
    import slicer
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    made = Volume(torch.arange(20 * 22 * 24, dtype=torch.int16).reshape(20, 22, 24), torch.from_numpy(lattice(False)))
    reference = mrml.volume_to_node(slicer_.scene, made, "ct")
    ball, centre, radius = vtkSphereSource(), lattice(False) @ [11.0, 9.0, 8.0, 1.0], 7.0
    ball.SetCenter(*centre[:3])
    ball.SetRadius(radius)
    ball.SetThetaResolution(48)
    ball.SetPhiResolution(48)
    ball.Update()
    segment, node = slicer.vtkSegment(), slicer_.add("Segmentation")
    segment.SetName("ball")
    segment.AddRepresentation("Closed surface", ball.GetOutput())
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.GetSegmentation().AddSegment(segment)
    found = mrml.segments_of(node, reference).labels.numpy()
    k, j, i = np.meshgrid(*[np.arange(n) for n in made.shape], indexing="ij")
    points = np.stack([i, j, k], -1) @ lattice(False)[:3, :3].T + lattice(False)[:3, 3]
    distance = np.linalg.norm(points - centre[:3], axis=-1)
    sure = np.abs(distance - radius) > 1.6  # [mm]: half the diagonal of a voxel of 0.7 x 1.3 x 2.9 mm
    np.testing.assert_array_equal((found != 0)[sure], (distance < radius)[sure])
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")  # the node itself is left as it was


def test_what_is_not_there_is_said(slicer_):
    reference = mrml.volume_to_node(slicer_.scene, volume(), "ct")
    with pytest.raises(InputError, match="'M' is a Model; choose a segmentation or a label map"):
        mrml.segments_of(slicer_.add("Model", "M"), reference)
    with pytest.raises(LabelError, match="'none' has no segments"):
        mrml.segments_of(slicer_.add("Segmentation", "none"), reference)
    empty = drawn_by_hand(slicer_, layers()[:1] & False, lattice(False), "a")
    with pytest.raises(LabelError, match="'seg' has no voxel within 'ct'"):
        mrml.segments_of(empty, reference)
    away = lattice(False).copy()
    away[:3, 3] += 500
    with pytest.raises(LabelError, match="does not overlap the volume"):
        mrml.segments_of(drawn_by_hand(slicer_, layers()[:1], away, "a"), reference)
    with pytest.raises(LabelError, match="no labelled voxel"):
        mrml.segmentation_to_node(slicer_.scene, volume(), "seg")


def test_another_lattice_is_said(slicer_):
    reference = mrml.volume_to_node(slicer_.scene, volume(), "ct")
    off = lattice(False).copy()
    off[:3, 3] += off[:3, 0] * 0.3
    with pytest.warns(Notice, match="resampled to the nearest voxel"):
        found = mrml.segments_of(drawn_by_hand(slicer_, layers()[:1], off, "a"), reference)
    np.testing.assert_array_equal(found.labels.numpy() != 0, layers()[0])
