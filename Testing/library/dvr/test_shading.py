"""Light: on which side is it bright, where do shadows fall, does a sample shade itself?"""

import math

import numpy as np
import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.dvr.shading import Light, lambert, shaded, shaded_targets, transmittance
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import render_views
from diffrender.errors import SettingError

WHITE = TransferFunction(((-1000.0, 1.0, 1.0, 1.0), (3000.0, 1.0, 1.0, 1.0)), ((0.0, 0.0), (1000.0, 0.9)), name="white")
LATTICES = {
    "oblique left-handed": phantoms.oblique_lattice(spacing=(1.9, 1.5, 2.3), left_handed=True),
    "oblique": phantoms.oblique_lattice(spacing=(1.9, 1.5, 2.3)),
    "LPS": np.diag([-1.9, -1.5, 2.3, 1.0]),
    "LAS": np.diag([-1.9, 1.5, 2.3, 1.0]),
}
LIGHTS = {"oblique": (0.5, 0.7, 0.6), "from the left": (-1.0, 0.0, 0.0), "from below": (0.2, -0.3, -2.0)}
SHAPE = (34, 38, 36)


def world_of(lattice: np.ndarray) -> torch.Tensor:
    """(k, j, i, 3) RAS [mm] of the voxel centres."""
    k, j, i = torch.meshgrid(*[torch.arange(n).double() for n in SHAPE], indexing="ij")
    return torch.stack([i, j, k], -1) @ torch.tensor(lattice[:3, :3]).T + torch.tensor(lattice[:3, 3])


def unit(direction: tuple[float, float, float]) -> torch.Tensor:
    vector = torch.tensor(direction, dtype=torch.float64)
    return vector / vector.norm()


@pytest.fixture(params=LATTICES)
def lattice(request) -> np.ndarray:
    return LATTICES[request.param]


@pytest.mark.parametrize("light", LIGHTS)
def test_the_shadow_of_a_ball_falls_on_the_far_side_of_the_light(lattice, light):
    world, to_light = world_of(lattice), unit(LIGHTS[light])
    centre = torch.tensor(phantoms.point_at(lattice, SHAPE))
    away = world - centre
    ball = away.norm(dim=-1) < 9
    kappa = torch.where(ball, 0.4, 0.0).float()
    passed = transmittance(kappa, torch.tensor(lattice), to_light)
    along = away @ to_light  # mm towards the light
    beside = (away - along[..., None] * to_light).norm(dim=-1)
    chord = 2 * (81 - beside**2).clamp(min=0).sqrt()
    behind, before, outside = (along < -16) & (beside < 6.5), along > 13, beside > 13
    assert behind.sum() > 30
    # An edge of one voxel takes or gives up to half a voxel of the chord at either end.
    expected = torch.exp(-0.4 * chord[behind])
    assert (torch.log(passed[behind].double()) / -0.4 - chord[behind]).abs().max() < 2.3
    assert passed[behind].mean() < 3 * expected.mean()
    assert passed[before].min() > 0.999
    assert passed[outside].min() > 0.999


@pytest.mark.parametrize("light", LIGHTS)
def test_a_voxel_does_not_shade_itself(lattice, light):
    at = (17, 20, 15)
    kappa = torch.zeros(SHAPE)
    kappa[at] = 5.0  # as opaque as they come
    passed = transmittance(kappa, torch.tensor(lattice), unit(LIGHTS[light]))
    # Exact but for what two interpolations leave a voxel and a half away.
    assert passed[at] > 0.99
    assert passed.min() < 0.5  # others it does shade


