"""The network renderers: their sizes, what they draw untrained, whatever the volume's and the image's size."""

import dataclasses

import numpy as np
import pytest
import torch

from diffrender.camera import Camera
from diffrender.dvr.dvrnet import ScalesEncoder
from diffrender.dvr.heads import LEAST, Intake
from diffrender.dvr.renderer import Renderer, RendererSettings
from diffrender.dvr.renderers import count_parameters, renderer
from diffrender.dvr.transfer import PRESETS, TransferFunction
from diffrender.dvr.view import whole_table
from diffrender.rays.field import Field, MarchSettings
from diffrender.rays.march import march
from diffrender.volume import Volume
from phantoms import oblique_camera, oblique_lattice, point_at

NAMES = ("vnet4-4", "vnetl16-4", "vnetl16-17", "dvrnet", "rendernet", "vnet-unet", "unet-s")
IN_THE_IMAGE = ("vnetl16-17", "dvrnet", "rendernet", "vnet-unet")
SMALL = {"width": 1 / 8}
TWIN = MarchSettings(backend="torch")  # so that no kernel is compiled for each number of channels
SPACING = (3.1, 4.0, 5.3)  # (i, j, k) [mm]
SHAPE = (11, 14, 17)


def lattice(left_handed: bool = True) -> np.ndarray:
    return oblique_lattice(SPACING, left_handed=left_handed)


def body(shape: tuple[int, int, int] = SHAPE, seed: int = 3) -> Volume:
    """A ball of bone, off centre, in air with noise; every tissue occurs."""
    at = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    middle = 0.6 * (np.array(shape) - 1) * (0.8, 1.0, 1.1)
    away = np.linalg.norm((at - middle) * SPACING[::-1], axis=-1) / (0.35 * max(shape) * 4)
    noise = np.random.default_rng(seed).normal(0, 40, shape)
    return Volume(np.clip(900 - 1700 * away + noise, -1024, 3071).astype(np.int16), torch.from_numpy(lattice()))


def camera(image_size: tuple[int, int] = (21, 26), shape: tuple[int, int, int] = SHAPE) -> Camera:
    return oblique_camera(point_at(lattice(), shape), image_size=image_size, field=(75.0, 90.0))


def draw(made: Renderer, volume: Volume, eye: Camera) -> torch.Tensor:
    return made.show(made.encode(volume), eye, TWIN)


def by_transfer(
    volume: Volume, transfer: TransferFunction, eye: Camera, kind: str = "alpha", sharp: bool = False
) -> torch.Tensor:
    """As the transfer function draws; `sharp`: looked up at every sample and not at voxels."""
    if sharp:
        numbers = Field(volume.values.float(), volume.world_from_voxel, whole_table(transfer))
        return march(numbers, eye, dataclasses.replace(TWIN, accumulate=kind))
    values = transfer.at(volume.values.float()).movedim(-1, 0).contiguous()
    return march(Field(values, volume.world_from_voxel), eye, dataclasses.replace(TWIN, accumulate=kind))


