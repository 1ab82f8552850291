"""Line integrals against judges that share no code with them: closed forms, the exact trilinear integral, Siddon,
finite differences. Every test runs both backends."""

import dataclasses
import functools
import math
import os
import signal

import judges
import numpy as np
import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.errors import BackendError, GeometryError, ImageError, LabelError, SettingError
from diffrender.physics.attenuation import hu_to_attenuation
from diffrender.pose import motion
from diffrender.rays.line import label_lengths
from diffrender.rays.prepared import prepare_labels

SIZE = (41, 50, 58)  # (k, j, i)
LATTICE = phantoms.oblique_lattice(spacing=(1.7, 2.1, 2.6))
BACKENDS = ("torch", "warp")
# Mostly along j, so that no ray changes its dominant axis within a finite difference; and askew to the voxels, so that
# no ray runs along a plane of voxel centres, where the interpolant has a kink and no derivative.
ALONG_J = tuple(LATTICE[:3, :3] @ [0.35, 1.0, -0.3])


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    if request.param == "warp":
        pytest.importorskip("warp")
    return request.param


@pytest.fixture(scope="module")
def smooth() -> dr.Volume:
    volume = phantoms.drawn(phantoms.smooth(phantoms.point_at(LATTICE, SIZE)), LATTICE, SIZE)
    return dataclasses.replace(volume, values=volume.values.double())


