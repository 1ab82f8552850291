"""Stacks of pictures: which slice, which way up, cameras and kinds with them; radiographs where their detector was."""

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.camera import Camera, c_arm
from diffrender.errors import GeometryError, ImageError, LabelError, SettingError
from diffrender.xray import Radiograph
from Testing.mrml.bodies import rigid

H, W = 6, 9


def cameras(n: int) -> list[Camera]:
    return [c_arm((11.0, -7.0, 5.0), 20.0 * k, 7.0, pixel_size=(0.8, 1.2), image_size=(H, W)) for k in range(n)]


def frames(n: int = 3) -> list[Radiograph]:
    generator = torch.Generator().manual_seed(3)
    return [Radiograph(torch.rand(1, H, W, generator=generator), "intensity", camera) for camera in cameras(n)]


def test_views_are_upright_in_an_axial_slice(scene):
    pictures = torch.zeros(2, 4, H, W)
    pictures[1, 0, 1, 7] = 1.0  # red, in the second picture, row 1, column 7: top right
    pictures[:, 3] = 1.0
    node = mrml.pictures_to_node(scene, pictures, "views", cameras(2))
    assert node.GetImageData().GetDimensions() == (W, H, 2)
    assert node.GetImageData().GetScalarTypeAsString() == "unsigned char"
    assert [node.GetImageData().GetScalarComponentAsDouble(7, 1, 1, c) for c in range(3)] == [255.0, 0.0, 0.0]
    top_left, red = (mrml.lattice_of(node) @ [i, j, 1, 1.0] for i, j in ((0.0, 0.0), (7.0, 1.0)))
    # Slicer's Axial view has the patient's left on its right and anterior on top.
    np.testing.assert_allclose((red - top_left)[:3], [-7 * 1.2, -1 * 0.8, 0.0], atol=1e-9)
    assert [camera.to_dict() for camera in mrml.recall_cameras(node)] == [c.to_dict() for c in cameras(2)]


def test_colours_there_and_back(scene):
    levels = torch.randint(0, 256, (3, 3, H, W), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    node = mrml.pictures_to_node(scene, levels / 255.0, "views")
    assert torch.equal(mrml.pictures_of(node), levels)


def test_transparent_is_black_behind(scene):
    red = torch.zeros(1, 4, H, W)
    red[0, 0], red[0, 3] = 0.4, 0.4  # premultiplied: full red, 0.4 opaque
    assert mrml.pictures_of(mrml.pictures_to_node(scene, red, "views"))[0, :, 0, 0].tolist() == [102, 0, 0]


def test_pictures_that_do_not_fit_are_refused(scene):
    with pytest.raises(ImageError, match=r"\[2, 5, 6, 9\] and have 0 cameras"):
        mrml.pictures_to_node(scene, torch.zeros(2, 5, H, W), "views")
    with pytest.raises(ImageError, match="and have 3 cameras"):
        mrml.pictures_to_node(scene, torch.zeros(2, 4, H, W), "views", cameras(3))


def test_radiographs_there_and_back(scene):
    made = frames()
    node = mrml.radiographs_to_node(scene, made, "DRR")
    back = mrml.radiographs_of(node)
    assert node.GetImageData().GetScalarComponentAsFloat(7, 1, 2, 0) == made[2].pixels[0, 1, 7].item()
    for one, other in zip(made, back, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert (one.kind, one.camera.to_dict()) == (other.kind, other.camera.to_dict())
    again = mrml.radiographs_to_node(scene, frames(1), "", node=node)
    assert again is node
    assert len(mrml.radiographs_of(node)) == 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_radiograph_in_place_lies_on_its_detector(scene, mirrored):
    matrix = rigid((20.0, -35.0, 50.0), (-310.0, 95.0, -33.0)) @ np.diag([1.0, -1.0 if mirrored else 1.0, 1.0, 1.0])
    camera = Camera(torch.from_numpy(matrix), 613.0, (0.8, 1.2), (H, W), (2.5, 6.0))
    frame = Radiograph(torch.rand(1, H, W), "intensity", camera)
    node = mrml.radiographs_to_node(scene, [frame], "DRR", in_place=True)
    i, j, _ = np.meshgrid(np.arange(W), np.arange(H), [0], indexing="ij")
    voxels = np.stack([i, j, 0 * i, 0 * i + 1], -1).reshape(-1, 4)
    world = (voxels @ mrml.lattice_of(node).T)[:, :3]
    pixels = camera.project(torch.from_numpy(world)).numpy()
    np.testing.assert_allclose(pixels, voxels[:, [1, 0]] + 0.5, atol=1e-9)
    depth = (world - camera.source.numpy()) @ camera.direction.numpy()
    np.testing.assert_allclose(depth, 613.0, atol=1e-9)
    with pytest.raises(ImageError, match="a single one where it is put in place"):
        mrml.radiographs_to_node(scene, frames(2), "DRR", in_place=True)


def test_frames_without_geometry_or_kind_are_refused(slicer_):
    node = mrml.radiographs_to_node(slicer_.scene, frames(), "frames")
    mrml.write_json(node, "cameras", None)
    with pytest.raises(GeometryError, match="'frames' holds 3 frames of 6 x 9 pixels, and there are 0 cameras"):
        mrml.radiographs_of(node)
    with pytest.raises(GeometryError, match="there are 2 cameras"):
        mrml.radiographs_of(node, cameras(2))
    assert len(mrml.radiographs_of(node, cameras(3))) == 3
    mrml.write_json(node, "kind", None)
    with pytest.raises(SettingError, match="does not say what its greys are"):
        mrml.radiographs_of(node, cameras(3))
    assert mrml.radiographs_of(node, cameras(3), "log-attenuation")[0].kind == "log-attenuation"


def test_masks_lie_on_their_frames(scene):
    masks = torch.zeros(2, H, W, dtype=torch.bool)
    masks[0, 1:4, 2:8] = True
    masks[1, 3:5, 5:9] = True  # overlaps
    plain, other = frames(2)
    seen = Radiograph(other.pixels, other.kind, other.camera, None, masks, (4, 9), {4: "hip", 9: "femur"})
    stack = mrml.radiographs_to_node(scene, [plain, seen], "DRR")
    found = mrml.segments_of(mrml.masks_to_node(scene, [plain, seen], "labels", stack), stack)
    assert not found.labels[:, 0].any()
    assert torch.equal(found.labels[:, 1], masks)
    assert list(found.names.values()) == ["hip", "femur"]
    with pytest.raises(LabelError, match="no labelled voxel"):
        mrml.masks_to_node(scene, [plain], "labels", mrml.radiographs_to_node(scene, [plain], "DRR"))