def shaken(made: Renderer, by: float = 0.3, seed: int = 5) -> Renderer:
    """With other weights, as if it had been trained."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += by * torch.randn(parameter.shape, generator=numbers) * (parameter.std(correction=0) + 0.05)
    return made


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vnet4-4", 45_605_916),  # MONAI's VNet(1 -> 4), Table 1: 45.6 M
        ("vnetl16-4", 12_294_036),  # 12.3 M; 12 295 188 with the 1152 biases that a norm behind them would undo
        ("vnetl16-17", 12_294_036),
        ("dvrnet", 25_001_016),  # 25.0 M
        ("rendernet", 225_946_068),  # 226 M
        ("vnet-unet", 52_567_464),  # not in the paper
    ],
)
def test_parameters_are_as_many_as_in_table_1(name: str, count: int):
    assert count_parameters(name, RendererSettings(start="scratch")) == count
    assert count_parameters(name, RendererSettings(norm="batch")) == count
    # convolutions have the square of the width; their norms and the heads, which keep theirs, are next to nothing
    assert count / 70 < count_parameters(name, RendererSettings(**SMALL)) < count / 60


def test_the_light_default_has_less_than_3_million_parameters():
    assert count_parameters("unet-s") < 3e6


def test_vnet_is_monais():
    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.VNet(spatial_dims=3, in_channels=1, out_channels=4).eval()
    ours = renderer("vnet4-4", RendererSettings(norm="batch", start="scratch")).encoder.eval()
    with torch.no_grad():
        for mine, value in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert mine.shape == value.shape
            mine.copy_(value)
        volume = body((32, 16, 16))
        (grid,) = ours(volume)
        numbers = ours.intake.numbers(volume)
        expected = ours.intake.around(theirs(numbers)[0], numbers)
    # the same sums, perhaps in another order; values are about 1
    assert (grid.values - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_untrained_it_draws_what_its_transfer_function_draws(name: str):
    volume, eye = body(), camera()
    for preset in ("ct-bone", "ct-soft-tissue"):
        made = renderer(name, RendererSettings(transfer=PRESETS[preset], **SMALL))
        expected = by_transfer(volume, PRESETS[preset], eye, sharp=name == "unet-s")
        assert expected[3].max() > 0.5 > expected[3].min()
        # what is transparent has LEAST / mm, over at most this diagonal; the rest is rounding in logits
        haze = LEAST * float(torch.tensor(volume.shape).double().norm()) * max(SPACING)
        assert (draw(made, volume, eye) - expected).abs().max() < haze + 1e-4
    assert haze < 1 / 255


@pytest.mark.parametrize("kind", ["mip", "mean", "mida", "gru"])
@pytest.mark.parametrize("name", ["unet-s", "vnetl16-17", "dvrnet", "rendernet"])
def test_so_it_does_with_every_accumulator(name: str, kind: str):
    volume, eye = body(), camera()
    made = renderer(name, RendererSettings(accumulate=kind, **SMALL))
    expected = by_transfer(volume, PRESETS["ct-bone"], eye, "alpha" if kind == "gru" else kind, name == "unet-s")
    # as above; "mean" divides by alphas near LEAST
    assert (draw(made, volume, eye) - expected).abs().max() < 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_every_parameter(name: str):
    made = renderer(name, RendererSettings(start="scratch", **SMALL))
    image = draw(made, body(), camera())
    (image * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    dead = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_from_the_transfer_function_everything_learns(name: str):
    # the last layers are 0, so that the first step moves nothing but these
    made = renderer(name, RendererSettings(**SMALL))
    optimiser = torch.optim.SGD(made.parameters(), lr=10.0)
    for _ in range(2):
        optimiser.zero_grad()
        image = draw(made, body(), camera())
        (image * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        optimiser.step()
    quiet = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not quiet


@pytest.mark.parametrize("name", NAMES)
def test_odd_and_tiny_volumes_and_three_image_sizes(name: str):
    cases = (("batch", (5, 7, 9), (1, 1)), ("none", (1, 17, 6), (19, 40)), ("group", (18, 3, 21), (35, 31)))
    for norm, shape, image_size in cases:
        made = renderer(name, RendererSettings(norm=norm, dropout=0.1, **SMALL))
        image = draw(made, body(shape), camera(image_size, shape))
        assert image.shape == (4, *image_size)
        assert torch.isfinite(image).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start", ["transfer", "scratch"])
def test_a_volume_of_one_value_is_drawn(name: str, start: str):
    made = shaken(renderer(name, RendererSettings(start=start, **SMALL)))
    volume = dataclasses.replace(body(), values=torch.full(SHAPE, 300, dtype=torch.int16))
    image = draw(made, volume, camera())
    image.sum().backward()
    assert torch.isfinite(image).all()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", IN_THE_IMAGE)
@pytest.mark.parametrize("start", ["transfer", "scratch"])
def test_colour_never_exceeds_alpha(name: str, start: str):
    made = shaken(renderer(name, RendererSettings(start=start, **SMALL)), 0.8)
    image = draw(made, body(), camera())
    assert (image[:3] <= image[3:] + 1e-6).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image[:3].std() > 0.01


@pytest.mark.parametrize("name", ["vnetl16-17", "dvrnet", "vnet-unet"])
def test_the_decoder_leaves_alpha_as_it_is(name: str):
    made = shaken(renderer(name, RendererSettings(**SMALL)), 0.3)
    fields = made.encode(body())
    images = made.accumulate(fields, camera(), TWIN, None)
    assert torch.equal(made.decoder(images)[3], images[0][-1].clamp(0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_weights_in_another_renderer_draw_the_same(name: str):
    settings = RendererSettings(norm="batch", **SMALL)
    made = shaken(renderer(name, settings), 0.3)
    draw(made, body(), camera())  # batch norm keeps what it saw
    other = renderer(name, dataclasses.replace(settings, seed=9))
    made.eval(), other.eval()
    before, eye = draw(made, body(), camera()), camera()
    assert (draw(other, body(), eye) - before).abs().max() > 1e-4  # unet-s begins with small changes of its table
    other.load_state_dict(made.state_dict())
    assert torch.equal(draw(other, body(), eye), before)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_depends_on_nothing_seen_since(name: str):
    made = shaken(renderer(name, RendererSettings(norm="batch", dropout=0.5, **SMALL)), 0.3)
    draw(made, body(), camera())
    trained = draw(made, body(), camera())
    made.eval()
    image = draw(made, body(), camera())
    draw(made, body((9, 12, 8)), camera())
    assert torch.equal(draw(made, body(), camera()), image)
    assert not torch.equal(image, trained)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "rendernet"])
def test_checkpointing_changes_no_gradient(name: str):
    found = []
    for wanted in (False, True):
        made = renderer(name, RendererSettings(start="scratch", **SMALL))
        made.encoder.checkpointing = wanted
        assert made.encoder.checkpointing is wanted
        draw(made, body(), camera())[0].sum().backward()
        found.append([p.grad for p in made.parameters()])
    # recomputed exactly, summed in another order
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_encoded_does_not_depend_on_the_camera(name: str):
    made = shaken(renderer(name, RendererSettings(**SMALL)), 0.3).eval()
    fields = made.encode(body())
    for image_size in ((12, 9), (30, 22)):
        eye = camera(image_size)
        assert torch.equal(made.show(fields, eye, TWIN), draw(made, body(), eye))


def test_numbers_are_scaled_in_one_place_and_end_at_its_range():
    intake = Intake(RendererSettings())
    values = torch.tensor([-3000, -1024, 0, 1023, 3071, 20000], dtype=torch.int16).reshape(1, 2, 3)
    numbers = intake.numbers(Volume(values, torch.eye(4, dtype=torch.float64))).flatten()
    assert numbers.tolist() == pytest.approx([-1, -1, 4 * 1024 / 4095 - 1, 4 * 2047 / 4095 - 1, 3, 3], abs=1e-6)


def test_the_prior_is_the_transfer_function_at_every_hu():
    for transfer in PRESETS.values():
        intake = Intake(RendererSettings(transfer=transfer))
        hu = torch.arange(-1024, 3072, dtype=torch.int16).reshape(1, 64, 64)
        priors = intake.priors(intake.numbers(Volume(hu, torch.eye(4, dtype=torch.float64))))
        expected = transfer.at(hu.float())
        kappa = torch.nn.functional.softplus(priors[3])
        # single precision of numbers up to 3 moves HU by 1e-4, and opacity rises by up to 9 / mm in some 100 HU
        assert (kappa - expected[..., 3].clamp(min=LEAST)).abs().max() < 1e-3


def _linear(encoder: ScalesEncoder) -> None:
    """Weights with which every scale's features are the means of blocks of voxels."""
    with torch.no_grad():
        for name, parameter in encoder.down.named_parameters():
            parameter.zero_()
            if name.endswith("shrink.weight"):
                parameter.fill_(1 / (8 * parameter.shape[1]))