@pytest.fixture(scope="module")
def rough() -> dr.Volume:
    """Noise: every neighbour differs, so a wrong weight or a wrong neighbour shows."""
    values = torch.rand(SIZE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return dr.Volume(values, torch.from_numpy(phantoms.oblique_lattice((1.7, 2.1, 2.6), left_handed=True)))


def camera_of(volume: dr.Volume, **changes) -> dr.Camera:
    return phantoms.oblique_camera(volume.centre.numpy(), image_size=(23, 31), field=(120.0, 150.0), **changes)


def from_all_sides(volume: dr.Volume) -> list[dr.Camera]:
    """Along every axis both ways, in between, mirrored and not; the patient's far side nearer than the source."""
    ways = [(1, 0.2, 0.1), (-1, 0.1, 0.3), (0.2, 1, -0.1), (0.1, -1, 0.2), (0.1, 0.3, 1), (-0.2, 0.1, -1)]
    ways.append((1, 1.1, -0.9))
    return [camera_of(volume, along=way, mirrored=bool(n % 2)) for n, way in enumerate(ways)]


def rays_of(camera: dr.Camera) -> tuple[np.ndarray, np.ndarray]:
    """Source and unit directions, worked out here from the camera's numbers and not asked of the camera."""
    height, width = camera.image_size
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    row, column = camera.principal_point
    x = (columns - column) * camera.pixel_size[1]
    y = (rows - row) * camera.pixel_size[0]
    matrix = camera.world_from_camera.numpy()
    directions = np.stack([x, y, np.full_like(x, camera.source_to_detector)], -1).reshape(-1, 3) @ matrix[:3, :3].T
    return matrix[:3, 3], directions / np.linalg.norm(directions, axis=1, keepdims=True)


@functools.cache
def solid_in_a_volume(name: str):
    lattice, size = phantoms.oblique_lattice((0.3, 0.4, 0.5), left_handed=True), (146, 182, 242)
    solid = getattr(phantoms, name)(phantoms.point_at(lattice, size, (0.53, 0.47, 0.52)))
    return solid, phantoms.drawn(solid, lattice, size, value=1000.0)


@pytest.mark.parametrize("name", ["ellipsoid", "box"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_path_through_a_solid_is_its_chord(backend, name, dtype):
    solid, volume = solid_in_a_volume(name)
    camera = phantoms.oblique_camera(solid.centre)
    q = dr.prepare(volume.values.round().to(dtype), scale=1e-3)
    path = dr.line_integrals(q, volume.world_from_voxel, camera, backend=backend).numpy().ravel()
    chords = solid.chords(*rays_of(camera))
    # Edges are soft by a voxel of half a mm, so grazing rays are left out.
    assert (chords > 30).sum() > 200
    assert np.abs(path - chords)[chords > 30].max() < 0.3
    grown = {f: tuple(x + 3 for x in getattr(solid, f)) for f in ("radii", "half") if hasattr(solid, f)}
    misses = dataclasses.replace(solid, **grown).chords(*rays_of(camera)) == 0
    assert misses.sum() > 200
    assert np.abs(path[misses]).max() == 0


def test_meets_the_exact_trilinear_integral(backend, smooth):
    for camera in from_all_sides(smooth):
        p = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, backend=backend).numpy().ravel()
        exact = judges.trilinear_integral(smooth.values, LATTICE, *rays_of(camera))
        # Joseph's trapezoid over slices against a cubic within each cell: 0.2 % is what the design allows.
        assert np.linalg.norm(p - exact) < 2e-3 * np.linalg.norm(exact)
        assert np.linalg.norm(exact) > 1


def test_real_ct_meets_the_exact_integral_and_siddon(backend, real_data):
    volume = dr.read_volume(real_data("ct-abdomenpelvis-totalseg", "ct.nii.gz"))
    mu = hu_to_attenuation(volume.values).double()
    lattice = volume.world_from_voxel.numpy()
    for primary, secondary in ((0, 0), (35, -20), (90, 0)):
        camera = dr.c_arm(volume, primary, secondary, image_size=(24, 26), pixel_size=(17.0, 16.0))
        p = dr.line_integrals(mu, volume.world_from_voxel, camera, backend=backend).numpy().ravel()
        exact = judges.trilinear_integral(mu, lattice, *rays_of(camera))
        boxes = judges.siddon(mu, lattice, *rays_of(camera))

        def difference(a, b):
            return np.linalg.norm(a - b) / np.linalg.norm(b)

        assert difference(p, exact) < 2e-3
        assert difference(p, boxes) < difference(exact, boxes) + 1e-3


def test_steep_rays_through_noise_stay_near_the_exact_integral(backend, rough):
    """Oblique to all three axes through noise, the worst case for one sample in a slice (2.4 %; with two 0.9 %)."""
    camera = camera_of(rough, along=tuple(rough.world_from_voxel[:3, :3].numpy() @ [1.0, 0.93, -0.9]))
    p = dr.line_integrals(rough.values, rough.world_from_voxel, camera, backend=backend).numpy().ravel()
    exact = judges.trilinear_integral(rough.values, rough.world_from_voxel.numpy(), *rays_of(camera))
    assert np.linalg.norm(p - exact) < 1.2e-2 * np.linalg.norm(exact)


def test_twin_and_kernel_sum_the_same(rough):
    pytest.importorskip("warp")
    for camera in from_all_sides(rough):
        results = [
            dr.line_integrals_with_jacobian(rough.values, rough.world_from_voxel, camera, backend=b) for b in BACKENDS
        ]
        for plain, fused in zip(*results, strict=True):
            assert (plain - fused).abs().max() < 1e-11 * plain.abs().max()


def test_rays_start_at_the_source_inside_the_patient(backend, smooth):
    """A source among the Gaussians: against the closed form of the half line, and against the exact integral."""
    source = phantoms.point_at(LATTICE, SIZE, (0.61, 0.47, 0.44))
    for way in [(1, 0.4, 0.1), (-1, 0.3, 0.6), (0.2, -1, 0.5), (-0.1, 0.3, 1.0), (0.2, 0.1, -1.0)]:
        placed = camera_of(smooth, along=way)
        matrix = placed.world_from_camera.clone()
        matrix[:3, 3] = torch.from_numpy(source)
        camera = dataclasses.replace(placed, world_from_camera=matrix)
        p = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, backend=backend).numpy().ravel()
        exact = judges.trilinear_integral(smooth.values, LATTICE, *rays_of(camera))
        assert np.linalg.norm(p - exact) < 3e-3 * np.linalg.norm(exact)
        # The Gaussians are cut at the volume's border and linear between voxels: 1 % of the closed form.
        closed = phantoms.smooth(phantoms.point_at(LATTICE, SIZE)).integrals(*rays_of(camera))
        assert np.linalg.norm(p - closed) < 2e-2 * np.linalg.norm(closed)


def test_nothing_behind_the_source_is_seen(backend, smooth):
    camera = camera_of(smooth)
    matrix = camera.world_from_camera.clone()
    matrix[:3, :3] = -matrix[:3, :3]
    away = dataclasses.replace(camera, world_from_camera=matrix)
    assert dr.line_integrals(smooth.values, smooth.world_from_voxel, away, backend=backend).abs().max() == 0
    assert dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, backend=backend).abs().max() > 0.1


