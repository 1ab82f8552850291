"""Tables that are learned: they start as the transfer function, every slot is heard, and transparent ones come back."""

import dataclasses

import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.dvr.features import gradient_magnitude
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.tables import STEEPEST
from diffrender.dvr.transfer import transfer_function, transfer_preset
from diffrender.errors import ImageError, SettingError
from diffrender.rays.field import Field
from diffrender.rays.march import march
from diffrender.volume import Volume

TABLES = ("lookup", "lookup2d", "mlp")
SIZE = (19, 23, 17)


def patient(left_handed: bool = True) -> Volume:
    lattice = phantoms.oblique_lattice((2.0, 3.1, 2.6), left_handed=left_handed)
    centre = phantoms.point_at(lattice, SIZE)
    shape = phantoms.Ellipsoid(centre, (11.0, 19.0, 14.0), phantoms.rotation(31, -14, 52))
    drawn = phantoms.drawn(shape, lattice, SIZE, 1450.0)
    return Volume((drawn.values - 1000).round().to(torch.int16), drawn.world_from_voxel)


def camera(volume: Volume):
    return phantoms.oblique_camera(volume.centre, image_size=(17, 14), field=(60.0, 56.0))


def tints():
    return transfer_function(
        [(-900, 0.0, 0.3, 1.0), (100, 1.0, 0.2, 0.1), (500, 0.9, 1.0, 0.6)],
        [(-900, 0), (-300, 0.02), (450, 0.3)],
        name="tints",
    )


@pytest.mark.parametrize("name", [*TABLES, "hybrid"])
def test_untrained_it_draws_the_transfer_function(name):
    volume, settings = patient(), RendererSettings(transfer=tints(), bins2=5, strength=0.0)
    expected = march(Field(volume.values, volume.world_from_voxel, tints().table()), camera(volume))
    assert expected[3].max() > 0.5
    with torch.no_grad():
        found = dr.renderer(name, settings)(volume, camera(volume))
    assert (found - expected).abs().max() < 1e-3  # what is promised; transparent entries hold 1e-7 / mm


@pytest.mark.parametrize("name", [*TABLES, "hybrid"])
@pytest.mark.parametrize("start", ["transfer", "scratch"])
def test_every_slot_hears_the_picture(name, start):
    volume = patient()
    made = dr.renderer(name, RendererSettings(start=start, transfer=tints(), bins=40, bins2=5, width=0.5))
    image = made(volume, camera(volume))
    (image[:3] ** 2).sum().backward()
    heard = {n.split(".")[0] for n, p in made.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    # the network of mlp lies in the colour slot; hybrid's last layer is 0 at first, and yet has a gradient itself
    assert heard == {"lookup": {"colour", "opacity"}, "lookup2d": {"colour", "opacity"}, "mlp": {"colour"}}.get(
        name, {"encoder", "colour", "opacity"}
    )


def test_what_has_gone_transparent_comes_back():
    volume, view = patient(), camera(patient())
    wanted = march(Field(volume.values, volume.world_from_voxel, tints().table()), view)
    nothing = transfer_function([(-900, 0.5, 0.5, 0.5), (500, 0.5, 0.5, 0.5)], [(-900, 0), (500, 0)])
    made = dr.renderer("lookup", RendererSettings(transfer=nothing, bins=64))
    adam = torch.optim.Adam(made.parameters(), lr=0.1, betas=(0.9, 0.99))
    for _ in range(40):
        adam.zero_grad()
        loss = ((made(volume, view) - wanted) ** 2).mean()
        loss.backward()
        adam.step()
    # from 0.2; the logarithm of extinction, or a softplus, is still at 0.2 after as many steps
    assert float(loss.detach()) < 2e-3


@pytest.mark.parametrize("left_handed", [False, True])
def test_gradient_magnitude_is_per_millimetre_however_the_lattice_lies(left_handed):
    slope = torch.tensor([3.0, -7.0, 2.5], dtype=torch.float64)
    lattice = torch.from_numpy(phantoms.oblique_lattice((0.8, 1.7, 2.9), left_handed=left_handed))
    k, j, i = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (5, 6, 7)], indexing="ij")
    ramp = torch.stack([i, j, k], -1) @ lattice[:3, :3].T @ slope
    found = gradient_magnitude(ramp.float(), lattice)
    torch.testing.assert_close(found, torch.full_like(found, float(slope.norm())), rtol=1e-4, atol=1e-4)  # float32
    assert float(gradient_magnitude(torch.full((1, 4, 1), 7.0), lattice).abs().max()) == 0


def test_lookup2d_tells_by_steepness():
    volume = patient()
    made = dr.renderer("lookup2d", RendererSettings(transfer=tints(), bins2=9))
    first = made(volume, camera(volume))
    with torch.no_grad():
        made.opacity.roots[:, 2:] = 0.0  # steeper than STEEPEST / 8 a bin
    steep = gradient_magnitude(volume.values, volume.world_from_voxel)
    assert float((steep > STEEPEST / 4).float().mean()) > 0.05
    assert made(volume, camera(volume))[3].sum() < 0.95 * first[3].sum()


def test_hybrid_keeps_its_table_editable_and_its_change_bounded():
    volume, view = patient(), camera(patient())
    made = dr.renderer("hybrid", RendererSettings(transfer=tints(), width=0.5))
    with torch.no_grad():
        made.encoder.last.weight.normal_(0, 5, generator=torch.Generator().manual_seed(1))
    changed = made(volume, view)
    assert bool(torch.isfinite(changed).all())
    made.strength = 0.5
    assert (made(volume, view) - changed).abs().max() > 0.01
    made.strength = 1e-6
    nearly = made(volume, view)
    made.strength = 0.0
    assert (made(volume, view) - nearly).abs().max() < 1e-4  # it is turned down to the table, without a jump
    bone = transfer_preset("ct-bone")
    made.table = bone
    other = dr.renderer("lookup", RendererSettings(transfer=bone))
    torch.testing.assert_close(made(volume, view), other(volume, view), atol=0, rtol=0)  # the same march of one table
    hu = torch.linspace(-1024, 3071, 256)  # at the entries; an opacity near 1 is a logarithm of what is left
    torch.testing.assert_close(made.table.at(hu), bone.at(hu), atol=1e-3, rtol=1e-3)
    with pytest.raises(SettingError, match="between 0 and 1"):
        made.strength = 1.5


@pytest.mark.parametrize("name", [*TABLES, "hybrid", "clusters"])
def test_volumes_of_one_value_and_of_other_units_draw(name):
    settings = RendererSettings(transfer=tints(), bins2=4, width=0.25)
    for values in (torch.full(SIZE, 50, dtype=torch.int16), torch.full((1, 5, 3), -1000.0)):
        volume = dataclasses.replace(patient(), values=values, unit="arbitrary")
        image = dr.renderer(name, settings)(volume, camera(volume))
        assert bool(torch.isfinite(image).all())
        assert (image[3].max() > 0.5) == (float(values.max()) == 50)


@pytest.mark.parametrize("name", [*TABLES, "hybrid", "clusters"])
def test_what_is_no_number_is_refused_by_its_source(name):
    values = patient().values.float()
    values[3, 4, 5] = float("nan")
    volume = dataclasses.replace(patient(), values=values, source="thorax.nii.gz")
    with pytest.raises(ImageError, match=r"thorax\.nii\.gz holds 1 values"):
        dr.renderer(name, RendererSettings(width=0.25)).encode(volume)