@pytest.mark.parametrize("left_handed", [False, True])
def test_a_blob_is_at_its_place_at_every_scale(left_handed: bool):
    world, shape = lattice(left_handed), (50, 59, 61)
    index = np.array([33.3, 24.1, 20.6])  # (i, j, k)
    k, j, i = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    away = ((np.stack([i, j, k], -1) - index) ** 2).sum(-1)
    volume = Volume((1500 * np.exp(-away / (2 * 7.0**2))).astype(np.float32), torch.from_numpy(world))
    centre = world[:3, :3] @ index + world[:3, 3]
    eye = oblique_camera(centre, image_size=(90, 75), field=(400.0, 330.0))
    encoder = ScalesEncoder(RendererSettings(norm="none", start="scratch", **SMALL), whole=False)
    _linear(encoder)
    grids = encoder(volume)
    made = renderer("dvrnet", RendererSettings(**SMALL))
    above = [grid.values.detach()[:1] - grid.values.detach()[:1].min() for grid in grids]
    for factor, grid, values in zip((1, 2, 4, 8, 16), grids, above, strict=True):
        rim = int(factor > 1)  # coarser grids have their outermost voxels twice
        inner = values[0][tuple(slice(rim, n - rim) for n in values.shape[1:])].double()
        n = torch.stack(torch.meshgrid(*[torch.arange(s) + rim for s in inner.shape], indexing="ij"), -1).flip(-1)
        mean = (n * inner[..., None]).sum((0, 1, 2)) / inner.sum()
        found = (grid.world_from_voxel @ torch.cat([mean, mean.new_ones(1)]))[:3]
        # a blob of 7 voxels is sampled coarsely; the lattice's shift of half its voxel is 1.5 mm and more a factor
        assert (found - torch.from_numpy(centre)).norm() < 0.4 * factor
    fields = tuple(Field(torch.cat([v, 1e-5 * v]), g.world_from_voxel) for v, g in zip(above, grids, strict=True))
    expected = eye.project(torch.from_numpy(centre))
    for scale, image in enumerate(made.accumulate(fields, eye, TWIN, None)):
        alpha = image[-1].double()
        rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in alpha.shape)
        at = torch.stack([(alpha.sum(1) * rows).sum(), (alpha.sum(0) * columns).sum()]) / alpha.sum() * 2**scale
        # in px of the finest image; what is nearer looks larger, so that the middle is not quite the blob's
        assert (at - expected).abs().max() < 0.3 * 2**scale
        if scale == 0:
            expected = at  # half a pixel of a coarser image is 0.5 to 8 px of this one
        assert (at - expected).abs().max() < 0.2 * 2**scale


def test_images_of_all_scales_show_the_same_place():
    from diffrender.dvr.dvrnet import scaled

    eye = camera((45, 37))
    cameras = scaled(eye, 5)
    assert [c.image_size for c in cameras] == [(45, 37), (24, 24), (12, 12), (6, 6), (3, 3)]
    point = torch.from_numpy(point_at(lattice(), SHAPE, (0.2, 0.7, 0.4)))
    for scale, one in enumerate(cameras):
        assert torch.allclose(one.project(point) * 2**scale, eye.project(point), atol=1e-9)
