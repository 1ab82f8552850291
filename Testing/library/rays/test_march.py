"""Emission and absorption against closed forms, against a judge that shares no code with it (float64 grid_sample and
cumprod, its rays from the camera's numbers), finite differences and symmetries. Both backends."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import diffrender as dr
import phantoms
from diffrender.camera import looking_along
from diffrender.errors import BackendError, ImageError, SettingError
from diffrender.pose import motion
from diffrender.rays import march_warp
from diffrender.rays.aim import Lattice, aim
from diffrender.rays.field import Field, Gradients, MarchSettings, Rays, Table
from diffrender.rays.march import march, march_weights, samples_along

SIZE = (26, 23, 28)  # (k, j, i)
OBLIQUE = torch.from_numpy(phantoms.oblique_lattice((1.1, 0.9, 1.3), left_handed=True))
XI = torch.tensor([1.0, -2.0, 1.5, 0.05, 0.03, -0.04], dtype=torch.float64)
WAYS = [(1, 0.2, 0.1), (-1, 0.1, 0.3), (0.2, 1, -0.1), (0.1, -1, 0.2), (0.1, 0.3, 1), (-0.2, 0.1, -1), (1, 1.1, -0.9)]


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


def camera_of(lattice=OBLIQUE, size=SIZE, along=(0.6, 0.73, 0.32), image_size=(18, 16), mirrored=False) -> dr.Camera:
    centre = phantoms.point_at(lattice.numpy(), size)
    return phantoms.oblique_camera(centre, along, image_size, (30.0, 34.0), mirrored)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    """Every neighbour differs, so a wrong weight or a wrong neighbour shows; float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def colours(channels: int = 4, size=SIZE, densest: float = 0.06) -> torch.Tensor:
    """Noise whose last channel is an extinction [1/mm], a third of it zero; float64."""
    values = noise(channels, *size)
    values[-1] = densest * (values[-1] - 0.33).clamp(min=0)
    return values


def table(*bins: int, channels: int = 4, densest: float = 0.1) -> torch.Tensor:
    entries = noise(*bins, channels, seed=2)
    entries[..., -1] *= densest
    return entries


def fields(kind: str, dtype: torch.dtype = torch.float64) -> Field:
    if kind == "values":
        return Field(colours().to(dtype), OBLIQUE)
    if kind == "table1":
        return Field((300 * noise(*SIZE)).to(dtype), OBLIQUE, Table(table(23).to(dtype), ((-11.0, 290.0),)))
    pairs = noise(2, *SIZE) * torch.tensor([300.0, 2.0]).view(2, 1, 1, 1)
    return Field(pairs.to(dtype), OBLIQUE, Table(table(23, 11).to(dtype), ((-11.0, 290.0), (0.1, 1.9))))


def judge(field: Field, camera: dr.Camera, step: float, xi=None, start=1.0, weighted=True, centre=None):
    """The same image in float64, all samples at once, for autograd; the rays from the camera's numbers."""
    height, width = camera.image_size
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    x = (columns - camera.principal_point[1]) * camera.pixel_size[1]
    y = (rows - camera.principal_point[0]) * camera.pixel_size[0]
    rays = torch.from_numpy(np.stack([x, y, np.full_like(x, camera.source_to_detector)], -1).reshape(-1, 3))
    k, j, i = field.shape
    about = (OBLIQUE if centre is None else centre) @ torch.tensor(
        [(i - 1) / 2, (j - 1) / 2, (k - 1) / 2, 1.0]
    ).double()
    moved = torch.eye(4, dtype=torch.float64) if xi is None else motion(xi, about[:3])
    matrix = torch.linalg.inv(moved @ field.world_from_voxel) @ camera.world_from_camera
    source, directions = matrix[:3, 3], (rays / rays.norm(dim=1, keepdim=True)) @ matrix[:3, :3].T
    last = torch.tensor([i - 1, j - 1, k - 1]).double()
    one, other = -source / directions, (last - source) / directions
    enter = torch.minimum(one, other).amax(1).clamp(min=0)
    leave = torch.maximum(one, other).amin(1).detach()
    count = int(((leave - enter) / step).max()) + 2
    t = enter + step * (torch.arange(count, dtype=torch.float64)[:, None] + start)
    inside = t.detach() <= leave + 1e-6 * step
    grid = 2 * (source + t[..., None] * directions) / last - 1
    values = field.values.double().reshape(1, -1, k, j, i)
    found = F.grid_sample(values, grid[None, :, :, None], align_corners=True, padding_mode="border")[0, ..., 0]
    if field.table is not None:
        found = _looked_up(found, field.table)
    kappa = torch.where(inside, found[-1], 0)
    alpha = 1 - torch.exp(-kappa * step)
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), 0)
    share = through[:-1] * (alpha if weighted else step * inside.double())
    return torch.cat([(share * found[:-1]).sum(1), 1 - through[-1:]]).reshape(-1, height, width)


