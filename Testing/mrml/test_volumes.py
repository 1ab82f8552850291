"""Volumes in and out: the voxels, where each lies, what they are; and what is refused as a CT."""

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.errors import ImageError, InputError, LabelError, Notice, WarpError
from Testing.mrml.bodies import INNER, OUTER, SHAPE, ids, lattice, numbers, volume
from Testing.mrml.scenes import vtk4

EXACT = 1e-5  # [mm], what is promised; float64 keeps 1e-12


@pytest.fixture
def ct(slicer_):
    return lambda **how: by_hand(slicer_, **how)


def by_hand(slicer_, dtype=np.int16, left_handed=False, parent=None, kind="ScalarVolume", array=None):
    """A volume node filled voxel by voxel as VTK's own interface counts them: i, j, k."""
    from vtkmodules.util.numpy_support import get_vtk_array_type
    from vtkmodules.vtkCommonDataModel import vtkImageData

    array = numbers(dtype) if array is None else array
    image = vtkImageData()
    image.SetDimensions(array.shape[2], array.shape[1], array.shape[0])
    image.AllocateScalars(get_vtk_array_type(array.dtype), 1)
    for (k, j, i), value in np.ndenumerate(array):
        image.SetScalarComponentFromDouble(i, j, k, 0, float(value))
    node = slicer_.add(kind, "CT 7", parent)
    node.SetIJKToRASMatrix(vtk4(lattice(left_handed)))
    node.SetAndObserveImageData(image)
    return node


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_voxels_and_lattice_come_in_as_they_are(ct, dtype, left_handed):
    found = mrml.volume_of(ct(dtype=dtype, left_handed=left_handed))
    assert found.values.numpy().dtype == dtype
    np.testing.assert_array_equal(found.values.numpy(), numbers(dtype))
    np.testing.assert_allclose(found.world_from_voxel.numpy(), lattice(left_handed), atol=EXACT)
    assert (found.unit, found.source) == ("HU", "CT 7")


@pytest.mark.parametrize("left_handed", [False, True])
def test_a_voxel_lies_where_slicer_says_it_does(slicer_, ct, left_handed):
    node = ct(left_handed=left_handed, parent=slicer_.transform(INNER, slicer_.transform(OUTER)))
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld((lattice(left_handed) @ [3.0, 5.0, 2.0, 1.0])[:3].tolist(), world)
    found = mrml.volume_of(node)
    np.testing.assert_allclose((found.world_from_voxel.numpy() @ [3.0, 5.0, 2.0, 1.0])[:3], world, atol=EXACT)
    assert found.values[2, 5, 3] == numbers()[2, 5, 3]


def test_what_comes_in_is_a_copy_unless_it_is_to_be_shared(ct):
    node = ct()
    copied, shared = mrml.volume_of(node), mrml.volume_of(node, copy=False)
    node.GetImageData().SetScalarComponentFromDouble(3, 2, 1, 0, -77.0)
    assert shared.values[1, 2, 3] == -77
    assert copied.values[1, 2, 3] == numbers()[1, 2, 3]


def test_voxels_outlive_their_node(slicer_, ct):
    node = ct()
    shared = mrml.volume_of(node, copy=False)
    slicer_.scene.RemoveNode(node)
    del node
    np.testing.assert_array_equal(shared.values.numpy(), numbers())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_other_types_keep_their_numbers(ct, dtype):
    array = numbers(np.int32) + 1000
    array = array % 250 if dtype == np.uint8 else array
    with pytest.warns(Notice, match="do not look like Hounsfield units"):
        found = mrml.volume_of(ct(array=array.astype(dtype)))
    np.testing.assert_array_equal(found.values.numpy().astype(np.int32), array)


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("under", [False, True])
def test_there_and_back(slicer_, dtype, left_handed, under):
    made = volume(left_handed, values=numbers(dtype), unit="arbitrary")
    node = by_hand(slicer_, parent=slicer_.transform(INNER, slicer_.transform(OUTER))) if under else None
    back = mrml.volume_of(mrml.volume_to_node(slicer_.scene, made, "out", node))
    assert back.values.dtype == made.values.dtype
    assert torch.equal(back.values, made.values)
    np.testing.assert_allclose(back.world_from_voxel.numpy(), made.world_from_voxel.numpy(), atol=EXACT)
    assert back.unit == "arbitrary"