def test_moving_patient_and_camera_together_changes_nothing(backend, smooth):
    xi = torch.tensor([13.0, -7.0, 21.0, 0.3, -0.5, 0.9], dtype=torch.float64)
    camera = camera_of(smooth)
    moved = dataclasses.replace(camera, world_from_camera=motion(xi, smooth.centre) @ camera.world_from_camera)
    here = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, backend=backend)
    there = dr.line_integrals(smooth.values, smooth.world_from_voxel, moved, xi=xi, backend=backend)
    lattice = dr.moved(smooth, xi).world_from_voxel
    also = dr.line_integrals(smooth.values, lattice, moved, backend=backend)
    assert (there - here).abs().max() < 1e-9
    assert (also - here).abs().max() < 1e-9


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("about", [None, (12.0, -31.0, 5.0)])
def test_jacobian_and_pose_gradient_meet_finite_differences(backend, smooth, inside, about):
    camera = camera_of(smooth, along=ALONG_J)
    if inside:
        matrix = camera.world_from_camera.clone()
        matrix[:3, 3] = torch.from_numpy(phantoms.point_at(LATTICE, SIZE, (0.6, 0.4, 0.5)))
        camera = dataclasses.replace(camera, world_from_camera=matrix)
    centre = None if about is None else torch.tensor(about, dtype=torch.float64)
    xi = torch.tensor([3.0, -2.0, 4.0, 0.02, -0.04, 0.03], dtype=torch.float64)

    def p_at(x):
        return dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, xi=x, backend=backend, centre=centre)

    p, jacobian = dr.line_integrals_with_jacobian(
        smooth.values, smooth.world_from_voxel, camera, xi=xi, backend=backend, centre=centre
    )
    step = 1e-5
    differences = [(p_at(xi + step * e) - p_at(xi - step * e)) / (2 * step) for e in torch.eye(6, dtype=torch.float64)]
    finite = torch.stack(differences, -1)
    assert (p - p_at(xi)).abs().max() < 1e-12 * p.max()
    for n in range(6):
        # The discrete sum's own derivative: only rays that change their dominant axis within the step differ.
        assert (jacobian[..., n] - finite[..., n]).norm() < 1e-3 * finite[..., n].norm()
    leaf = xi.clone().requires_grad_()
    weight = torch.rand(p.shape, generator=torch.Generator().manual_seed(8), dtype=p.dtype)
    (p_at(leaf) * weight).sum().backward()
    assert (leaf.grad - torch.einsum("hw,hwn->n", weight, finite)).norm() < 1e-3 * leaf.grad.norm()