def test_a_slab_dims_as_the_integral_says():
    """Straight along an axis: exp(-kappa d) of the depth below the surface, less the voxel's own part."""
    kappa = torch.zeros(20, 12, 14)
    kappa[5:15] = 0.1
    world = torch.diag(torch.tensor([1.5, 1.5, 2.0, 1.0], dtype=torch.float64))
    passed = transmittance(kappa, world, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    depth = -torch.log(passed[:, 6, 7]) / 0.1
    steps = depth[:-1] - depth[1:]
    assert steps[6:11].tolist() == pytest.approx([2.0] * 5, abs=1e-3)  # mm from slice to slice, inside
    # ten slices of 2 mm, seen by planes 1.5 mm apart whose sums end between them
    assert depth[0] == pytest.approx(20.0, abs=0.2)
    assert depth[14:].abs().max() < 1e-5  # the surface lies in full light


def test_surfaces_face_the_light(lattice):
    world, centre = world_of(lattice), torch.tensor(phantoms.point_at(lattice, SHAPE))
    to_light = unit(LIGHTS["oblique"])
    away = world - centre
    radius = away.norm(dim=-1)
    kappa = 0.5 / (1 + torch.exp((radius - 15) / 1.2)).float()
    cosine = lambert(kappa, torch.tensor(lattice), to_light)
    shell = (radius - 15).abs() < 1.0
    assert shell.sum() > 300
    expected = ((away / radius[..., None]) @ to_light).clamp(min=0)
    # Central differences on voxels of 2 mm of an edge 5 mm wide turn a normal by some 5 degrees.
    assert (cosine[shell] - expected[shell]).abs().max() < 0.15
    assert (cosine[shell] - expected[shell]).abs().mean() < 0.03
    assert (cosine[radius < 5] > 0.9).all()  # no surface there: lit from all sides


def test_where_nothing_is_all_is_light():
    field = lambert(torch.zeros(6, 7, 1), torch.eye(4, dtype=torch.float64), unit((0.3, 0.2, 1.0)))
    assert (field == 1).all()


def ball_volume(lattice: np.ndarray) -> dr.Volume:
    away = world_of(lattice) - torch.tensor(phantoms.point_at(lattice, SHAPE))
    values = 1000 / (1 + torch.exp(away.norm(dim=-1) - 15)) - 100
    return dr.Volume(values.float(), lattice)


def test_a_lit_ball_is_bright_where_the_light_stands():
    """The light before the patient, above, on his left: that is the upper right of a frontal view."""
    volume = ball_volume(LATTICES["oblique left-handed"])
    camera = dr.preset("chest-ap-bedside", volume, (50, 60))  # an eye before him
    (target,) = shaded_targets(volume, WHITE, [camera], Light((-0.6, 0.5, 0.6), ambient=0.2))
    plain = render_views(volume, WHITE, [camera]).views[0].image
    seen = target.image[3] > 0.9
    brightness = (target.image[1] / target.image[3].clamp(min=1e-3)) * seen
    row, column = np.average(
        np.indices((50, 60)).reshape(2, -1), axis=1, weights=(brightness - 0.2 * seen).numpy().ravel()
    )
    middle = np.average(np.indices((50, 60)).reshape(2, -1), axis=1, weights=seen.numpy().ravel())
    assert row < middle[0] - 1
    assert column > middle[1] + 1
    # Light changes colours, never what covers what; only classification before and after interpolation differ.
    assert (target.image[3] - plain[3])[seen].abs().max() < 0.05
    assert brightness[seen].min() > 0.19  # ambient
    assert brightness[seen].max() > 0.8


def test_without_shadows_and_all_ambient_it_is_the_plain_field():
    volume = ball_volume(LATTICES["LAS"])
    field = shaded(volume, WHITE, Light(ambient=1.0))
    assert torch.allclose(field.values[:3], torch.ones_like(field.values[:3]))
    lit, shadowed = (shaded(volume, WHITE, Light(shadows=s)).values for s in (False, True))
    assert (shadowed <= lit + 1e-6).all()
    assert (lit - shadowed).max() > 0.2
    assert torch.equal(lit[3], shadowed[3])


def test_int16_is_lit_like_float32():
    values = (ball_volume(LATTICES["LPS"]).values / 10).round() * 10
    a, b = (shaded(dr.Volume(v, LATTICES["LPS"]), WHITE, Light()).values for v in (values, values.short()))
    assert torch.equal(a, b)


def test_lights_that_cannot_be():
    with pytest.raises(SettingError, match="stands in a direction"):
        Light((0.0, 0.0, 0.0))
    with pytest.raises(SettingError, match="stands in a direction"):
        Light((math.inf, 0.0, 0.0))
    with pytest.raises(SettingError, match="ambient is a share"):
        Light(ambient=1.5)