def _looked_up(numbers, of: Table):
    """Multilinear in the table by grid_sample too, so that no index arithmetic is shared."""
    axes = [2 * (n - low) / (high - low) - 1 for n, (low, high) in zip(numbers, of.ranges, strict=True)]
    entries = of.entries.double()
    if len(axes) == 1:
        entries, axes = entries[None], [torch.zeros_like(axes[0]), *axes]
    grid = torch.stack(axes[::-1], -1)[None]
    return F.grid_sample(entries.movedim(-1, 0)[None], grid, align_corners=True, padding_mode="border")[0]


def off(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((found.double() - truth.double()).abs().max() / truth.double().abs().max()).item()


def rays_of(field: Field, camera: dr.Camera, settings: MarchSettings) -> Rays:
    (pencil,) = aim(Lattice(field.world_from_voxel, field.shape), camera).pencils
    return Rays(pencil, field.voxel_size / settings.sampling_rate, settings.start)


# --- closed forms


def slabs_of(kappas, colour, size=(30, 31, 32)) -> Field:
    """Layers along i, each of one colour and extinction; voxels of 1 mm, axes along the world's."""
    values = torch.zeros(4, *size, dtype=torch.float64)
    bounds = np.linspace(0, size[2], len(kappas) + 1).astype(int)
    for n, (low, high) in enumerate(itertools.pairwise(bounds)):
        values[:3, :, :, low:high] = torch.tensor(colour[n], dtype=torch.float64).view(3, 1, 1, 1)
        values[3, :, :, low:high] = kappas[n]
    lattice = torch.eye(4, dtype=torch.float64)
    lattice[:3, 3] = torch.tensor([-20.0, 7.0, 3.0])
    return Field(values, lattice)


def along_i(field: Field, sign: float = 1.0) -> dr.Camera:
    """A camera so far away that its rays run along i to 1e-5."""
    centre = torch.from_numpy(phantoms.point_at(field.world_from_voxel.numpy(), field.shape, (0.5, 0.45, 0.55)))
    axes = [[0.0, sign, 0.0], [0.0, 0.0, 1.0], [sign, 0.0, 0.0]]
    return looking_along(axes, centre, 1e6, 1e6, (0.5, 0.5), (4, 5))


@pytest.mark.parametrize("rate", [1.0, 2.5])
def test_a_homogeneous_box_covers_one_minus_exp_of_its_chord(backend, rate):
    field = slabs_of([0.03], [(0.9, 0.4, 0.1)])
    image = march(field, along_i(field), MarchSettings(sampling_rate=rate, backend=backend))
    # the chord is 31 voxels of 1 mm, a whole number of steps but for 2.5 a voxel: 77 steps of 0.4 mm
    alpha = 1 - math.exp(-0.03 * math.floor(31 * rate + 1e-3) / rate)
    assert image[3].numpy() == pytest.approx(alpha, abs=1e-5)  # rays lean by 1e-5
    assert image[:3].amax((1, 2)).numpy() == pytest.approx(np.array([0.9, 0.4, 0.1]) * alpha, abs=1e-5)


def test_the_layer_in_front_is_seen_first(backend):
    field = slabs_of([0.2, 0.05], [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
    settings = MarchSettings(backend=backend, sampling_rate=64.0)
    for sign, near in ((1.0, 0), (-1.0, 1)):
        red, green, _, alpha = march(field, along_i(field, sign), settings).mean((1, 2)).tolist()
        # 15.5 mm of each, with the half voxel between them halfway; both by the closed form for two layers
        first, second = (0.2, 0.05)[near], (0.2, 0.05)[1 - near]
        front = 1 - math.exp(-first * 15.5)
        behind = (1 - front) * (1 - math.exp(-second * 15.5))
        shown = (red, green) if near == 0 else (green, red)
        assert shown[0] == pytest.approx(front, abs=0.02)  # the voxel between them mixes both
        assert shown[1] == pytest.approx(behind, abs=0.02)
        assert alpha == pytest.approx(1 - math.exp(-0.25 * 15.5), abs=2e-3)


def test_the_papers_literal_colour_is_the_integral_of_colour_times_transmittance(backend):
    field = slabs_of([0.03], [(0.9, 0.4, 0.1)])
    image = march(field, along_i(field), MarchSettings(sampling_rate=4.0, weighted=False, backend=backend))
    through = np.exp(-0.03 * np.arange(31 * 4) / 4)
    assert image[0].numpy() == pytest.approx(0.9 * 0.25 * through.sum(), rel=1e-5)
    assert image[3].numpy() == pytest.approx(1 - math.exp(-0.03 * 31), abs=1e-5)


# --- against the judge


@pytest.mark.parametrize("number", range(len(WAYS)))
def test_image_from_all_sides_meets_the_judge(backend, number):
    field = Field(colours(), OBLIQUE)
    camera = camera_of(along=WAYS[number], mirrored=bool(number % 2))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):  # float32 places are good to 3e-5 voxels
        got = march(dataclasses.replace(field, values=field.values.to(dtype)), camera, MarchSettings(backend=backend))
        assert got.dtype == dtype
        assert off(got, judge(field, camera, field.voxel_size)) < tolerance


def test_eye_inside_the_volume(backend):
    field = Field(colours(), OBLIQUE)
    camera = camera_of()
    inside = camera.world_from_camera.clone()
    inside[:3, 3] = torch.from_numpy(phantoms.point_at(OBLIQUE.numpy(), SIZE, (0.4, 0.3, 0.6)))
    camera = dataclasses.replace(camera, world_from_camera=inside)
    got = march(field, camera, MarchSettings(backend=backend), XI)
    assert off(got, judge(field, camera, field.voxel_size, XI)) < 1e-9


@pytest.mark.parametrize("kind", ["values", "table1", "table2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_meet_float64_autograd_of_the_judge(backend, kind, dtype):
    found, truth, camera = fields(kind, dtype), fields(kind), camera_of()
    settings = MarchSettings(backend=backend, sampling_rate=1.3, start=0.7, weighted=kind != "table1")
    weights = noise(4, *camera.image_size, seed=5)
    got, expected = _leaves(found), _leaves(truth)
    image = march(got[0], camera, settings, got[1][-1])
    (image * weights.to(image)).sum().backward()
    step = truth.voxel_size / 1.3
    reference = judge(expected[0], camera, step, expected[1][-1], start=0.7, weighted=kind != "table1")
    (reference * weights).sum().backward()
    assert off(image.detach(), reference.detach()) < (1e-9 if dtype == torch.float64 else 2e-5)
    names = ("values", "xi") if kind == "values" else ("values", "entries", "xi")
    for name, leaf, right in zip(names, got[1], expected[1], strict=True):
        if dtype == torch.float64:
            tolerance = 1e-8
        elif kind == "values":
            # A sample within 3e-5 voxels of a face may fall on its other side, where the slope is another one.
            tolerance = 2e-3 if name == "xi" else 1e-4
        else:
            tolerance = 2e-3 if name == "entries" else 1e-2  # likewise, at the edges of bins
        assert off(leaf.grad, right.grad) < tolerance, name


def _leaves(field: Field) -> tuple[Field, list[torch.Tensor]]:
    values, xi = field.values.clone().requires_grad_(), XI.clone().requires_grad_()
    if field.table is None:
        return Field(values, field.world_from_voxel), [values, xi]
    entries = field.table.entries.clone().requires_grad_()
    return Field(values, field.world_from_voxel, Table(entries, field.table.ranges)), [values, entries, xi]


def test_gradient_in_the_pose_meets_finite_differences(backend):
    smooth = phantoms.smooth(phantoms.point_at(OBLIQUE.numpy(), SIZE), scale=0.6)
    values = colours()
    values[-1] = phantoms.drawn(smooth, OBLIQUE.numpy(), SIZE).values.double().clamp(min=0)
    field, camera, settings = Field(values, OBLIQUE), camera_of(), MarchSettings(backend=backend)
    weights = noise(4, *camera.image_size, seed=5)
    xi = XI.clone().requires_grad_()
    (march(field, camera, settings, xi) * weights).sum().backward()
    assert xi.grad is not None
    for n in range(6):
        h = torch.zeros(6, dtype=torch.float64)
        h[n] = 1e-7
        with torch.no_grad():
            # project, not draw: a drawing ends its rays at 1e-3
            up, down = (_projected(field, camera, settings, XI + sign * h) for sign in (1, -1))
        slope = ((up - down) * weights).sum() / 2e-7
        # the interpolant has kinks, and samples at the exits come and go: those are few
        assert xi.grad[n].item() == pytest.approx(slope.item(), rel=2e-2, abs=2e-2 * float(xi.grad.abs().max()))


def _projected(field: Field, camera: dr.Camera, settings: MarchSettings, xi: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        return march(field, camera, settings, xi.clone().requires_grad_()).detach()


@pytest.mark.parametrize("channels", [2, 17, 40])
def test_any_number_of_channels(backend, channels):
    size = (20, 23, 26)
    values = colours(channels, size)
    camera = camera_of(size=size, image_size=(9, 8))
    reference = values.clone().requires_grad_()
    truth = judge(Field(reference, OBLIQUE), camera, 0.9)
    weights = noise(*truth.shape, seed=6)
    (truth * weights).sum().backward()
    for lay in (lambda v: v, lambda v: v.movedim(0, -1).contiguous().movedim(-1, 0)):
        leaf = lay(values.float()).requires_grad_()
        image = march(Field(leaf, OBLIQUE), camera, MarchSettings(backend=backend))
        (image * weights.float()).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.stride() == leaf.stride()
        assert off(image.detach(), truth.detach()) < 1e-5
        assert off(leaf.grad, reference.grad) < 1e-4


def test_stored_types(backend):
    camera = camera_of()
    half = Field(colours().half(), OBLIQUE)
    leaf = half.values.clone().requires_grad_()
    image = march(Field(leaf, OBLIQUE), camera, MarchSettings(backend=backend))
    image.sum().backward()
    assert image.dtype == torch.float32
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float16
    assert off(image.detach(), judge(half, camera, half.voxel_size)) < 1e-5
    numbers = (300 * noise(*SIZE)).short()
    short = Field(numbers, OBLIQUE, Table(table(23).float(), ((-11.0, 290.0),)))
    got = march(short, camera, MarchSettings(backend=backend))
    # 3e-5 voxels off, a number is 1e-2 HU off, a bin is 14 HU wide
    assert off(got, judge(short, camera, short.voxel_size)) < 1e-4


# --- what may not change the picture


def test_moving_patient_and_camera_together_changes_nothing(backend):
    field, camera, settings = fields("values"), camera_of(), MarchSettings(backend=backend)
    together = motion(torch.tensor([30.0, -20.0, 11.0, 0.4, -1.1, 0.7], dtype=torch.float64), torch.zeros(3).double())
    moved = dataclasses.replace(field, world_from_voxel=together @ field.world_from_voxel)
    camera_moved = dataclasses.replace(camera, world_from_camera=together @ camera.world_from_camera)
    assert off(march(moved, camera_moved, settings), march(field, camera, settings)) < 1e-9


def hollow(kind: str) -> Field:
    """Mostly empty: a few boxes, one on the border, and an empty range of the table; float32."""
    size = (60, 67, 73)
    solid = torch.zeros(size, dtype=torch.float64)
    solid[10:14, 20:25, 30:40] = 0.2
    solid[40:50, 50:60, 3:20] = 0.5
    solid[20:30, -8:, -8:] = 1.0
    if kind == "values":
        values = noise(4, *size)
        values[3] = solid
        return Field(values.float(), OBLIQUE)
    numbers = torch.where(solid > 0, 100 * solid, -100 * noise(*size))
    entries = table(100)
    entries[:60, 3] = 0
    if kind == "table1":
        return Field(numbers.float(), OBLIQUE, Table(entries.float(), ((-120.0, 90.0),)))
    pairs, square = torch.stack([numbers, noise(*size)]), table(40, 7)
    square[:25, :, 3] = 0
    return Field(pairs.float(), OBLIQUE, Table(square.float(), ((-120.0, 90.0), (0.0, 1.0))))


@pytest.mark.parametrize("kind", ["values", "table1", "table2"])
@pytest.mark.parametrize("weighted", [True, False])
def test_skipping_empty_space_changes_no_bit_and_ending_early_little(kind, weighted):
    pytest.importorskip("warp")
    field = hollow(kind)
    settings = MarchSettings(sampling_rate=1.3, weighted=weighted, backend="warp")
    assert march_warp.why_not(field, settings) is None
    for along in WAYS[1::2]:
        rays = rays_of(field, camera_of(field.world_from_voxel, field.shape, along), settings)
        whole = march_warp.project(field, rays, settings)[0]
        assert torch.equal(march_warp.draw(field, rays, settings, least=0.0), whole)
        # what is left of a ray at its end, times the colour behind: one sample's, or in the literal mode many
        assert (march_warp.draw(field, rays, settings) - whole).abs().max() <= 1e-3 * (1 if weighted else 40)
    # in the literal mode what has a colour is seen, transparent or not
    assert ((field.kept["reach"] == 0).float().mean() < 0.2) == weighted


def test_a_table_changed_in_place_is_seen_by_the_next_drawing():
    pytest.importorskip("warp")
    field, camera, settings = hollow("table1"), camera_of(size=(60, 67, 73)), MarchSettings(backend="warp")
    assert field.table is not None
    march(field, camera, settings)
    before = march(field, camera, settings)  # the second drawing knows what is empty
    assert "reach" in field.kept
    field.table.entries[:, 3] = 0.01  # what was empty is so no longer
    after = march(field, camera, settings)
    assert off(after, judge(field, camera, field.voxel_size)) < 1e-4
    assert off(after, before) > 0.1


def test_results_are_the_same_bits_for_one_thread_and_two_and_from_run_to_run(threads):
    pytest.importorskip("warp")
    size = (150, 26, 29)  # three slabs along k; and five tiles of rays
    camera = camera_of(size=size, along=(0.2, 0.1, 1.0), image_size=(66, 68))
    for kind in ("values", "table1"):
        if kind == "values":
            make = lambda: Field(colours(4, size).float().requires_grad_(), OBLIQUE)  # noqa: E731
        else:
            of = table(23).float()
            make = lambda of=of: Field(  # noqa: E731
                (300 * noise(*size)).float(), OBLIQUE, Table(of.clone().requires_grad_(), ((-11.0, 290.0),))
            )
        results = []
        for count in (1, 2, 2):
            threads(count)
            field, xi = make(), XI.clone().requires_grad_()
            image = march(field, camera, MarchSettings(backend="warp"), xi)
            (image * image).sum().backward()
            leaf = field.values if field.table is None else field.table.entries
            results.append((image.detach(), leaf.grad, xi.grad))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("way", WAYS[:1] + WAYS[4:])
def test_slabs_meet_the_twin(way):
    """Volumes that are long along one axis are cut into slabs; a ray may cross all, some or one of them."""
    pytest.importorskip("warp")
    for size in ((130, 20, 22), (22, 20, 130)):
        camera = camera_of(size=size, along=way, image_size=(9, 8))
        grads = []
        for backend in ("torch", "warp"):
            leaf = colours(4, size, 0.02).float().requires_grad_()
            image = march(Field(leaf, OBLIQUE), camera, MarchSettings(backend=backend))
            (image * noise(*image.shape).float()).sum().backward()
            grads.append(leaf.grad)
        assert off(grads[1], grads[0]) < 1e-4


# --- batches, jitter, weights, samples


def test_a_batch_is_its_members(backend):
    field, settings = fields("values"), MarchSettings(backend=backend)
    cameras = [camera_of(along=way) for way in WAYS[:3]]
    xi = torch.stack([XI, 2 * XI, -XI]).requires_grad_()
    images = march(field, cameras, settings, xi)
    (images * images).sum().backward()
    assert xi.grad is not None
    for n, camera in enumerate(cameras):
        alone = xi[n].detach().requires_grad_()
        image = march(field, camera, settings, alone)
        (image * image).sum().backward()
        assert alone.grad is not None
        assert torch.equal(image, images[n])
        assert off(xi.grad[n], alone.grad) < 1e-12


def test_jitter_is_the_generators_and_its_mean_is_not_biased(backend):
    field, settings = Field(colours(4, (20, 23, 26)), OBLIQUE), MarchSettings(backend=backend)
    camera = camera_of(size=(20, 23, 26), image_size=(9, 8))
    images = [march(field, camera, settings, jitter=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(images[0], images[1])
    assert off(images[2], images[0]) > 1e-3
    generator = torch.Generator().manual_seed(0)
    mean = torch.stack([march(field, camera, settings, jitter=generator) for _ in range(60)]).mean(0)
    fine = march(field, camera, MarchSettings(sampling_rate=40.0, backend=backend))
    # 60 draws of a deviation of about 0.01 of the image leave 1e-3 a pixel, a tenth of that in the mean of all
    assert (mean - fine).mean().abs() < 1e-3 * fine.max()
    settled = march(field, camera, dataclasses.replace(settings, start=1.0))
    assert (settled - fine).abs().mean() > 2 * (mean - fine).abs().mean()


def test_with_the_weights_of_ids_the_image_is_linear_in_their_colours(backend):
    ids = (6 * noise(*SIZE, seed=8)).long()
    extinction = colours()[-1]
    palette = noise(6, 3, seed=9)
    camera, settings = camera_of(), MarchSettings(backend=backend)
    weights = march_weights(ids, extinction, 6, OBLIQUE, camera, settings)
    painted = torch.cat([palette[ids].movedim(-1, 0), extinction[None]])
    image = march(Field(painted, OBLIQUE), camera, settings)
    # a drawing ends a ray where less than 1e-3 of it is left
    assert off(torch.einsum("nhw,nc->chw", weights, palette), image[:3]) < 2e-3
    assert weights.sum(0).numpy() == pytest.approx(image[3].numpy(), abs=2e-3)
    assert weights.shape == (6, 18, 16)


def test_samples_along_are_what_alpha_composites():
    field, camera = fields("table1"), camera_of()
    image = march(field, camera, MarchSettings(backend="torch"))
    found = torch.zeros(4, camera.image_size[0] * camera.image_size[1], dtype=torch.float64)
    for pixels, channels, inside in samples_along(field, camera):
        alpha = 1 - torch.exp(-torch.where(inside, channels[3], 0) * field.voxel_size)
        through = torch.cat([torch.ones_like(alpha[:1]), (1 - alpha).cumprod(0)])
        found[:3, pixels] = (channels[:3] * alpha * through[:-1]).sum(1)
        found[3, pixels] = 1 - through[-1]
    assert off(found.reshape(image.shape), image) < 1e-12


@pytest.mark.parametrize("accumulate", ["mip", "mean", "mida"])
def test_other_accumulators_show_what_their_names_say(accumulate):
    """Along i through two layers: the densest sample, the mean of all, and MIDA between alpha and the brightest."""
    field = slabs_of([0.05, 0.2], [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
    red, green, _, alpha = march(field, along_i(field), MarchSettings(accumulate=accumulate)).mean((1, 2)).tolist()
    dense, thin = 1 - math.exp(-0.2), 1 - math.exp(-0.05)
    if accumulate == "mip":
        assert (red, green, alpha) == pytest.approx((0, dense, dense), abs=1e-6)
    elif accumulate == "mean":
        assert red == pytest.approx(thin * 15 / 31, rel=0.05)  # 15 of the 31 samples
        assert green == pytest.approx(dense * 16 / 31, rel=0.05)
    else:
        plain = march(field, along_i(field), MarchSettings()).mean((1, 2)).tolist()
        assert red < plain[0]
        assert green > plain[1]


# --- the door


def test_bad_input_is_refused_in_words():
    camera, field = camera_of(), fields("values")
    with pytest.raises(SettingError, match="accumulate is one of alpha, mip, mean, mida, not 'max'"):
        MarchSettings(accumulate="max")
    with pytest.raises(SettingError, match="sampling_rate is a number of samples a voxel, above 0"):
        MarchSettings(sampling_rate=0.0)
    with pytest.raises(SettingError, match="start is a part of a step"):
        MarchSettings(start=0.0)
    with pytest.raises(SettingError, match="two bins and a rising range"):
        Table(table(23), ((5.0, 5.0),))
    with pytest.raises(ImageError, match="cannot have the shape"):
        Field(noise(*SIZE), OBLIQUE)
    with pytest.raises(ImageError, match=r"not torch\.int16"):
        Field(colours().short(), OBLIQUE)
    with pytest.raises(ImageError, match="Ids go from 0 to 2"):
        march_weights(torch.full(SIZE, 3), colours()[-1], 3, OBLIQUE, camera)
    with pytest.raises(BackendError, match="accumulate alpha and not mip"):
        march(field, camera, MarchSettings(accumulate="mip", backend="warp"))


def test_nothing_is_seen_beside_the_volume(backend):
    field, camera = fields("values"), camera_of()
    away = camera.world_from_camera.clone()
    away[:3, 2] *= -1  # it looks the other way, mirrored
    leaf = field.values.clone().requires_grad_()
    image = march(
        Field(leaf, OBLIQUE), dataclasses.replace(camera, world_from_camera=away), MarchSettings(backend=backend)
    )
    image.sum().backward()
    assert not image.any()
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_gradients_are_added_to_what_is_there():
    pytest.importorskip("warp")
    field, camera, settings = fields("values", torch.float32), camera_of(), MarchSettings(backend="warp")
    field.values.requires_grad_()
    rays = rays_of(field, camera, settings)
    image, kept = march_warp.project(field, rays, settings)
    once = torch.zeros_like(field.values)
    march_warp.adjoint(field, rays, settings, kept, torch.ones_like(image), Gradients(once, None, None))
    more = torch.full_like(field.values, 2.0)
    march_warp.adjoint(field, rays, settings, kept, torch.ones_like(image), Gradients(more, None, None))
    assert off(more - 2, once) < 1e-5


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives():
    for kind in ("values", "table1", "table2"):
        results = []
        for device in ("cpu", "cuda"):
            field, leaves = _leaves(fields(kind, torch.float32))
            there = Field(
                field.values.to(device),
                OBLIQUE,
                None if field.table is None else Table(field.table.entries.to(device), field.table.ranges),
            )
            image = march(there, camera_of(), MarchSettings(backend="warp"), leaves[-1])
            (image * image).sum().backward()
            results.append([image.detach().cpu(), *(leaf.grad for leaf in leaves)])
        for here, other in zip(*results, strict=True):
            assert off(other, here) < 1e-2 if here.shape == (6,) else off(other, here) < 1e-4