def test_jacobian_meets_differences_of_the_exact_integral(backend, smooth):
    """Not only its own derivative: that of the trilinear interpolant, moved by a matrix made here."""
    camera = camera_of(smooth, along=ALONG_J)
    _, jacobian = dr.line_integrals_with_jacobian(smooth.values, smooth.world_from_voxel, camera, backend=backend)
    middle = LATTICE @ [*(np.array(SIZE[::-1]) - 1) / 2, 1.0]
    step = 1e-3
    for n in range(6):
        ends = []
        for sign in (1, -1):
            angles, shift = np.zeros(3), np.zeros(3)
            (shift if n < 3 else angles)[n % 3] = sign * step
            turn = phantoms.rotation(*np.degrees(angles))
            lattice = LATTICE.copy()
            lattice[:3, :3] = turn @ LATTICE[:3, :3]
            lattice[:3, 3] = turn @ (LATTICE[:3, 3] - middle[:3]) + middle[:3] + shift
            ends.append(judges.trilinear_integral(smooth.values, lattice, *rays_of(camera)))
        finite = (ends[0] - ends[1]) / (2 * step)
        # The interpolant has kinks at every voxel, the trapezoid other ones: 3 % of the slope, not of the picture.
        assert np.linalg.norm(jacobian[..., n].numpy().ravel() - finite) < 3e-2 * np.linalg.norm(finite)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("inside", [False, True])
