"""The instant preview: two balls of one HU told apart by where they lie, what is hidden, and what nobody painted."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import diffrender as dr
import phantoms
from diffrender.dvr.classify import voxels_of
from diffrender.dvr.clusters import fit_clusters
from diffrender.dvr.features import local_features
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.targets import Target
from diffrender.dvr.transfer import transfer_function
from diffrender.dvr.view import field_through
from diffrender.errors import ImageError, SettingError
from diffrender.rays.march import march
from diffrender.volume import Volume

SIZE = (22, 30, 26)
RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.9)


def settings(**changes) -> RendererSettings:
    grey = transfer_function([(0, 0.5, 0.5, 0.5), (400, 0.6, 0.6, 0.6)], [(0, 0), (100, 0.02), (300, 0.2)])
    return RendererSettings(transfer=grey, clusters=40, **changes)


def scene() -> tuple[Volume, torch.Tensor]:
    """Two ellipsoids of 300 HU in 20 HU on an oblique, left-handed lattice, and which voxels belong to which."""
    lattice = phantoms.oblique_lattice((2.1, 1.6, 2.7), left_handed=True)
    values, ids = torch.full(SIZE, -50.0), torch.zeros(SIZE, dtype=torch.int64)
    for number, where in enumerate([(0.3, 0.35, 0.4), (0.72, 0.6, 0.55)], 1):
        centre = phantoms.point_at(lattice, SIZE, where)
        share = phantoms.drawn(phantoms.Ellipsoid(centre, (8.0, 10.0, 9.0), phantoms.rotation(9, 4, 33)), lattice, SIZE)
        values += 350 * share.values
        ids[share.values > 0.4] = number
    return Volume(values, torch.from_numpy(lattice)), ids


def cameras(volume: Volume, size=(36, 32)):
    return [
        phantoms.oblique_camera(volume.centre, along=along, image_size=size, field=(78.0, 70.0))
        for along in ((0.6, 0.73, 0.32), (-0.5, 0.7, 0.1), (0.1, -0.9, 0.3), (0.75, 0.3, -0.5))
    ]


def painted(volume: Volume, ids: torch.Tensor, camera, colours, hidden=()) -> Target:
    """What the drawing of voxels coloured by hand shows."""
    made = dr.renderer("clusters", settings())
    field = made.encode(volume)[0]
    change = field.change.detach().clone()
    for number, colour in colours.items():
        # the transfer function's grey is 0.5 to 0.58 there
        change[:3, ids == number] = torch.tensor(colour)[:, None] - 0.57
    for number in hidden:
        near = F.max_pool3d((ids == number).float()[None], 3, 1, 1)[0] > 0  # its soft edge, which a ray sees
        change[3, near] = 0
    image = march(dataclasses.replace(field, change=change), camera).detach().clamp(0, 1)
    before = made(volume, camera).detach()
    weight = torch.where((image - before).abs().amax(0) > 0.02, 5.0, 1.0)
    colour_weight = torch.where(image[3] < 0.02, 0.0, weight) if hidden else weight
    return Target(camera, image, colour_weight, weight)


def error(renderer, volume, target) -> float:
    with torch.no_grad():
        found = renderer(volume, target.camera)
    return float((found - target.image)[:, target.alpha_weight > 1].square().mean())


def test_two_structures_of_one_hu_take_two_colours_in_a_view_that_nobody_painted():
    volume, ids = scene()
    targets = [painted(volume, ids, camera, {1: RED, 2: BLUE}) for camera in cameras(volume)]
    made = dr.renderer("clusters", settings())
    untouched = error(made, volume, targets[3])
    calls = []
    fit_clusters(made, volume, targets[:3], progress=lambda done, total: calls.append((done, total)))
    # No table of HU can: its best is the mean of both colours, which leaves about half of the error.
    assert error(made, volume, targets[3]) < untouched / 10
    assert calls == [(n, 5) for n in range(1, 6)]
    again = dr.renderer("clusters", settings())
    fit_clusters(again, volume, targets[:3])
    assert bool((again.colour.offsets == made.colour.offsets).all())


def test_untrained_it_draws_the_transfer_function_itself():
    volume, _ = scene()
    made, view = dr.renderer("clusters", settings()), cameras(volume)[1]
    with torch.no_grad():
        # an identity is interpolated to 1 but for rounding
        drawn = march(field_through(volume, made.settings.drawn_by), view)
        assert (made(volume, view) - drawn).abs().max() < 1e-6


def test_what_nobody_painted_keeps_its_colour():
    volume, ids = scene()
    made = dr.renderer("clusters", settings())
    fit_clusters(made, volume, [painted(volume, ids, cameras(volume)[0], {1: RED})])
    colours = voxels_of(made.encode(volume)[0])[:3].detach()
    before = voxels_of(dr.renderer("clusters", settings()).encode(volume)[0])[:3].detach()
    moved = (colours - before).abs().amax(0)
    assert float(moved[ids == 2].mean()) < 0.05
    assert float(moved[ids == 1].mean()) > 0.15


def test_what_is_hidden_is_thinned_and_its_neighbour_stays():
    volume, ids = scene()
    views = cameras(volume)
    made = dr.renderer("clusters", settings())
    before = voxels_of(made.encode(volume)[0])[3].detach()
    fit_clusters(made, volume, [painted(volume, ids, camera, {}, hidden=(2,)) for camera in views[:3]])
    after = voxels_of(made.encode(volume)[0])[3].detach()
    assert float(after[ids == 2].sum()) < 0.25 * float(before[ids == 2].sum())
    assert float(after[ids == 1].sum()) > 0.75 * float(before[ids == 1].sum())


def test_nothing_is_thinned_where_nothing_is_hidden():
    volume, ids = scene()
    made = dr.renderer("clusters", settings())
    fit_clusters(made, volume, [painted(volume, ids, cameras(volume)[0], {1: RED})])
    assert bool((made.opacity.factors == 1).all())


def test_a_large_painting_is_solved_small():
    volume, ids = scene()
    target = painted(volume, ids, cameras(volume, (190, 170))[0], {1: RED})
    made = dr.renderer("clusters", settings())
    untouched = error(made, volume, target)
    fit_clusters(made, volume, [target])
    assert error(made, volume, target) < untouched / 10


def test_features_do_not_depend_on_how_the_lattice_is_stored():
    volume, _ = scene()
    turned = volume.world_from_voxel.clone()
    turned[:3, 3] += turned[:3, 0] * (SIZE[2] - 1)
    turned[:3, 0] *= -1
    mirrored = Volume(volume.values.flip(2), turned)
    where = volume.values > 0
    first = local_features(volume, where, -100, 400)
    second = local_features(mirrored, where.flip(2), -100, 400)
    order = [torch.argsort(f[:, 5:] @ torch.tensor([1.0, 3.7, 11.3])) for f in (first, second)]
    torch.testing.assert_close(first[order[0]], second[order[1]], atol=1e-3, rtol=1e-3)  # float32 positions


def test_a_saved_one_draws_the_same():
    volume, ids = scene()
    made = dr.renderer("clusters", settings())
    fit_clusters(made, volume, [painted(volume, ids, cameras(volume)[0], {1: RED})])
    other = dr.renderer("clusters", settings())
    other.load_state_dict(made.state_dict())
    view = cameras(volume)[1]
    assert (other(volume, view) - made(volume, view)).abs().max() == 0


def test_what_cannot_be_fitted_is_said():
    volume, ids = scene()
    target = painted(volume, ids, cameras(volume)[0], {1: RED})
    with pytest.raises(SettingError, match="lookup"):
        fit_clusters(dr.renderer("lookup", settings()), volume, [target])
    nothing = torch.zeros_like(target.weight)
    unpainted = Target(target.camera, target.image, nothing, nothing)
    with pytest.raises(ImageError, match="Nothing is painted"):
        fit_clusters(dr.renderer("clusters", settings()), volume, [unpainted])
    air = dataclasses.replace(volume, values=torch.full(SIZE, -1000.0))
    with pytest.raises(ImageError, match="visible"):
        fit_clusters(dr.renderer("clusters", settings()), air, [target])
