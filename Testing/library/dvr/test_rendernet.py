"""RenderNet's view of a volume: cells on the rays, and crops of them."""

import dataclasses

import pytest
import torch

from diffrender.dvr.rendernet import CELL, DEPTHS, cropped_camera, in_view
from diffrender.errors import GeometryError
from phantoms import oblique_camera, oblique_lattice, point_at

SHAPE = (26, 31, 37)
SPACING = (3.1, 4.0, 5.3)


def lattice(left_handed: bool = False) -> torch.Tensor:
    return torch.from_numpy(oblique_lattice(SPACING, left_handed=left_handed))


def eye(world: torch.Tensor, image_size=(61, 50), mirrored: bool = False):
    return oblique_camera(point_at(world.numpy(), SHAPE), image_size=image_size, field=(90.0, 75.0), mirrored=mirrored)


def ramp(world: torch.Tensor, along=(0.6, -1.1, 0.8)) -> torch.Tensor:
    """Numbers (1, k, j, i) that grow evenly in the world: cells must hold what stands at their place."""
    k, j, i = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in SHAPE], indexing="ij")
    points = torch.stack([i, j, k], -1) @ world[:3, :3].T + world[:3, 3]
    return (points @ torch.tensor(along, dtype=torch.float64) / 100)[None]


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("pixel", [1.0, 4.0])  # cells smaller than voxels, and larger ones, which average blocks
def test_cells_hold_what_lies_at_their_place_on_the_rays(left_handed: bool, mirrored: bool, pixel: float):
    world = lattice(left_handed)
    camera = eye(world, mirrored=mirrored)
    camera = dataclasses.replace(camera, pixel_size=tuple(n * pixel for n in camera.pixel_size))
    view = in_view(ramp(world), world, camera)[0]
    assert view.shape == (DEPTHS, 16, 14)  # 8 and 7 features of 8 px, two cells each
    corner, far = world[:3, 3], world[:3, :3] @ (torch.tensor(SHAPE[::-1]).double())
    depth_of = lambda point: float((point - camera.source) @ camera.direction)  # noqa: E731
    middle, radius = (
        depth_of(corner + (far - world[:3, :3].sum(1)) / 2),
        float((world[:3, :3] * torch.tensor(SHAPE[::-1])).norm()) / 2,
    )
    checked = 0
    for n in range(30, 100, 7):
        depth = middle + radius * ((n + 0.5) / (DEPTHS / 2) - 1)
        for row in range(2, 12, 3):
            for column in range(1, 12, 2):
                pixel_at = torch.tensor([CELL * (row + 1.0), CELL * (column + 1.0)], dtype=torch.float64)
                _, direction = camera.rays(pixel_at)
                point = camera.source + direction * depth / float(direction @ camera.direction)
                index = torch.linalg.inv(world) @ torch.cat([point, point.new_ones(1)])
                inside = (index[:3] > 4).all() and (index[:3] < torch.tensor(SHAPE[::-1]) - 6).all()
                if not inside:
                    continue
                checked += 1
                expected = float(point @ torch.tensor([0.6, -1.1, 0.8], dtype=torch.float64)) / 100
                # trilinear interpolation is exact on a ramp, and so are means of blocks, away from the faces
                assert abs(float(view[n, row, column]) - expected) < 1e-9
    assert checked > 10


def test_beyond_the_volume_there_is_air():
    world = lattice()
    view = in_view(torch.full((1, *SHAPE), 2.0), world, eye(world))
    assert view[0, 0].eq(-1).all()  # the nearest plane of the sphere around it
    assert view.max() == pytest.approx(2.0, abs=1e-6)


def test_nothing_behind_the_eye_is_seen():
    world = lattice()
    camera = eye(world)
    inside = camera.world_from_camera.clone()
    inside[:3, 3] = torch.from_numpy(point_at(world.numpy(), SHAPE))
    camera = dataclasses.replace(camera, world_from_camera=inside)
    view = in_view(torch.full((1, *SHAPE), 2.0), world, camera)[0]
    assert view[: DEPTHS // 2 - 20].eq(-1).all()
    assert view[DEPTHS // 2 + 20].gt(1).any()


def test_a_crop_of_the_view_is_the_view_of_the_crop():
    world = lattice(True)
    camera = eye(world)
    numbers = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    crop = cropped_camera(camera, 16, 24, 32, 20)
    assert crop.image_size == (32, 20)
    whole, part = in_view(numbers, world, camera), in_view(numbers, world, crop)
    assert part.shape[2:] == (8, 6)
    assert torch.allclose(whole[:, :, 4:12, 6:12], part, atol=1e-9)


@pytest.mark.parametrize("crop", [(4, 0, 8, 8), (0, 0, 80, 8), (-8, 0, 8, 8), (0, 48, 8, 8)])
def test_a_crop_lies_within_the_image_and_on_its_cells(crop):
    with pytest.raises(GeometryError, match=r"multiples of 8 px and lies within"):
        cropped_camera(eye(lattice()), *crop)