def test_volume_gradient_is_the_transpose(backend, rough, threads, inside):
    """p is linear in the values: <g, p(v)> = <grad, v> for all v, and the gradient meets autograd of the twin."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cameras = from_all_sides(rough)[::3]
        if inside:
            matrix = cameras[0].world_from_camera.clone()
            matrix[:3, 3] = rough.centre + torch.tensor([7.0, 3.0, -9.0])
            cameras[0] = dataclasses.replace(cameras[0], world_from_camera=matrix)
        values = rough.values.clone().requires_grad_()
        p = dr.line_integrals(values, rough.world_from_voxel, cameras, backend=backend)
        g = torch.rand(p.shape, generator=torch.Generator().manual_seed(5), dtype=p.dtype)
        (p * g).sum().backward()
        other = torch.rand(SIZE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        through = (dr.line_integrals(other, rough.world_from_voxel, cameras, backend=backend) * g).sum()
        assert math.isclose((values.grad * other).sum().item(), through.item(), rel_tol=1e-11)
        twin = rough.values.clone().requires_grad_()
        (dr.line_integrals(twin, rough.world_from_voxel, cameras, backend="torch") * g).sum().backward()
        assert (values.grad - twin.grad).norm() < 1e-4 * twin.grad.norm()
        assert (values.grad != 0).float().mean() > 0.3
    finally:
        torch.set_num_threads(before)


def test_int16_stays_int16_and_gives_the_same(backend, real_data):
    volume = dr.read_volume(real_data("ct-abdomenpelvis-totalseg", "ct.nii.gz"))
    assert volume.values.dtype == torch.int16
    camera = dr.preset("pelvis-ap", volume, image_size=(40, 44))
    q = dr.prepare(volume.values, scale=2e-5, offset=2e-2, floor=-1000.0)
    assert q.padded.dtype == torch.int16
    stored = dr.line_integrals(q, volume.world_from_voxel, camera, backend=backend)
    mu = volume.values.clamp(min=-1000).double() * 2e-5 + 2e-2
    made = dr.line_integrals(mu, volume.world_from_voxel, camera, backend=backend)
    assert stored.dtype == torch.float32
    assert (stored - made).norm() < 1e-6 * made.norm()


def test_gradient_flows_through_prepare_with_scale_and_floor(backend):
    values = torch.tensor([-1500.0, -900.0, 40.0, 700.0]).repeat(60).reshape(4, 6, 10).requires_grad_()
    lattice = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    camera = dr.c_arm((10.0, 8.0, 6.0), 20, 10, pixel_size=(9.0, 7.0), image_size=(8, 9))
    q = dr.prepare(values, scale=2e-5, offset=2e-2, floor=-1000.0)
    dr.line_integrals(q, lattice, camera, backend=backend).sum().backward()
    ones = torch.ones(4, 6, 10, requires_grad=True)
    dr.line_integrals(ones, lattice, camera, backend=backend).sum().backward()
    expected = torch.where(values.detach() > -1000, 2e-5 * ones.grad, 0.0)
    assert (values.grad - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_results_have_the_dtype_of_floating_input(backend, dtype):
    values = torch.ones((5, 6, 7), dtype=dtype)
    lattice = torch.eye(4, dtype=torch.float64)
    camera = dr.c_arm((3.0, 2.5, 2.0), pixel_size=(1.0, 1.5), image_size=(6, 5))
    assert dr.line_integrals(values, lattice, camera, backend=backend).dtype == dtype
    assert dr.line_integrals(values.to(torch.int16), lattice, camera, backend=backend).dtype == torch.float32


def test_a_pose_alone_and_in_a_batch_are_equal(backend, smooth):
    values = smooth.values.float()
    generator = torch.Generator().manual_seed(1)
    xi = torch.randn((8, 6), generator=generator) * torch.tensor([9.0, 9, 9, 0.2, 0.2, 0.2])
    cameras = [camera_of(smooth, along=(0.6, 0.7 + 0.1 * n, 0.3)) for n in range(8)]
    batch = dr.line_integrals(values, smooth.world_from_voxel, cameras, xi=xi, backend=backend)
    assert batch.shape == (8, 23, 31)
    for n in (0, 3, 7):
        alone = dr.line_integrals(values, smooth.world_from_voxel, cameras[n], xi=xi[n], backend=backend)
        assert (alone - batch[n]).abs().max() <= 1e-6 * alone.abs().max()
    one_camera = dr.line_integrals(values, smooth.world_from_voxel, cameras[2], xi=xi, backend=backend)
    assert torch.equal(one_camera[2], batch[2])


@pytest.mark.parametrize("shape", ["one of one", "one for all", "one each"])
def test_gradients_of_a_batch_have_the_shape_of_the_motions(backend, smooth, shape):
    cameras = [camera_of(smooth, along=(0.6, 0.7 + 0.2 * n, 0.3)) for n in range(3)]
    xi = torch.full((1, 6) if shape == "one of one" else (6,) if shape == "one for all" else (3, 6), 0.02)
    leaf = xi.double().requires_grad_()
    dr.line_integrals(smooth.values, smooth.world_from_voxel, cameras, xi=leaf, backend=backend).sum().backward()
    parts = []
    for n, camera in enumerate(cameras):
        own = (xi if xi.ndim == 1 else xi[n % len(xi)]).double().requires_grad_()
        dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, xi=own, backend=backend).sum().backward()
        parts.append(own.grad)
    expected = torch.stack(parts) if shape == "one each" else torch.stack(parts).sum(0).reshape(leaf.shape)
    assert (leaf.grad - expected).norm() < 1e-9 * expected.norm()


def test_sparse_rays_are_those_of_the_image(backend, smooth):
    camera = camera_of(smooth)
    whole, jacobian = dr.line_integrals_with_jacobian(smooth.values, smooth.world_from_voxel, camera, backend=backend)
    pixels = torch.tensor([[4.5, 9.5], [20.5, 3.5], [11.5, 30.5]], dtype=torch.float64)
    few = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, pixels=pixels, backend=backend)
    assert (few - whole[[4, 20, 11], [9, 3, 30]]).abs().max() < 1e-12
    _, j = dr.line_integrals_with_jacobian(
        smooth.values, smooth.world_from_voxel, camera, pixels=pixels, backend=backend
    )
    assert (j - jacobian[[4, 20, 11], [9, 3, 30]]).abs().max() < 1e-9
    # Between two pixels lies their mean, on a picture this smooth to a few percent
    between = torch.tensor([[11.0, 14.0]], dtype=torch.float64)
    value = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, pixels=between, backend=backend)
    assert math.isclose(value.item(), whole[10:12, 13:15].mean().item(), rel_tol=0.03)
    none = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, pixels=pixels[:0], backend=backend)
    assert none.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int16])
def test_a_level_of_the_pyramid_lies_where_the_volume_lies(backend, dtype):
    size, lattice = (45, 51, 59), phantoms.oblique_lattice((1.5, 1.9, 2.3))  # odd: the last voxel pairs with air
    solid = phantoms.ellipsoid(phantoms.point_at(lattice, size))
    volume = phantoms.drawn(solid, lattice, size, value=1000.0)
    camera = phantoms.oblique_camera(solid.centre, image_size=(30, 26), field=(120.0, 130.0))
    q = dr.prepare((volume.values - 1000).to(dtype), scale=1e-3, offset=1.0)
    fine, *coarse = (
        dr.line_integrals(q.level(n), volume.world_from_voxel, camera, backend=backend).double() for n in range(3)
    )
    assert [q.level(n).shape for n in range(3)] == [(45, 51, 59), (23, 26, 30), (12, 13, 15)]
    rows, columns = torch.meshgrid(torch.arange(30.0), torch.arange(26.0), indexing="ij")
    for image in coarse:
        assert math.isclose(image.sum().item(), fine.sum().item(), rel_tol=5e-3)  # nothing is lost
        for grid in (rows, columns):  # and nothing moved: half a voxel would be half a pixel
            shift = (image * grid).sum() / image.sum() - (fine * grid).sum() / fine.sum()
            assert abs(shift) < 0.06
    assert q.level(2) is q.level(2)


def test_labels_add_up_to_the_whole(backend):
    """Every voxel has a label, so the paths add up to the path through a volume of ones."""
    labels = torch.randint(1, 6, SIZE, generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    volume = dr.Volume(torch.ones(SIZE), torch.from_numpy(LATTICE), unit="arbitrary")
    for camera in from_all_sides(volume):
        q = dr.prepare(volume.values)
        ready = prepare_labels(labels, range(1, 6))
        p = dr.line_integrals(q, volume.world_from_voxel, camera, backend=backend)
        lengths = label_lengths(q, ready, volume.world_from_voxel, camera, backend)
        assert lengths.shape == (5, *camera.image_size)
        assert (lengths.sum(0) - p).abs().max() < 1e-4 * p.max()
        for n in (1, 4):
            one = dr.line_integrals((labels == n).float(), volume.world_from_voxel, camera, backend=backend)
            assert (lengths[n - 1] - one).abs().max() < 1e-4 * p.max()


def test_overlapping_labels_each_keep_their_own_path(backend):
    layers = torch.zeros((4, *SIZE), dtype=torch.bool)
    layers[0, 5:25, 10:40, 8:50] = True
    layers[1, 15:35, 5:30, 20:45] = True  # crosses the first
    layers[2, 18:22, 12:20, 22:30] = True  # inside both
    volume = dr.Volume(torch.rand(SIZE), torch.from_numpy(LATTICE), unit="arbitrary")  # the fourth stays empty
    q, ready = dr.prepare(volume.values), prepare_labels(layers, (7, 9, 30, 31))
    for camera in from_all_sides(volume)[:4]:
        lengths = label_lengths(q, ready, volume.world_from_voxel, camera, backend)
        for layer, length in zip(layers, lengths, strict=True):
            alone = dr.line_integrals(layer.float(), volume.world_from_voxel, camera, backend=backend)
            assert (length - alone).abs().max() < 1e-4 * (1 + alone.max())


def test_labels_seen_from_inside(backend):
    labels = torch.randint(1, 4, SIZE, generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    labels[18:24, 22:28, 26:33] = 2  # the source's own neighbourhood is one label, as a patient's would be
    volume = dr.Volume(torch.ones(SIZE), torch.from_numpy(LATTICE), unit="arbitrary")
    placed = camera_of(volume, along=(0.5, 1.0, 0.2))
    matrix = placed.world_from_camera.clone()
    matrix[:3, 3] = torch.from_numpy(phantoms.point_at(LATTICE, SIZE, (0.51, 0.5, 0.52)))
    camera = dataclasses.replace(placed, world_from_camera=matrix)
    q = dr.prepare(volume.values)
    p = dr.line_integrals(q, volume.world_from_voxel, camera, backend=backend)
    lengths = label_lengths(q, prepare_labels(labels, (1, 2, 3)), volume.world_from_voxel, camera, backend)
    one = dr.line_integrals((labels == 2).float(), volume.world_from_voxel, camera, backend=backend)
    assert (lengths[1] - one).abs().max() < 1e-4 * p.max()
    assert (lengths.sum(0) - p).abs().max() < 1e-4 * p.max()


def test_more_than_128_labels_take_several_passes():
    with pytest.raises(LabelError, match="129 labels are asked for; one pass projects up to 128"):
        prepare_labels(torch.zeros((3, 3, 3), dtype=torch.uint8), range(1, 130))


def test_what_cannot_be_is_refused(smooth):
    camera, lattice = camera_of(smooth), smooth.world_from_voxel
    with pytest.raises(SettingError, match="backend is one of auto, torch, warp, not 'cuda'"):
        dr.line_integrals(smooth.values, lattice, camera, backend="cuda")
    with pytest.raises(GeometryError, match="images have one size"):
        dr.line_integrals(smooth.values, lattice, [camera, camera.resized((5, 5))])
    with pytest.raises(GeometryError, match="2 cameras and 3 motions do not pair"):
        dr.line_integrals(smooth.values, lattice, [camera, camera], xi=torch.zeros(3, 6))
    with pytest.raises(GeometryError, match="six finite numbers"):
        dr.line_integrals(smooth.values, lattice, camera, xi=torch.full((6,), torch.nan))
    with pytest.raises(ImageError, match="three axes"):
        dr.prepare(torch.zeros(3, 0, 4))
    with pytest.raises(SettingError, match=r"scale 0\.0"):
        dr.prepare(smooth.values, scale=0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"world_from_voxel": torch.eye(4) + 0.3 * torch.eye(4)[[1, 2, 0, 3]].triu(1)}, "world_from_voxel is sheared"),
        ({"world_from_voxel": torch.full((4, 4), torch.nan)}, "finite 4 x 4"),
        ({"world_from_voxel": torch.eye(4).requires_grad_()}, "world_from_voxel carries a gradient that would be lost"),
        ({"centre": torch.tensor([0.0, torch.nan, 0.0])}, "three finite numbers"),
        ({"xi": torch.zeros(0, 6)}, r"Motions are \(6,\) or \(n, 6\)"),
        ({"xi": torch.zeros(2, 2, 6)}, r"Motions are \(6,\) or \(n, 6\)"),
        ({"pixels": torch.tensor([[0.5, torch.inf]])}, "finite positions"),
    ],
)
def test_geometry_that_cannot_be_is_refused_at_the_door(smooth, change, words):
    given = {"world_from_voxel": smooth.world_from_voxel, "camera": camera_of(smooth), **change}
    with pytest.raises((GeometryError, SettingError), match=words):
        dr.line_integrals(smooth.values, **given)


def test_more_that_cannot_be_prepared():
    values = torch.zeros(3, 4, 5)
    with pytest.raises(SettingError, match=r"floor is .* a finite number, not nan"):
        dr.prepare(values, floor=math.nan)
    with pytest.raises(ImageError, match="real number"):
        dr.prepare(values.to(torch.complex64))
    with pytest.raises(SettingError, match=r"whole number from 0, the finest, not -1"):
        dr.prepare(values).level(-1)
    assert repr(dr.prepare(values, 2e-5, 0.02)) == (
        "Prepared(5 x 4 x 3 voxels (i x j x k), float32, * 2e-05 + 0.02 = 1/mm)"
    )


def test_inference_mode_gives_the_same(backend, smooth):
    camera = camera_of(smooth)
    plain = dr.line_integrals_with_jacobian(smooth.values, smooth.world_from_voxel, camera, backend=backend)
    xi = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        quick = dr.line_integrals_with_jacobian(smooth.values, smooth.world_from_voxel, camera, backend=backend)
        p = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, xi=xi, backend=backend)
    for one, other in zip(plain, quick, strict=True):
        assert torch.equal(one, other)
    assert (p - plain[0]).abs().max() < 1e-12


@pytest.mark.parametrize("where", [-1.4, -0.6, -0.001, 0.001, 0.6, 1.4])
def test_a_source_beside_the_volume_is_exact_too(backend, where):
    """A source within a voxel of the border: the ray's first step may still end inside."""
    size, lattice = (20, 18, 22), phantoms.oblique_lattice((1.7, 2.1, 2.6))
    values = torch.rand(size, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1
    voxel = torch.tensor([size[2] + where, 7.3, 8.6, 1.0], dtype=torch.float64)  # about where the fall to air ends
    source = torch.from_numpy(lattice) @ voxel
    placed = phantoms.oblique_camera(
        np.zeros(3), along=tuple(-lattice[:3, 0] + 1.2 * lattice[:3, 1]), image_size=(9, 11)
    )
    matrix = placed.world_from_camera.clone()
    matrix[:, 3] = source
    camera = dataclasses.replace(placed, world_from_camera=matrix)
    p = dr.line_integrals(values, torch.from_numpy(lattice), camera, backend=backend).numpy().ravel()
    exact = judges.trilinear_integral(values, lattice, *rays_of(camera))
    # Steps of up to 3 mm through noise between 1 and 2: the trapezoid's own error is 2 %, half a step's would be 4.
    assert np.abs(p - exact).max() < 1.0
    assert np.linalg.norm(p - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_renders(smooth):
    pytest.importorskip("warp")
    camera = camera_of(smooth).resized((128, 128))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        q = dr.prepare(smooth.values)  # here: torch's own threads do not live on in the child either
        here = dr.line_integrals(q, smooth.world_from_voxel, camera, backend="warp")
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a hang ends the child with a signal, and the test with it
            same = torch.equal(here, dr.line_integrals(q, smooth.world_from_voxel, camera, backend="warp"))
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


def test_auto_works_without_warp_and_warp_by_name_says_why(smooth, monkeypatch):
    from diffrender.rays import warp_runtime

    monkeypatch.setattr(warp_runtime, "start", lambda: None)
    camera = camera_of(smooth)
    plain = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera)
    twin = dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, backend="torch")
    assert torch.equal(plain, twin)
    with pytest.raises(BackendError, match="warp-lang is not installed; `pip install warp-lang` brings it"):
        dr.line_integrals(smooth.values, smooth.world_from_voxel, camera, backend="warp")


@pytest.mark.cuda
@pytest.mark.parametrize("cuda_backend", ["torch", "warp"])
def test_cuda_gives_what_the_cpu_gives(smooth, cuda_backend):
    camera = camera_of(smooth)
    xi = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    values = smooth.values.detach().cuda().requires_grad_()
    p = dr.line_integrals(values, smooth.world_from_voxel, camera, xi=xi, backend=cuda_backend)
    p.sum().backward()
    here = smooth.values.detach().clone().requires_grad_()
    xi_here = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    q = dr.line_integrals(here, smooth.world_from_voxel, camera, xi=xi_here, backend="torch")
    q.sum().backward()
    assert p.device.type == "cuda"
    assert (p.cpu() - q).norm() < 1e-9 * q.norm()
    assert (values.grad.cpu() - here.grad).norm() < 1e-9 * here.grad.norm()
    assert (xi.grad - xi_here.grad).norm() < 1e-9 * xi_here.grad.norm()