def test_slicer_reads_the_voxel_that_we_wrote(scene):
    node = mrml.volume_to_node(scene, volume(left_handed=True), "out")
    assert node.GetImageData().GetScalarComponentAsDouble(10, 3, 4, 0) == numbers()[4, 3, 10]
    assert node.GetImageData().GetScalarTypeAsString() == "short"
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    place = matrix.MultiplyPoint([10.0, 3.0, 4.0, 1.0])
    np.testing.assert_allclose(place[:3], (lattice(True) @ [10.0, 3.0, 4.0, 1.0])[:3], atol=EXACT)
    assert node.GetVoxelValueUnits().GetCodeMeaning() == "Hounsfield unit"
    assert node.GetDisplayNode() is not None


def test_what_we_wrote_is_ours_no_more(scene):
    made = volume()
    node = mrml.volume_to_node(scene, made, "out")
    made.values.zero_()
    assert node.GetImageData().GetScalarComponentAsDouble(10, 3, 4, 0) == numbers()[4, 3, 10]


def test_a_unit_that_a_node_has_is_taken(slicer_, ct):
    import slicer

    units, node = slicer.vtkCodedEntry(), ct()
    units.SetValueSchemeMeaning("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value")
    node.SetVoxelValueUnits(units)
    assert mrml.volume_of(node).unit == "Standardized Uptake Value"


def test_what_is_no_ct_is_refused_in_words(slicer_, ct):
    with pytest.raises(InputError, match=r"Nothing is selected; choose a CT \(a scalar volume\)"):
        mrml.volume_of(None)
    with pytest.raises(InputError, match="'CT 7' is a label map"):
        mrml.volume_of(ct(kind="LabelMapVolume"))
    with pytest.raises(InputError, match="'M' is a Model; choose a CT"):
        mrml.volume_of(slicer_.add("Model", "M"))
    with pytest.raises(InputError, match="holds 3 numbers for each voxel"):
        mrml.volume_of(mrml.pictures_to_node(slicer_.scene, torch.rand(2, 3, 5, 4), "views"))
    with pytest.raises(ImageError, match="'empty' holds no voxels"):
        mrml.volume_of(slicer_.add("ScalarVolume", "empty"))
    with pytest.raises(ImageError, match="'CT 7' is constant"):
        mrml.volume_of(ct(array=np.full(SHAPE, 3, np.int16)))
    with pytest.raises(ImageError, match="'CT 7' holds NaN"):
        mrml.volume_of(ct(array=np.where(numbers() > 1900, np.nan, numbers()).astype(np.float32)))


def test_a_parent_that_shears_is_a_warp(slicer_, ct):
    shear = np.eye(4)
    shear[0, 1] = 0.2
    with pytest.raises(WarpError, match=r"is sheared.*resampled copy"):
        mrml.volume_of(ct(parent=slicer_.transform(shear)))


def test_a_parent_may_scale_and_mirror(slicer_, ct):
    scale = np.diag([-2.0, 2.0, 2.0, 1.0])
    found = mrml.volume_of(ct(parent=slicer_.transform(scale)))
    np.testing.assert_allclose(found.world_from_voxel.numpy(), scale @ lattice(False), atol=EXACT)


def test_label_map_there_and_back(scene):
    made = volume(labels=torch.from_numpy(ids()), names={1: "Milz", 2: "Hüfte links", 7: "Femur"})
    reference = mrml.volume_to_node(scene, made, "ct")
    node = mrml.labelmap_to_node(scene, made, "labels")
    found = mrml.volume_of(reference, labels=node)
    np.testing.assert_array_equal(found.labels.numpy(), ids())
    assert {label: found.label_name(label) for label in found.label_ids} == dict(made.names)
    tables = scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")
    mrml.labelmap_to_node(scene, made, "", node)
    assert scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == tables
    colours = mrml.segments_of(node, reference).colours
    assert len(set(colours.values())) == 3
    with pytest.raises(LabelError, match="labels that overlap become a segmentation"):
        mrml.labelmap_to_node(scene, volume(labels=torch.from_numpy(ids()[None] == 2)), "labels")


def test_a_fingerprint_knows_a_ct_again(slicer_, ct):
    node = ct()
    other = mrml.volume_to_node(slicer_.scene, mrml.volume_of(node), "another name")
    assert mrml.fingerprint(node) == mrml.fingerprint(other)
    other.GetImageData().SetScalarComponentFromDouble(3, 2, 1, 0, -77.0)
    assert mrml.fingerprint(node) != mrml.fingerprint(other)
    assert mrml.fingerprint(node) != mrml.fingerprint(ct(left_handed=True))
    assert mrml.fingerprint(node) != mrml.fingerprint(ct(dtype=np.float32))
