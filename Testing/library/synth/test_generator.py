"""Fields, viewer and generator of learned radiographs: untrained it is the DRR, and gradients reach the mapper."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch

from diffrender.camera import Camera
from diffrender.errors import PathError, SettingError, UnitError
from diffrender.phantom import torso
from diffrender.rays.field import Field, MarchSettings
from diffrender.synth import generator as viewer
from diffrender.synth.fields import OPACITY_BAND, VNET_MULTIPLE, FieldMapper, GeneratorSettings, given
from diffrender.synth.generator import (
    VRRGenerator,
    drr_baseline,
    generated_views,
    load_generator,
    save_generator,
    shown,
    viewed,
)
from diffrender.synth.reach import REACHED, reached
from diffrender.views import preset
from diffrender.volume import Volume
from diffrender.xray import radiograph
from phantoms import oblique_camera, oblique_lattice, point_at

TINY = GeneratorSettings(lattice=8, detail=12, channels=(4, 6), points=40)
SIZE = (16, 24)


@pytest.fixture(autouse=True)
def plain_march(monkeypatch):
    """Pictures this small take longer to compile fused kernels for than to march through without."""
    monkeypatch.setattr(viewer, "MarchSettings", partial(MarchSettings, backend="torch"))


@pytest.fixture(scope="module")
def chest() -> Volume:
    return torso(shape=(26, 22, 30), handed="left")


def stirred(generator: VRRGenerator, by: float = 0.3) -> VRRGenerator:
    """With weights as after a training, so that it says something."""
    last = generator.mapper.network.last
    with torch.no_grad():
        for parameter in last.parameters():  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
            parameter.copy_(by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return generator


@pytest.mark.parametrize("tissues", [True, False])
def test_untrained_it_shows_the_drr(chest, tissues):
    settings = dataclasses.replace(TINY, tissues=tissues)
    camera = preset("chest-pa", chest, SIZE)
    # a logistic of a logarithm comes back within float32's rounding, which the window spreads tenfold
    assert (VRRGenerator(settings)(chest, camera) - drr_baseline(chest, camera, settings)).abs().max() < 1e-5
    assert drr_baseline(chest, camera, settings).std() > 0.1


def test_the_vnet_starts_at_the_drr_too(chest):
    pytest.importorskip("monai")
    settings = dataclasses.replace(TINY, mapper="vnet", lattice=2 * VNET_MULTIPLE, tissues=False)
    generator, camera = VRRGenerator(settings).eval(), preset("chest-pa", chest, SIZE)
    with torch.no_grad():
        assert (generator(chest, camera) - drr_baseline(chest, camera, settings)).abs().max() < 1e-5


def test_the_drr_shows_what_a_radiograph_shows(chest):
    camera = preset("chest-lateral", chest, (30, 40))  # front and back differ, left and right hardly
    settings = dataclasses.replace(TINY, detail=30, points=120, opacity=1e-5)
    drr = drr_baseline(chest, camera, settings)[0]
    other = shown(radiograph(chest, camera).pixels[0], reached(chest, camera))
    both = torch.stack([drr, other])[:, reached(chest, camera)]
    # voxels of 21 x 10 x 15 mm against the CT's own blur the edges; a picture turned or mirrored has less than 0.95
    assert torch.corrcoef(both)[0, 1] > 0.98
    flipped = torch.stack([drr.flip(1), other])[:, reached(chest, camera)]
    assert torch.corrcoef(flipped)[0, 1] < 0.95


def test_matter_stays_where_it_is_on_an_oblique_left_handed_lattice():
    world = oblique_lattice(spacing=(3.0, 2.0, 5.0), left_handed=True)
    hu = torch.full((14, 20, 24), -1000.0)
    hu[8:12, 4:9, 15:21] = 40.0
    ct = given(Volume(hu, torch.from_numpy(world)), TINY)
    truth = world @ np.array([17.5, 6.0, 9.5, 1.0])
    k, j, i = torch.meshgrid(*(torch.arange(12.0, dtype=torch.float64),) * 3, indexing="ij")
    weights = ct.matter.double() / ct.matter.sum()
    middle = torch.stack([(n * weights).sum() for n in (i, j, k)])
    found = ct.world_from_voxel[:3, :3] @ middle + ct.world_from_voxel[:3, 3]
    # blocks of 2 x 1.7 x 1.2 voxels that do not fall on the edges: a part of a voxel
    assert (found - torch.from_numpy(truth[:3])).abs().max() < 1.0
    assert ct.numbers.shape == (1, 1, 8, 8, 8)


def test_tissues_are_shares_that_air_has_none_of():
    hu = torch.tensor([-1000.0, -750.0, -375.0, 0.0, 250.0, 1000.0, 2000.0])
    ct = given(Volume(hu[:, None, None].expand(7, 7, 7).clone(), torch.eye(4)), dataclasses.replace(TINY, detail=7))
    shares = ct.tissues[:, :, 3, 3]  # lung, soft tissue, bone
    expected = [[0, 1, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 1, 0.75, 0, 0], [0, 0, 0, 0, 0.25, 1, 1]]
    assert torch.allclose(shares, torch.tensor(expected), atol=1e-6)
    assert torch.allclose(ct.matter[:, 3, 3], hu / 1000 + 1)


def test_what_the_mapper_says_has_the_sharpness_of_the_ct_and_keeps_within_its_band():
    chest = torso(shape=(26, 22, 30), noise=0.0)
    generator = stirred(VRRGenerator(TINY), 20.0)
    with torch.no_grad():
        matter, opacity = generator.fields(chest).values
        ct = generator.given(chest)
    assert matter.min() >= 0
    assert opacity.min() >= 0
    assert opacity.max() <= OPACITY_BAND
    assert opacity.std() > 1e-4
    assert (matter - ct.matter).abs().max() <= 1.0 + 1e-5
    air = ct.tissues.sum(0) < 1e-6
    assert air.any()
    assert torch.equal(matter[air], ct.matter[air])


def test_gradients_reach_every_weight_of_the_mapper(chest):
    generator = stirred(VRRGenerator(TINY))
    pictures = generator(chest, [preset("chest-pa", chest, SIZE), preset("chest-lateral", chest, SIZE)])
    assert pictures.shape == (2, 1, *SIZE)
    (pictures - 0.4).square().sum().backward()
    without = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_the_gradient_is_that_of_finite_differences(chest):
    generator = stirred(VRRGenerator(TINY)).double()
    ct = given(chest, TINY)
    ct = dataclasses.replace(ct, **{name: getattr(ct, name).double() for name in ("numbers", "matter", "tissues")})
    camera = preset("chest-pa", chest, SIZE)
    target = torch.rand((1, *SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (viewed(generator.mapper(ct), chest, camera, TINY) - target).square().sum()

    loss().backward()
    for parameter in (generator.mapper.network.last.weight, generator.mapper.network.first[0].weight):  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
        way = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        step = 1e-5
        with torch.no_grad():
            parameter += step * way
            above = float(loss())
            parameter -= 2 * step * way
            below = float(loss())
            parameter += step * way
        # float64 central differences; clamps at black, white and no matter have a corner here and there
        assert float((parameter.grad * way).sum()) == pytest.approx((above - below) / (2 * step), rel=1e-3)


def test_the_pictures_window_is_always_the_same_and_ends_where_the_ct_does():
    seen = torch.arange(48.0).reshape(6, 8) ** 1.1
    reach = torch.ones(6, 8, dtype=torch.bool)
    reach[0] = False
    first, second = shown(seen, reach), shown(7.0 * seen + 3.0, reach)
    assert torch.allclose(first, second, atol=1e-5)
    assert first[~reach].abs().max() == 0
    assert float(first[reach].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(first[reach].std()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("left_handed", [False, True])
def test_reached_is_where_rays_cross_the_box_from_side_to_side(left_handed):
    shape, spacing = (9, 13, 11), (8.0, 6.0, 7.0)
    world = oblique_lattice(spacing=spacing, left_handed=left_handed)
    volume = Volume(torch.zeros(shape), torch.from_numpy(world))
    camera = oblique_camera(point_at(world, shape), image_size=(18, 15), field=(120.0, 130.0))
    source, directions = camera.rays()
    along = torch.arange(0.0, 900.0, 0.25, dtype=torch.float64)
    points = source + along[:, None, None, None] * directions
    voxels = (points - volume.world_from_voxel[:3, 3]) @ torch.linalg.inv(volume.world_from_voxel)[:3, :3].T
    inside = ((voxels >= -0.5) & (voxels <= torch.tensor(shape[::-1]) - 0.5)).all(-1).sum(0) * 0.25
    clear = (inside - REACHED * inside.max()).abs() > 1.0  # sampled at 0.25 mm
    assert clear.float().mean() > 0.9
    assert torch.equal(reached(volume, camera)[clear], (inside >= REACHED * inside.max())[clear])


def test_views_are_drawn_and_do_not_depend_on_how_many_are_asked_for(chest):
    generator = stirred(VRRGenerator(TINY))
    few = list(generated_views(generator, chest, 2, image_size=SIZE, seed=4))
    more = list(generated_views(generator, chest, 3, image_size=SIZE, seed=4))
    other = list(generated_views(generator, chest, 1, image_size=SIZE, seed=5))
    for (picture, camera), (same, there) in zip(few, more, strict=False):
        assert torch.equal(picture, same)
        assert torch.equal(camera.world_from_camera, there.world_from_camera)
    assert not torch.equal(few[0][0], few[1][0])
    assert not torch.equal(few[0][0], other[0][0])
    with torch.no_grad():
        assert torch.equal(generator(chest, few[0][1]), few[0][0])


def test_the_same_weights_draw_finer_fields(chest):
    generator, camera = stirred(VRRGenerator(TINY), 0.05), preset("chest-lateral", chest, (30, 40))
    with torch.no_grad():
        coarse = generator(chest, camera)[0]
        fine = generator.with_detail(26, 120)(chest, camera)[0]
        again = generator.with_detail(TINY.detail, TINY.points)(chest, camera)[0]
    assert torch.equal(again, coarse)
    reach = reached(chest, camera)
    assert 0.9 < torch.corrcoef(torch.stack([coarse[reach], fine[reach]]))[0, 1] < 0.9999
    assert fine.diff(dim=1).abs().mean() > 1.02 * coarse.diff(dim=1).abs().mean()  # sharper
    with pytest.raises(SettingError, match="only a generator with tissues"):
        VRRGenerator(dataclasses.replace(TINY, tissues=False)).with_detail(20, 60)


def test_another_ct_of_the_same_object_in_memory_is_not_mistaken(chest):
    generator = VRRGenerator(TINY)
    camera = preset("chest-pa", chest, SIZE)
    thinner = dataclasses.replace(chest, values=(chest.values.float() / 2 - 500).short())
    first = generator(chest, camera)
    assert not torch.equal(first, generator(thinner, camera))
    assert torch.equal(first, generator(chest, camera))


def test_a_saved_generator_draws_the_same(chest, tmp_path):
    generator = stirred(VRRGenerator(TINY))
    path = save_generator(tmp_path / "vrr.safetensors", generator, {"steps": 3})
    again, info = load_generator(path)
    camera = preset("chest-pa", chest, SIZE)
    assert torch.equal(generator(chest, camera), again(chest, camera))
    assert info["steps"] == 3
    assert "version" in info
    assert again.settings == TINY


def test_files_that_are_no_generators_are_refused(tmp_path):
    path = save_generator(tmp_path / "vrr.safetensors", VRRGenerator(TINY))
    content = path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-7])
    torch.save(VRRGenerator(TINY).state_dict(), tmp_path / "pickle.safetensors")
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    record = json.loads(header["__metadata__"]["diffrender-vrr"])
    record["settings"]["channels"] = [4, 8]
    header["__metadata__"]["diffrender-vrr"] = json.dumps(record)
    made = json.dumps(header).encode()
    (tmp_path / "other.safetensors").write_bytes(len(made).to_bytes(8, "little") + made + content[8 + size :])
    for name, words in (("cut", "copy it again"), ("pickle", "can run code"), ("other", "has the shape")):
        with pytest.raises(PathError, match=words):
            load_generator(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mapper": "vnet", "lattice": 24}, "multiple of 16"),
        ({"lattice": 9}, "multiple of 2"),
        ({"channels": (3, 6)}, "even numbers"),
        ({"opacity": 0.02}, "opacity lies between"),
        ({"mapper": "unet3"}, "mapper is one of"),
        ({"points": 0}, "points is a whole number"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(SettingError, match=words):
        dataclasses.replace(TINY, **changes)


def test_values_that_are_not_hu_are_refused(chest):
    with pytest.raises(UnitError, match="not Hounsfield"):
        VRRGenerator(TINY)(dataclasses.replace(chest, unit="arbitrary"), preset("chest-pa", chest, SIZE))


def test_a_field_of_a_mapper_is_one_that_can_be_marched_through(chest):
    field = FieldMapper(TINY)(given(chest, TINY))
    assert isinstance(field, Field)
    assert field.channels == 2
    corner = Volume(torch.zeros(12, 12, 12), field.world_from_voxel).corners
    assert torch.allclose(corner, chest.corners, atol=1e-6)  # the same box in the world
    assert isinstance(preset("chest-pa", chest), Camera)
