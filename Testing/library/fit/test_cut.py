"""Where a CT ends in the middle of a patient."""

from dataclasses import replace

import torch

import diffrender as dr
from diffrender.fit.cut import MOST, cut_places, pixels_of, radius_about


def rod(first: int, last: int) -> dr.Volume:
    """Along i, from voxel `first` to `last` of 40, on an oblique left-handed lattice of oblong voxels."""
    values = torch.full((20, 30, 40), -1000.0)
    values[8:12, 14:19, first : last + 1] = 700.0
    lattice = torch.tensor([[0.0, -1.2, 0, 31], [1.4, 0, 0, -7], [0, 0, 1.7, 12], [0, 0, 0, 1]]).double()
    assert torch.linalg.det(lattice) > 0
    lattice[:, 2] *= -1
    return dr.Volume(values, lattice)


def test_a_rod_that_leaves_the_ct_is_cut_where_it_does():
    places = cut_places(rod(10, 39))
    assert places.shape == (20, 3)
    assert torch.allclose(places[:, 1], torch.tensor(39 * 1.4 - 7).double())
    assert torch.allclose(places.mean(0), torch.tensor([31 - 1.2 * 16, 39 * 1.4 - 7, 12 - 1.7 * 9.5]).double())
    assert len(cut_places(rod(0, 39))) == 40
    assert cut_places(rod(3, 30)).shape == (0, 3)


def test_many_places_are_thinned_out_and_stay_on_all_sides():
    solid = dr.Volume(torch.full((40, 60, 50), 50, dtype=torch.int16), torch.eye(4).double())
    places = cut_places(solid)
    assert MOST / 2 < len(places) <= MOST
    assert torch.equal(places.amin(0), torch.zeros(3).double())
    assert torch.equal(places.amax(0), torch.tensor([49.0, 59, 39]).double())


def test_places_fall_on_the_pixels_that_they_project_to():
    camera = dr.c_arm([4.0, -9.0, 2.0], 31.0, 12.0, pixel_size=(2.3, 3.1), image_size=(40, 50))
    source, rays = camera.rays(torch.tensor([[7.5, 31.5], [20.5, 3.5], [-3.0, 9.0]]).double())
    hit = pixels_of(source + torch.tensor([[600.0], [700], [650]]) * rays, camera)
    assert hit.nonzero().tolist() == [[7, 31], [20, 3]]
    behind = replace(camera, image_size=(40, 50)).source - 100 * rays
    assert not pixels_of(behind, camera).any()
    assert not pixels_of(torch.zeros(0, 3).double(), camera).any()


def test_the_radius_is_to_the_farthest_corner_of_what_attenuates():
    bone = rod(3, 30)
    centre = torch.tensor([31 - 1.2 * 14, 3 * 1.4 - 7, 12 - 1.7 * 8]).double()  # its first voxel
    expected = torch.tensor([27 * 1.4, 4 * 1.2, 3 * 1.7]).norm()
    assert abs(radius_about(bone, centre) - float(expected)) < 1e-5
