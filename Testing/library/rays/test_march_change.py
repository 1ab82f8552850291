"""A table whose colours and extinction each voxel changes: identity, a judge of its own, finite differences, the twin
against the kernels, and weights. Both backends."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import diffrender as dr
import phantoms
from diffrender.errors import ImageError, SettingError
from diffrender.pose import motion
from diffrender.rays import march_warp
from diffrender.rays.aim import Lattice, aim
from diffrender.rays.field import Field, MarchSettings, Rays, Table
from diffrender.rays.march import march, march_weights, samples_along

SIZE = (26, 23, 28)  # (k, j, i)
OBLIQUE = torch.from_numpy(phantoms.oblique_lattice((1.1, 0.9, 1.3), left_handed=True))
XI = torch.tensor([1.0, -2.0, 1.5, 0.05, 0.03, -0.04], dtype=torch.float64)
WAYS = [(1, 0.2, 0.1), (-1, 0.1, 0.3), (0.1, -1, 0.2), (0.1, 0.3, 1), (-0.2, 0.1, -1), (1, 1.1, -0.9)]
RANGES = ((-11.0, 290.0),)
LAYS = {"planar": lambda t: t, "channels last": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0)}


@pytest.fixture(params=["torch", "warp"])
def backend(request) -> str:
    if request.param == "warp":
        pytest.importorskip("warp")
    return request.param


@pytest.fixture
def threads():
    """Sets how many threads there are; puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def camera_of(size=SIZE, along=(0.6, 0.73, 0.32), image_size=(18, 16)) -> dr.Camera:
    centre = phantoms.point_at(OBLIQUE.numpy(), size)
    return phantoms.oblique_camera(centre, along, image_size, (30.0, 34.0), False)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    """Every neighbour differs, so a wrong weight or a wrong neighbour shows; float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(*bins: int, channels: int = 4) -> torch.Tensor:
    entries = noise(*bins, channels, seed=2)
    entries[..., -1] *= 0.1
    return entries


def off(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((found.double() - truth.double()).abs().max() / truth.double().abs().max()).item()


def change_of(channels: int = 4, size=SIZE, seed: int = 8) -> torch.Tensor:
    """Colours changed by up to half either way, extinction from nothing to twice; float64."""
    values = noise(channels, *size, seed=seed) - 0.5
    values[-1] = 2 * (values[-1] + 0.4).clamp(min=0)
    return values


def field_of(dtype=torch.float64, changed=True, channels: int = 4, size=SIZE) -> Field:
    change = change_of(channels, size).to(dtype) if changed else None
    entries = table(23, channels=channels).to(dtype)
    return Field((300 * noise(*size)).to(dtype), OBLIQUE, Table(entries, RANGES), change)


def with_leaves(field: Field) -> tuple[Field, dict[str, torch.Tensor]]:
    assert field.table is not None
    assert field.change is not None
    leaves = {"values": field.values, "entries": field.table.entries, "change": field.change}
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    made = Table(leaves["entries"], field.table.ranges)
    return Field(leaves["values"], field.world_from_voxel, made, leaves["change"]), leaves | {
        "xi": XI.clone().requires_grad_()
    }


def judge(field: Field, camera: dr.Camera, xi: torch.Tensor, settings: MarchSettings) -> torch.Tensor:
    """Classified and changed at samples that the settings place, composited by cumprod in float64."""
    height, width = camera.image_size
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    x = (columns - camera.principal_point[1]) * camera.pixel_size[1]
    y = (rows - camera.principal_point[0]) * camera.pixel_size[0]
    rays = torch.from_numpy(np.stack([x, y, np.full_like(x, camera.source_to_detector)], -1).reshape(-1, 3))
    k, j, i = field.shape
    about = OBLIQUE @ torch.tensor([(i - 1) / 2, (j - 1) / 2, (k - 1) / 2, 1.0]).double()
    matrix = torch.linalg.inv(motion(xi, about[:3]) @ field.world_from_voxel) @ camera.world_from_camera
    source, directions = matrix[:3, 3], (rays / rays.norm(dim=1, keepdim=True)) @ matrix[:3, :3].T
    last = torch.tensor([i - 1, j - 1, k - 1]).double()
    one, other = -source / directions, (last - source) / directions
    enter = torch.minimum(one, other).amax(1).clamp(min=0)
    leave = torch.maximum(one, other).amin(1).detach()
    step = field.voxel_size / settings.sampling_rate
    count = int(((leave - enter) / step).max()) + 2
    t = enter + step * (torch.arange(count, dtype=torch.float64)[:, None] + settings.start)
    inside = t.detach() <= leave + 1e-6 * step
    grid = (2 * (source + t[..., None] * directions) / last - 1)[None, :, :, None]

    def mixed(values):
        lattice = values.double().reshape(1, -1, k, j, i)
        return F.grid_sample(lattice, grid, align_corners=True, padding_mode="border")[0, ..., 0]

    assert field.table is not None
    assert field.change is not None
    (low, high), entries = field.table.ranges[0], field.table.entries.double()
    at = 2 * (mixed(field.values)[0] - low) / (high - low) - 1
    at = torch.stack([at, torch.zeros_like(at)], -1)[None]
    found = F.grid_sample(entries.T[None, :, None], at, align_corners=True, padding_mode="border")[0]
    change = mixed(field.change)
    kappa = torch.where(inside, found[-1] * change[-1], 0)
    alpha = 1 - torch.exp(-kappa * step)
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), 0)
    share = through[:-1] * (alpha if settings.weighted else step * inside.double())
    return torch.cat([(share * (found + change)[:-1]).sum(1), 1 - through[-1:]]).reshape(-1, height, width)


def test_no_change_changes_nothing(backend):
    camera, settings = camera_of(), MarchSettings(backend=backend, sampling_rate=1.3)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        field = field_of(dtype, changed=False)
        none = torch.zeros(4, *SIZE, dtype=dtype)
        none[3] = 1
        got = march(dataclasses.replace(field, change=none), camera, settings)
        assert (got - march(field, camera, settings)).abs().max() < tolerance


@pytest.mark.parametrize("lay", LAYS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_image_and_gradients_meet_float64_autograd_of_the_judge(backend, dtype, weighted, lay):
    settings = MarchSettings(backend=backend, sampling_rate=1.3, start=0.7, weighted=weighted)
    camera, base = camera_of(), field_of(dtype)
    weights = noise(4, *camera.image_size, seed=5)
    truth, expected = with_leaves(field_of())
    reference = judge(truth, camera, expected["xi"], settings)
    (reference * weights).sum().backward()
    field, leaves = with_leaves(base)
    leaves["change"] = LAYS[lay](base.change.detach()).requires_grad_()
    image = march(dataclasses.replace(field, change=leaves["change"]), camera, settings, leaves["xi"])
    (image * weights.to(image)).sum().backward()
    precise = dtype == torch.float64
    assert off(image.detach(), reference.detach()) < (1e-9 if precise else 3e-5)
    # float32 places are good to 3e-5 voxels: a sample may fall on the other side of a face or of a bin's edge
    tolerances = {"values": 2e-2, "entries": 2e-3, "change": 1e-4, "xi": 2e-2}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert off(leaf.grad, expected[name].grad) < (1e-8 if precise else tolerances[name]), name
    assert leaves["change"].grad.stride() == leaves["change"].stride()


def test_gradient_in_the_pose_meets_finite_differences(backend):
    i, j, k = torch.meshgrid(*(torch.linspace(0, 3, n, dtype=torch.float64) for n in SIZE), indexing="ij")
    values = 140 + 60 * torch.sin(i + 0.3) + 40 * torch.cos(1.3 * j + k)
    entries = torch.stack([torch.linspace(0.1, 0.9, 23), torch.linspace(0.8, 0.2, 23), torch.linspace(0, 0.05, 23)], 1)
    change = torch.stack([0.3 * torch.sin(j), 0.2 * torch.cos(i + k), 1 + 0.7 * torch.sin(1.7 * k + j)])
    field = Field(values, OBLIQUE, Table(entries.double(), RANGES), change)
    camera, settings = camera_of(), MarchSettings(backend=backend)
    weights = noise(3, *camera.image_size, seed=5)
    xi = XI.clone().requires_grad_()
    (march(field, camera, settings, xi) * weights).sum().backward()
    assert xi.grad is not None
    for n in range(6):
        h = torch.zeros(6, dtype=torch.float64)
        h[n] = 1e-7
        up, down = (march(field, camera, settings, (XI + s * h).requires_grad_()).detach() for s in (1, -1))
        slope = ((up - down) * weights).sum() / 2e-7
        # the interpolant has kinks, and samples at the exits come and go: those are few
        assert xi.grad[n].item() == pytest.approx(slope.item(), rel=2e-2, abs=2e-2 * float(xi.grad.abs().max()))


@pytest.mark.parametrize("accumulate", ["alpha", "mip", "mean", "mida"])
def test_every_accumulator_takes_the_changed_colours(accumulate):
    settings = MarchSettings(accumulate=accumulate, backend="torch")
    camera, field = camera_of(), field_of()
    # a change that is the same everywhere is another table
    same = torch.tensor([0.1, -0.2, 0.3, 1.7], dtype=torch.float64)
    entries = torch.cat([field.table.entries[:, :3] + same[:3], field.table.entries[:, 3:] * same[3]], 1)
    changed = dataclasses.replace(field, change=same[:, None, None, None].expand(4, *SIZE))
    other = Field(field.values, OBLIQUE, Table(entries, RANGES))
    assert off(march(changed, camera, settings), march(other, camera, settings)) < 1e-12


def test_samples_along_hold_what_the_march_composites():
    field, leaves = with_leaves(field_of())
    camera = camera_of()
    shown = torch.zeros(4, 18 * 16, dtype=torch.float64)
    for part, channels, inside in samples_along(field, camera):
        depth = torch.where(inside, channels[-1], 0) * field.voxel_size
        share = torch.exp(depth - depth.cumsum(0)) * (1 - torch.exp(-depth))
        shown[:, part] = torch.cat([(share * channels[:3]).sum(1), share.sum(0)[None]])
    assert off(shown.detach().view(4, 18, 16), march(field, camera, MarchSettings(backend="torch")).detach()) < 1e-12
    shown.sum().backward()
    assert all(leaves[name].grad.abs().max() > 0 for name in ("values", "entries", "change"))


@pytest.mark.parametrize("offsets_of", [0, 3])
def test_weights_times_offsets_are_what_a_change_adds(backend, offsets_of):
    camera, settings = camera_of(), MarchSettings(backend=backend, sampling_rate=1.4, start=0.3)
    field = field_of()
    ids = (7 * noise(*SIZE, seed=4)).long()
    offsets = noise(7, 3, seed=offsets_of) - 0.3
    gains = 2 * noise(7, seed=9)
    change = torch.cat([offsets, gains[:, None]], 1)[ids].movedim(-1, 0)
    thinned = dataclasses.replace(field, change=torch.cat([0 * change[:3], change[3:]]))
    weights = march_weights(ids, thinned, 7, None, camera, settings)
    found = _whole(thinned, camera, settings)[:3] + torch.einsum("nhw,nc->chw", weights, offsets)
    assert off(found, _whole(dataclasses.replace(field, change=change), camera, settings)[:3]) < 1e-12
    plain = march_weights(ids, dataclasses.replace(field, change=None), 7, None, camera, settings)
    shown = _whole(dataclasses.replace(field, change=None), camera, settings)
    assert off(plain.sum(0), shown[3]) < 1e-12  # all weights together are the alpha
    assert off(weights.sum(0), shown[3]) > 0.01


def _whole(field: Field, camera: dr.Camera, settings: MarchSettings) -> torch.Tensor:
    """Without the early end of a drawing."""
    return march(field, camera, settings, torch.zeros(6, dtype=torch.float64, requires_grad=True)).detach()


def test_stored_types(backend):
    camera, settings = camera_of(), MarchSettings(backend=backend)
    field = field_of(torch.float32)
    for numbers in (torch.int16, torch.float16, torch.float32):
        for kind in (torch.float16, torch.float32):
            change = field.change.to(kind).clone().requires_grad_()
            stored = dataclasses.replace(field, values=field.values.to(numbers), change=change)
            image = march(stored, camera, settings)
            image.sum().backward()
            assert image.dtype == torch.float32
            assert change.grad.dtype == kind
            wide = dataclasses.replace(stored, values=stored.values.double(), change=change.detach().double())
            # 3e-5 voxels off, a number is 1e-2 HU off, a bin is 14 HU wide
            assert off(image.detach(), march(wide, camera, MarchSettings(backend="torch"))) < 1e-4


@pytest.mark.parametrize("channels", [2, 17, 21])
def test_any_number_of_channels(channels):
    pytest.importorskip("warp")
    camera, grads = camera_of(image_size=(9, 8)), []
    for backend in ("torch", "warp"):
        for lay in LAYS.values() if backend == "warp" else (lambda t: t,):
            field, leaves = with_leaves(field_of(torch.float32, channels=channels))
            leaves["change"] = lay(field.change.detach()).requires_grad_()
            field = dataclasses.replace(field, change=leaves["change"])
            image = march(field, camera, MarchSettings(backend=backend), leaves["xi"])
            (image * noise(*image.shape, seed=6).float()).sum().backward()
            grads.append({"image": image.detach()} | {name: leaf.grad for name, leaf in leaves.items()})
    for found in grads[1:]:
        # samples at the edges of bins and faces, as above
        tolerances = {"image": 1e-4, "values": 2e-2, "entries": 2e-3, "change": 1e-3, "xi": 2e-2}
        assert all(off(found[name], grads[0][name]) < tolerance for name, tolerance in tolerances.items())


@pytest.mark.parametrize("changed", [True, False])
def test_numbers_may_lie_in_any_order(backend, changed):
    camera, field, settings = camera_of(), field_of(changed=changed), MarchSettings(backend=backend)
    leaf = field.values.clone().requires_grad_()
    march(dataclasses.replace(field, values=leaf), camera, settings).sum().backward()
    turned = field.values.transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    march(dataclasses.replace(field, values=turned), camera, settings).sum().backward()
    assert turned.grad.abs().max() > 0
    assert torch.equal(turned.grad, leaf.grad)


@pytest.mark.parametrize("way", WAYS[::2])
def test_slabs_meet_the_twin(way):
    pytest.importorskip("warp")
    for size in ((130, 20, 22), (22, 20, 130)):
        camera, grads = camera_of(size, way, (12, 13)), []
        for backend in ("torch", "warp"):
            field, leaves = with_leaves(field_of(size=size))
            image = march(field, camera, MarchSettings(backend=backend))
            (image * noise(*image.shape)).sum().backward()
            grads.append(leaves)
        assert off(grads[1]["change"].grad, grads[0]["change"].grad) < 1e-9
        assert off(grads[1]["values"].grad, grads[0]["values"].grad) < 1e-9


@pytest.mark.parametrize("weighted", [True, False])
def test_skipping_what_the_table_leaves_empty_changes_no_bit(weighted):
    pytest.importorskip("warp")
    size = (60, 67, 73)
    solid = torch.zeros(size, dtype=torch.float64)
    solid[10:14, 20:25, 30:40] = 0.2
    solid[40:50, 50:60, 3:20] = 0.5
    solid[20:30, -8:, -8:] = 1.0
    entries = table(100)
    entries[:60, 3] = 0
    numbers = torch.where(solid > 0, 100 * solid, -100 * noise(*size)).float()
    field = Field(numbers, OBLIQUE, Table(entries.float(), ((-120.0, 90.0),)), change_of(size=size).float())
    settings = MarchSettings(sampling_rate=1.3, weighted=weighted, backend="warp")
    brightest = []
    for along in WAYS:
        (pencil,) = aim(Lattice(OBLIQUE, size), camera_of(size, along)).pencils
        rays = Rays(pencil, field.voxel_size / 1.3, 1.0)
        whole = march_warp.project(field, rays, settings)[0]
        brightest.append(float(whole.abs().max()))
        assert torch.equal(march_warp.draw(field, rays, settings, least=0.0), whole)
        # what is left of a ray at its end, times the colour behind: one sample's, or in the literal mode many
        assert (march_warp.draw(field, rays, settings) - whole).abs().max() <= 2e-3 * (1 if weighted else 40)
    assert max(brightest) > 0.5
    if weighted:
        assert (field.kept["reach"] == 0).float().mean() < 0.2


def test_results_are_the_same_bits_for_one_thread_and_two_and_from_run_to_run(threads):
    pytest.importorskip("warp")
    size, results = (98, 97, 99), []  # two slabs or more, whatever the axis
    for count in (1, 2, 2):
        threads(count)
        field, leaves = with_leaves(field_of(torch.float32, size=size))
        image = march(field, camera_of(size, image_size=(66, 68)), MarchSettings(backend="warp"), leaves["xi"])
        (image * image).sum().backward()
        results.append([image.detach(), *(leaf.grad for leaf in leaves.values())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_does_not_fit_is_said():
    field = field_of()
    with pytest.raises(ImageError, match=r"\[4, 26, 23, 28\] here, and this one \[3, 26, 23, 28\]"):
        dataclasses.replace(field, change=field.change[:3])
    with pytest.raises(ImageError, match="this one"):
        dataclasses.replace(field, change=field.change[:, :-1])
    with pytest.raises(ImageError, match="int16"):
        dataclasses.replace(field, change=field.change.short())
    with pytest.raises(SettingError, match="one axis"):
        Field(change_of(), OBLIQUE, None, field.change)
    pairs = Table(table(5, 7), ((0.0, 1.0), (0.0, 2.0)))
    with pytest.raises(SettingError, match="one axis"):
        Field(noise(2, *SIZE), OBLIQUE, pairs, field.change)
