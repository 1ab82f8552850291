"""Path lengths through meshes against judges that share no code with them: closed forms, every ray against every face,
embree, autograd, finite differences. Every test runs both backends."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import surfaces
import torch

import diffrender as dr
import phantoms
from diffrender.errors import BackendError, GeometryError, MeshError, Notice, SettingError
from diffrender.pose import motion
from diffrender.rays.surface import path_lengths_with_jacobian, surface_pass
from diffrender.rays.surface_torch import GRAZING
from diffrender.xray import radiograph_of_meshes

CENTRE = np.array([14.0, -23.0, 31.0])
SIZE = (40, 34)
XI = torch.tensor([1.5, -2.0, 0.8, 0.13, -0.21, 0.17], dtype=torch.float64)
WAYS = [(1, 0.2, 0.1), (-1, 0.1, 0.3), (0.2, 1, -0.1), (0.1, -1, 0.2), (0.1, 0.3, 1), (-0.2, 0.1, -1)]


@pytest.fixture(params=["torch", "warp"])
def backend(request) -> str:
    if request.param == "warp":
        pytest.importorskip("warp")
    return request.param


@pytest.fixture(scope="module")
def egg() -> dr.Mesh:
    return surfaces.of_ellipsoid(phantoms.ellipsoid(CENTRE), 2)


def camera_at(target=CENTRE, **changes) -> dr.Camera:
    """Oblique, oblong pixels, the principal point off centre, the target off centre."""
    return phantoms.oblique_camera(np.asarray(target) + np.array([5.0, -3.0, 4.0]), **({"image_size": SIZE} | changes))


def within(camera: dr.Camera, point, focal: float = 40.0) -> dr.Camera:
    """The same way of looking, wide, from a point inside."""
    matrix = camera.world_from_camera.clone()
    matrix[:3, 3] = torch.as_tensor(point)
    return dataclasses.replace(camera, world_from_camera=matrix, source_to_detector=focal)


def rays_of(camera: dr.Camera) -> tuple[np.ndarray, np.ndarray]:
    """Source and unit directions (h, w, 3), worked out here from the camera's numbers and not asked of the camera."""
    height, width = camera.image_size
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    row, column = camera.principal_point
    x, y = (columns - column) * camera.pixel_size[1], (rows - row) * camera.pixel_size[0]
    matrix = camera.world_from_camera.numpy()
    directions = np.stack([x, y, np.full_like(x, camera.source_to_detector)], -1) @ matrix[:3, :3].T
    return matrix[:3, 3], directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def judged(mesh: dr.Mesh, camera: dr.Camera) -> tuple[torch.Tensor, torch.Tensor]:
    lengths, cosine = surfaces.cast(mesh, *rays_of(camera))
    return lengths.reshape(camera.image_size), cosine.reshape(camera.image_size)


@pytest.mark.parametrize("mirrored", [False, True])
def test_path_through_a_solid_is_its_chord(backend, mirrored):
    ellipsoid, box = phantoms.ellipsoid(CENTRE), phantoms.box(CENTRE)
    mesh = surfaces.of_ellipsoid(ellipsoid, 4)
    for way in WAYS[mirrored::2]:
        camera = camera_at(along=way, mirrored=mirrored)
        chords = ellipsoid.chords(*rays_of(camera))
        lengths = dr.path_lengths(mesh, camera, backend=backend).numpy()
        assert (chords > 20).sum() > 200
        # An inscribed mesh of 4.5 mm sides lies 0.04 mm within its ellipsoid in the mean, on either side.
        assert np.median(np.abs(lengths - chords)[chords > 0]) < 0.15
        assert np.abs(lengths - chords)[chords > 20].max() < 0.4
        assert lengths[ellipsoid.chords(*rays_of(camera)) == 0].max() == 0
        chords = box.chords(*rays_of(camera))
        lengths = dr.path_lengths(surfaces.of_box(box), camera, backend=backend).numpy()
        # A box is its own mesh. Corners are float32: 4e-6 mm, times the slope of a face that is nearly on edge.
        assert np.abs(lengths - chords).max() < 2e-3
        assert np.median(np.abs(lengths - chords)[chords > 0]) < 1e-5


@functools.cache
def shaken(way: tuple[float, float, float], mirrored: bool) -> tuple[dr.Mesh, dr.Camera, torch.Tensor]:
    """A surface that runs through itself, a camera, and what the judge says."""
    vertices, faces = surfaces.icosphere(2)
    moved = vertices * [35, 26, 22] + np.random.default_rng(3).normal(size=vertices.shape) * 4 + CENTRE
    mesh, camera = dr.Mesh(torch.from_numpy(moved), torch.from_numpy(faces)), camera_at(along=way, mirrored=mirrored)
    return mesh, camera, judged(mesh, camera)[0]


@pytest.mark.parametrize("way", WAYS[::2])
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_ray_against_every_face(backend, way, mirrored):
    """A judge without projection, rasteriser or sorting."""
    mesh, camera, lengths = shaken(way, mirrored)
    found = surface_pass(mesh, camera, backend=backend)
    assert found.lengths.dtype == torch.float64
    assert not found.unbalanced.any()
    # Pixels nearer to an edge than 1e-5 px may go to the other face.
    assert (found.lengths - lengths).abs().median() < 1e-9
    assert (found.lengths - lengths).abs().max() < 1e-3
    assert lengths.max() > 30


def test_embree_meets_the_same_surface(backend, egg):
    trimesh = pytest.importorskip("trimesh")
    intersector = pytest.importorskip("trimesh.ray.ray_pyembree")
    camera = camera_at(image_size=(60, 52))
    source, directions = rays_of(camera)
    shape = trimesh.Trimesh(egg.vertices.numpy(), egg.faces.numpy(), process=False)
    d = directions.reshape(-1, 3)
    at, ray, face = intersector.RayMeshIntersector(shape).intersects_location(np.broadcast_to(source, d.shape), d)
    leaves = np.sign(np.einsum("nx,nx->n", shape.face_normals[face], d[ray]))
    expected = np.bincount(ray, leaves * np.linalg.norm(at - source, axis=1), minlength=len(d))
    closed = np.bincount(ray, leaves, minlength=len(d)) == 0  # embree may miss a face at its edge
    lengths = dr.path_lengths(egg, camera, backend=backend).numpy().ravel()
    assert closed.mean() > 0.99
    assert np.median(np.abs(lengths - expected)[closed & (expected > 0)]) < 1e-3  # float32 at 400 mm from the source


def test_pixels_on_vertices_and_edges_count_once(backend):
    """Every vertex of the box's front lies on a pixel's centre, and every diagonal runs through some."""
    box = phantoms.Box(np.array([0.0, 0, 0]), (20.0, 16.0, 10.0), np.eye(3))
    for axes in (np.eye(3), np.diag([1.0, -1, -1]), np.diag([-1.0, 1, 1])):  # the last one mirrors
        matrix = np.eye(4)
        matrix[:3, :3] = axes
        matrix[:3, 3] = axes[:, 2] * -74.0  # the front at 64 mm, so that 1 mm there is 2 pixels of 0.5 mm
        camera = dr.Camera(torch.from_numpy(matrix), 64.0, (0.5, 0.5), (90, 100), (44.5, 51.5))
        for times in (0, 2):
            mesh = surfaces.of_box(box, times)
            found = surface_pass(mesh, camera, backend=backend)
            assert not found.unbalanced.any()
            lengths = found.lengths.numpy()
            chords = box.chords(*rays_of(camera))
            inner = np.zeros(camera.image_size, dtype=bool)
            inner[44 - 31 : 44 + 32, 51 - 39 : 51 + 40] = True  # within the front's rim
            assert np.abs(lengths - chords)[inner].max() < 1e-4
            # Its rim runs through centres too, and of two opposite sides one counts: the front alone, which is open.
            near = ((mesh.vertices @ camera.direction.float())[mesh.faces] < -9.9).all(1)
            front = surface_pass(dr.Mesh(mesh.vertices, mesh.faces[near]), camera, backend=backend).unbalanced
            assert (int(front.any(1).sum()), int(front.any(0).sum()), int(front.sum())) == (64, 80, 64 * 80)


def test_bodies_are_measured_by_themselves_and_move_as_one(backend, egg):
    box = surfaces.of_box(phantoms.box(CENTRE + np.array([18.0, -9.0, 7.0])))
    cameras = [camera_at(along=WAYS[2]), camera_at(along=WAYS[5], mirrored=True)]
    both = dr.path_lengths([egg, box], cameras[0], backend=backend)
    assert both.shape == (2, *SIZE)
    for body, lengths in zip((egg, box), both, strict=True):
        assert torch.equal(lengths, dr.path_lengths(body, cameras[0], backend=backend))
    assert ((both > 1).sum(0) == 2).sum() > 50
    bounds = torch.stack([egg.bounds, box.bounds])
    middle = (bounds[:, 0].amin(0) + bounds[:, 1].amax(0)) / 2
    together = dr.path_lengths([egg, box], cameras, XI, backend=backend)
    assert together.shape == (2, 2, *SIZE)
    for n, body in enumerate((egg, box)):
        alone = dr.path_lengths(body, cameras, XI, centre=middle, backend=backend)
        assert (together[:, n] - alone).abs().max() < 1e-4


def test_moved_mesh_and_motion_agree(backend, egg):
    camera = camera_at()
    by_xi = dr.path_lengths(egg, camera, XI, backend=backend)
    by_vertices = dr.path_lengths(dr.moved(egg, XI), camera, backend=backend)
    lengths, _ = judged(dr.moved(egg, XI), camera)
    # float32 vertices are rounded once more when they are moved: 4e-6 mm, times a grazing face's slope
    assert (by_xi - by_vertices).abs().max() < 1e-3
    assert (by_xi - lengths).abs().median() < 1e-5
    assert (by_xi - dr.path_lengths(egg, camera, backend=backend)).abs().max() > 1
    about = torch.tensor([40.0, 10.0, -20.0], dtype=torch.float64)
    elsewhere = dr.path_lengths(egg, camera, XI, centre=about, backend=backend)
    assert (elsewhere - dr.path_lengths(dr.moved(egg, XI, about), camera, backend=backend)).abs().max() < 1e-3


def test_mesh_and_camera_moved_together_change_nothing(backend, egg):
    camera = camera_at()
    carried = motion(XI, egg.centre) @ camera.world_from_camera
    moved = dr.path_lengths(egg, dataclasses.replace(camera, world_from_camera=carried), XI, backend=backend)
    assert (moved - dr.path_lengths(egg, camera, backend=backend)).abs().max() < 1e-4


def test_a_batch_is_its_members(backend, egg):
    cameras = [camera_at(along=way, mirrored=bool(n % 2)) for n, way in enumerate(WAYS[:3])]
    poses = torch.stack([XI, -XI, 0.5 * XI]).requires_grad_()
    vertices = egg.vertices.clone().requires_grad_()
    images = dr.path_lengths(dr.Mesh(vertices, egg.faces), cameras, poses, backend=backend)
    assert images.shape == (3, *SIZE)
    weights = torch.linspace(-1, 2, images.numel()).reshape(images.shape)
    (images * weights).sum().backward()
    total = torch.zeros_like(vertices)
    for n in range(3):
        pose = poses[n].detach().clone().requires_grad_()
        own = egg.vertices.clone().requires_grad_()
        image = dr.path_lengths(dr.Mesh(own, egg.faces), cameras[n], pose, backend=backend)
        (image * weights[n]).sum().backward()
        assert torch.equal(image, images[n])
        assert torch.equal(pose.grad, poses.grad[n])
        total += own.grad
    torch.testing.assert_close(vertices.grad, total, rtol=1e-5, atol=1e-5)  # three float32 summed in two orders
    one = XI.clone().requires_grad_()
    (dr.path_lengths(egg, cameras, one, backend=backend) * weights).sum().backward()
    apart = [XI.clone().requires_grad_() for _ in cameras]
    for n, pose in enumerate(apart):
        (dr.path_lengths(egg, cameras[n], pose, backend=backend) * weights[n]).sum().backward()
    torch.testing.assert_close(one.grad, sum(pose.grad for pose in apart))


def test_threads_do_not_change_a_bit(backend, egg):
    basis = torch.randn((3, *egg.vertices.shape), generator=torch.Generator().manual_seed(1))
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            vertices, xi = egg.vertices.clone().requires_grad_(), XI.clone().requires_grad_()
            lengths = dr.path_lengths(dr.Mesh(vertices, egg.faces), camera_at(), xi, backend=backend)
            (lengths * lengths).sum().backward()
            jacobian = path_lengths_with_jacobian(egg, camera_at(), basis, XI, backend=backend)[1]
            found.append((lengths.detach(), vertices.grad, xi.grad, jacobian))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def weights_where_no_face_is_clamped(mesh: dr.Mesh, camera: dr.Camera) -> torch.Tensor:
    _, cosine = judged(mesh, camera)
    weights = torch.linspace(-1, 2, cosine.numel(), dtype=torch.float64).reshape(cosine.shape)
    return weights * (cosine > 1.01 * GRAZING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mirrored", [False, True])
def test_gradients_meet_autograd_through_the_judge(backend, dtype, mirrored):
    mesh = surfaces.of_ellipsoid(phantoms.ellipsoid(CENTRE), 2, dtype)
    basis = torch.randn((4, *mesh.vertices.shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    camera = camera_at(mirrored=mirrored)
    weights = weights_where_no_face_is_clamped(dr.moved(mesh, XI), camera)
    assert (weights == 0).sum() < 0.05 * weights.numel()
    found = []
    for judge in (False, True):
        vertices, xi = mesh.vertices.clone().requires_grad_(), XI.clone().requires_grad_()
        coefficients = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        shape = vertices + torch.einsum("m,mvx->vx", coefficients, basis).to(dtype)
        if judge:
            lengths = judged(dr.moved(dr.Mesh(shape.double(), mesh.faces), xi), camera)[0]
        else:
            lengths = dr.path_lengths(dr.Mesh(shape, mesh.faces), camera, xi, backend=backend)
        (lengths * weights).sum().backward()
        found.append((vertices.grad.double(), xi.grad, coefficients.grad))
    for mine, truth in zip(*found, strict=True):
        assert (mine - truth).norm() < 1e-4 * truth.norm()
    # Number by number: a swapped axis would hide in a norm.
    assert ((found[0][1] - found[1][1]).abs() < 1e-3 * found[1][1].abs()).all()
    _, jacobian = path_lengths_with_jacobian(mesh, camera, basis, XI, backend=backend)
    assert jacobian.shape == (*SIZE, 10)
    by_jacobian = torch.einsum("hwp,hw->p", jacobian.double(), weights)
    for mine, truth in ((by_jacobian[:6], found[1][1]), (by_jacobian[6:], found[1][2])):
        assert ((mine - truth).abs() < 1e-3 * truth.abs()).all()


def test_gradients_meet_finite_differences(backend):
    mesh = surfaces.of_ellipsoid(phantoms.ellipsoid(CENTRE), 2, torch.float64)
    basis = torch.randn((2, *mesh.vertices.shape), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    camera = camera_at()
    _, cosine = judged(dr.moved(mesh, XI), camera)
    _, jacobian = path_lengths_with_jacobian(mesh, camera, basis, XI, backend=backend)

    def image(parameters: torch.Tensor) -> torch.Tensor:
        shape = mesh.vertices + torch.einsum("m,mvx->vx", parameters[6:], basis)
        # About one point: the box's middle moves with the shape, and of that there is no gradient.
        return dr.path_lengths(dr.Mesh(shape, mesh.faces), camera, parameters[:6], mesh.centre, backend)

    at = torch.cat([XI, torch.zeros(2, dtype=torch.float64)])
    here = image(at)
    for n, step in enumerate([1e-4] * 3 + [1e-6] * 3 + [1e-4] * 2):
        change = torch.zeros(8, dtype=torch.float64)
        change[n] = step
        after, before = image(at + change), image(at - change)
        difference = (after - before) / (2 * step)
        # A ray that passes from a face to the next in between has no derivative there.
        bend = (after - 2 * here + before).abs() / step
        kept = (cosine > 1.01 * GRAZING) & (bend < 1e-2 * difference.abs().max())
        assert kept.sum() > 0.97 * (cosine > GRAZING).sum()
        assert (difference - jacobian[..., n])[kept].norm() < 1e-3 * difference[kept].norm()
        assert difference[kept].norm() > 1


def test_jacobian_is_what_backward_applies(backend, egg):
    for camera in (camera_at(), within(camera_at(mirrored=True), CENTRE + np.array([4.0, 3.0, -5.0]))):
        xi = XI.clone().requires_grad_()
        lengths = dr.path_lengths(egg, camera, xi, backend=backend)
        weights = torch.linspace(-1, 2, lengths.numel()).reshape(lengths.shape)
        (lengths * weights).sum().backward()
        same, jacobian = path_lengths_with_jacobian(egg, camera, xi=XI, backend=backend)
        assert torch.equal(lengths, same)
        torch.testing.assert_close(torch.einsum("hwp,hw->p", jacobian, weights).double(), xi.grad, rtol=1e-4, atol=1e-2)


def test_grazing_faces_are_clamped_in_the_gradient_alone(backend):
    """A box seen along its sides, 0.6 degrees off: their lengths are whole, their gradients held."""
    box = phantoms.Box(np.array([0.0, 0, 0]), (20.0, 16.0, 60.0), np.eye(3))
    matrix = np.eye(4)
    matrix[:3, 3] = [24.0, 0.0, -2000.0]
    camera = dr.Camera(torch.from_numpy(matrix), 2000.0, (0.05, 0.03), (21, 140), (10.0, 70.0 + 4.0 / 0.03))
    mesh = surfaces.of_box(box, dtype=torch.float64)
    weights = torch.ones(camera.image_size, dtype=torch.float64)
    vertices = mesh.vertices.clone().requires_grad_()
    lengths = dr.path_lengths(dr.Mesh(vertices, mesh.faces), camera, backend=backend)
    assert np.abs(lengths.detach().numpy() - box.chords(*rays_of(camera))).max() < 1e-2
    through_the_side = (lengths > 1) & (lengths < 119)
    assert through_the_side.sum() > 100
    (lengths * weights * through_the_side).sum().backward()
    # As the side moves outwards by 1, a ray gets 1 / |n . d| = 500 longer; held, 1 / 0.05 = 20.
    outward = vertices.grad[mesh.vertices[:, 0] > 0, 0].sum()
    assert outward == pytest.approx(int(through_the_side.sum()) / GRAZING, rel=0.02)


def test_a_face_on_edge_does_not_run_beyond_its_corners(backend):
    """A side seen on edge along a column of pixel centres, off by less than places are rounded: its plane meets those
    rays far behind the box or before the source."""
    box = phantoms.Box(np.array([-20.0, 3.0, 74.0]), (20.0, 16.0, 10.0), np.eye(3))
    camera = dr.Camera(torch.eye(4), 64.0, (0.5, 0.5), (60, 50), (29.5, 40.5))
    unit = 2.0**-16 * 0.5 / 64.0  # of a place, at depth 1
    for front, back in ((0.6, 0.4), (0.4, 0.6), (-0.4, -0.6), (0.55, -0.45)):
        vertices = surfaces.of_box(box, dtype=torch.float64).vertices
        side = vertices[:, 0] > -1.0
        vertices[side, 0] = torch.where(vertices[side, 2] < 74, 64 * front, 84 * back).double() * unit
        mesh = dr.Mesh(vertices, surfaces.of_box(box).faces)
        found = surface_pass(mesh, camera, backend=backend)
        assert not found.unbalanced.any()
        source, directions = rays_of(camera)
        assert found.lengths.min() >= 0
        assert found.lengths[:, 40].max() <= 20 * 1.2  # no longer than the box is deep
        assert np.abs(found.lengths.numpy()[:, :40] - box.chords(source, directions[:, :40])).max() < 1e-2


def test_a_missing_face_is_noticed_and_filled(backend, egg):
    camera = camera_at()
    whole, _ = judged(egg, camera)
    towards = torch.from_numpy(rays_of(camera)[1][20, 16])
    a, b, c = egg.vertices.double()[egg.faces].unbind(1)
    gone = int((torch.linalg.cross(b - a, c - a) @ towards).argmin())  # the one most turned to the source
    holed = dr.Mesh(egg.vertices, torch.cat([egg.faces[:gone], egg.faces[gone + 1 :]]))
    found = surface_pass(holed, camera, backend=backend)
    # The judge's rays through the hole only leave the mesh: their path runs from the source.
    hole = judged(holed, camera)[0] > 200
    assert 3 < hole.sum() < 40
    assert torch.equal(found.unbalanced, hole)
    assert 0 < found.unbalanced_share < 0.05
    # Filled from neighbours within two pixels of 2 mm: no mean of theirs meets a curved surface.
    assert (found.lengths - whole)[hole].abs().max() < 5
    assert whole[hole].min() > 30
    assert (found.lengths - whole)[~hole].abs().median() < 1e-5
    vertices = egg.vertices.clone().requires_grad_()
    lengths = surface_pass(dr.Mesh(vertices, holed.faces), camera, backend=backend).lengths
    (lengths * hole).sum().backward()
    assert vertices.grad.abs().max() == 0
    jacobian = path_lengths_with_jacobian(holed, camera, backend=backend)[1]
    assert jacobian[hole].abs().max() == 0
    assert jacobian[~hole].abs().max() > 0


def test_wide_holes_are_said_and_small_ones_not(backend, egg, recwarn):
    camera = camera_at()
    dr.path_lengths(egg, camera, backend=backend)
    assert not [w for w in recwarn if "enter it more or less often" in str(w.message)]
    with pytest.warns(Notice, match=r"\d % of the rays .* enter it more or less often than they leave it"):
        dr.path_lengths(dr.Mesh(egg.vertices, egg.faces[: len(egg.faces) // 2]), camera, backend=backend)


def test_a_face_that_is_there_twice_is_noticed(backend, egg):
    camera = camera_at()
    # Of one side: twice before and twice behind would be two bodies.
    a, b, c = egg.vertices.double()[egg.faces].unbind(1)
    some = egg.faces[(torch.linalg.cross(b - a, c - a) * (a - camera.source)).sum(1) > 0][10:20]
    twice = dr.Mesh(egg.vertices, torch.cat([egg.faces, some]))
    found = surface_pass(twice, camera, backend=backend)
    single = dr.Mesh(egg.vertices, some)
    assert torch.equal(found.unbalanced, surface_pass(single, camera, backend=backend).unbalanced)
    assert found.unbalanced.any()
    assert (found.lengths - judged(egg, camera)[0])[~found.unbalanced].abs().max() < 1e-3


def test_an_inside_out_mesh_counts_as_turned(backend, egg):
    for camera in (camera_at(), within(camera_at(), CENTRE + np.array([4.0, 3.0, -5.0]))):
        results = []
        for faces in (egg.faces, egg.faces.flip(1)):
            vertices = egg.vertices.clone().requires_grad_()
            found = surface_pass(dr.Mesh(vertices, faces), camera, backend=backend)
            assert not found.unbalanced.any()
            found.lengths.sum().backward()
            results.append((found.lengths.detach(), vertices.grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
        assert results[0][0].min() >= 0
        assert results[0][0].max() > 20


def test_faces_without_area_change_nothing(backend, egg):
    """A side is halved, and the gap closed by a face of no area; and there is one of a single point."""
    a, b = egg.faces[77, :2].tolist()
    middle = len(egg.vertices)
    vertices = torch.cat([egg.vertices, (egg.vertices[a] + egg.vertices[b])[None] / 2])
    c = int(egg.faces[77, 2])
    halves = torch.tensor([[a, middle, c], [middle, b, c], [a, b, middle], [c, c, c]])
    faces = torch.cat([egg.faces[:77], egg.faces[78:], halves])
    camera = camera_at(image_size=(92, 76))
    at = vertices.clone().requires_grad_()
    found = surface_pass(dr.Mesh(at, faces), camera, backend=backend)
    found.lengths.sum().backward()
    assert not found.unbalanced.any()
    assert (found.lengths - dr.path_lengths(egg, camera, backend=backend)).abs().max() < 1e-3
    assert at.grad.isfinite().all()
    own = egg.vertices.clone().requires_grad_()
    dr.path_lengths(dr.Mesh(own, egg.faces), camera, backend=backend).sum().backward()
    same = torch.ones(middle, dtype=torch.bool)
    same[[a, b, c]] = False
    torch.testing.assert_close(at.grad[:-1][same], own.grad[same])


def test_nothing_in_the_frame_is_nothing(backend, egg):
    aside, behind = camera_at(CENTRE + np.array([400.0, 300.0, -200.0])), camera_at()
    turned = behind.world_from_camera.clone()
    turned[:3, 1:3] *= -1
    behind = dataclasses.replace(behind, world_from_camera=turned)
    for camera in (aside, behind):
        vertices, xi = egg.vertices.clone().requires_grad_(), XI.clone().requires_grad_()
        found = surface_pass(dr.Mesh(vertices, egg.faces), camera, xi, backend=backend)
        found.lengths.sum().backward()
        assert found.lengths.abs().max() == 0
        assert found.unbalanced_share == 0
        assert vertices.grad.abs().max() == 0
        assert xi.grad.abs().max() == 0
        assert path_lengths_with_jacobian(egg, camera, backend=backend)[1].shape == (*SIZE, 6)


def test_a_single_pixel(backend, egg):
    camera = camera_at(image_size=(1, 1))
    expected = phantoms.ellipsoid(CENTRE).chords(*rays_of(camera))
    assert dr.path_lengths(egg, camera, backend=backend).numpy() == pytest.approx(expected, rel=0.03)
    assert expected.min() > 20


def test_a_source_inside_sees_from_there_on(backend):
    ellipsoid = phantoms.ellipsoid(CENTRE)
    mesh = surfaces.of_ellipsoid(ellipsoid, 2, torch.float64)
    for offset, mirrored in (([4.0, 3.0, -5.0], False), ([-9.0, 8.0, 2.0], True)):
        camera = within(camera_at(mirrored=mirrored), CENTRE + offset)
        found = surface_pass(mesh, camera, backend=backend)
        lengths, cosine = judged(mesh, camera)
        assert not found.unbalanced.any()
        assert (found.lengths - lengths).abs().max() < 1e-3
        assert np.abs(found.lengths.numpy() - ellipsoid.chords(*rays_of(camera))).max() < 0.8  # sides of 18 mm
        assert lengths.min() > 5
        grads = []
        for judge in (False, True):
            vertices = mesh.vertices.clone().requires_grad_()
            body = dr.Mesh(vertices, mesh.faces)
            image = judged(body, camera)[0] if judge else dr.path_lengths(body, camera, backend=backend)
            (image * torch.linspace(-1, 2, image.numel()).reshape(image.shape)).sum().backward()
            grads.append(vertices.grad)
        assert cosine.min() > GRAZING
        assert (grads[0] - grads[1]).norm() < 1e-3 * grads[1].norm()


def test_faces_beside_and_behind_the_source_are_cut(backend):
    """The source outside, beside the surface: some vertices lie behind it, some far outside the frame."""
    box = phantoms.box(CENTRE)
    mesh = surfaces.of_box(box, 1, torch.float64)
    camera = camera_at(along=(0.9, 0.3, 0.2))
    toward = camera.direction.numpy()
    for shift in (-24.0, -10.0):
        beside = within(camera, CENTRE + box.axes[:, 1] * 17.0 + toward * shift, focal=60.0)
        assert not ((np.abs((beside.source.numpy() - CENTRE) @ box.axes) < box.half).all())
        behind = (mesh.vertices.numpy() - beside.source.numpy()) @ toward
        assert behind.min() < 0 < behind.max()
        found = surface_pass(mesh, beside, backend=backend)
        chords = box.chords(*rays_of(beside))
        assert not found.unbalanced.any()
        assert np.abs(found.lengths.numpy() - chords).max() < 1e-2
        assert (chords > 5).sum() > 100


def test_backends_agree_to_the_last_unit(egg):
    pytest.importorskip("warp")
    for camera in (camera_at(), camera_at(mirrored=True), within(camera_at(), CENTRE)):
        a, b = (dr.path_lengths(egg, camera, XI, backend=backend) for backend in ("torch", "warp"))
        assert (a - b).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("modes", [0, 23])
def test_kernels_and_twin_have_one_jacobian_and_one_gradient(dtype, modes):
    """Faces of one pixel and of hundreds, cut at the image's rims; modes in vectors of 16 and 4, and what is left."""
    pytest.importorskip("warp")
    fine, coarse = surfaces.of_ellipsoid(phantoms.ellipsoid(CENTRE), 2, dtype), surfaces.of_box(phantoms.box(CENTRE))
    coarse = dr.Mesh(coarse.vertices.to(dtype), coarse.faces)
    for mesh, size, step in ((fine, SIZE, 4.0), (coarse, (30, 26), 1.6), (fine, (33, 3), 1.5)):
        middle = (size[0] * 0.4, size[1] * 0.7)
        camera = dataclasses.replace(
            camera_at(), image_size=size, principal_point=middle, pixel_size=(step, 0.9 * step)
        )
        basis = torch.randn((modes, *mesh.vertices.shape), generator=torch.Generator().manual_seed(8), dtype=dtype)
        beside = basis.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        found = []
        for backend, given in (("torch", basis), ("warp", basis), ("warp", beside)):
            vertices = mesh.vertices.clone().requires_grad_()
            lengths = dr.path_lengths(dr.Mesh(vertices, mesh.faces), camera, XI, backend=backend)
            (lengths * torch.linspace(-1, 2, lengths.numel()).reshape(size)).sum().backward()
            same, jacobian = path_lengths_with_jacobian(mesh, camera, given, XI, backend=backend)
            assert torch.equal(lengths.detach(), same)
            assert jacobian.shape == (*size, 6 + modes)
            assert jacobian.dtype == dtype
            found.append((jacobian.double(), vertices.grad.double()))
        assert torch.equal(found[1][0], found[2][0])
        # Sums of float32 numbers that all but cancel where a face leaves as another enters; float64 to its rounding.
        least = 2e-5 if dtype == torch.float32 else 1e-9
        for twin, kernel in zip(*found[:2], strict=True):
            scale = twin.abs().reshape(-1, twin.shape[-1]).amax(0)
            assert (scale > 0).all()
            assert ((kernel - twin).abs().reshape(-1, twin.shape[-1]).amax(0) < least * scale).all()


def test_what_cannot_be_is_said(backend, egg):
    camera = camera_at()
    with pytest.raises(SettingError, match="backend is one of auto, torch, warp"):
        dr.path_lengths(egg, camera, backend="embree")
    with pytest.raises(MeshError, match="A mesh, or a sequence of at least one"):
        dr.path_lengths([], camera, backend=backend)
    with pytest.raises(GeometryError, match="one size"):
        dr.path_lengths(egg, [camera, camera_at(image_size=(4, 5))], backend=backend)
    with pytest.raises(GeometryError, match="six finite numbers"):
        dr.path_lengths(egg, camera, torch.full((6,), torch.nan), backend=backend)
    with pytest.raises(MeshError, match="this mesh has 162 vertices"):
        path_lengths_with_jacobian(egg, camera, torch.zeros(2, 5, 3), backend=backend)
    with pytest.raises(GeometryError, match="of one camera and one motion"):
        path_lengths_with_jacobian(egg, camera, xi=XI[None], backend=backend)


def test_warp_asked_for_by_name_and_absent_is_an_error(egg, monkeypatch):
    monkeypatch.setattr("diffrender.rays.surface_warp.why_not", lambda vertices: "it is not here.")
    with pytest.raises(BackendError, match="cannot run: it is not here"):
        dr.path_lengths(egg, camera_at(), backend="warp")
    assert dr.path_lengths(egg, camera_at()).max() > 20


def test_a_radiograph_of_bodies_within_bodies(backend, egg):
    camera = camera_at()
    inner = surfaces.of_ellipsoid(phantoms.Ellipsoid(CENTRE, (9.0, 7.0, 5.0), np.eye(3)), 2)
    settings = dr.RadiographSettings(kind="intensity", backend=backend)
    vertices = inner.vertices.clone().requires_grad_()
    bodies = [(egg, 0.02, None), (dr.Mesh(vertices, inner.faces, "bone"), 0.05, 0)]
    found = radiograph_of_meshes(bodies, camera, settings, air=1e-4)
    through_egg, through_inner = (judged(body, camera)[0] for body in (egg, inner))
    _, directions = rays_of(camera)
    reach = camera.source_to_detector / (directions @ camera.direction.numpy())
    p = 0.02 * (through_egg - through_inner) + 0.05 * through_inner + 1e-4 * (torch.from_numpy(reach) - through_egg)
    assert (found.pixels[0] - torch.exp(-p)).abs().max() < 1e-5
    assert found.path_lengths.shape == (2, *SIZE)
    assert (found.masks[1] == (through_inner > 1)).float().mean() > 0.999
    assert found.label_name(2) == "bone"
    found.pixels.sum().backward()
    assert vertices.grad.abs().max() > 0
    for wrong in ([(egg, 0.02, 0)], [(egg, 0.02, 5)], [(egg, 0.02, 1), (inner, 0.05, 0)]):
        with pytest.raises(SettingError, match="lies inside body"):
            radiograph_of_meshes(wrong, camera)


def test_a_volume_and_bodies_in_one_picture(backend, egg):
    values = torch.full((20, 24, 28), -200.0)
    volume = dr.Volume(values, torch.from_numpy(phantoms.oblique_lattice((2.0, 2.5, 3.0), origin=tuple(CENTRE - 30))))
    camera, settings = camera_at(), dr.RadiographSettings(backend=backend)
    together = radiograph_of_meshes([(egg, 0.03)], camera, settings, volume)
    alone = dr.radiograph(volume, camera, settings).pixels
    assert (together.pixels - alone - 0.03 * judged(egg, camera)[0]).abs().max() < 1e-4
    assert alone.max() > 0.5


@pytest.mark.cuda
def test_cuda_meets_the_cpu(backend, egg):
    basis = torch.randn((3, *egg.vertices.shape), generator=torch.Generator().manual_seed(1))
    box = surfaces.of_box(phantoms.box(CENTRE))
    for mesh, camera in itertools.product((egg, box), (camera_at(), within(camera_at(mirrored=True), CENTRE))):
        found = []
        for device in ("cpu", "cuda"):
            vertices, xi = mesh.vertices.to(device).requires_grad_(), XI.clone().requires_grad_()
            body = dr.Mesh(vertices, mesh.faces.to(device))
            lengths = dr.path_lengths(body, camera, xi, backend=backend)
            (lengths * lengths).sum().backward()
            jacobian = None
            if mesh is egg:
                jacobian = path_lengths_with_jacobian(body, camera, basis.to(device), XI, backend=backend)[1].cpu()
            found.append((lengths.detach().cpu(), vertices.grad.cpu(), xi.grad, jacobian))
        for cpu, cuda in zip(*found, strict=True):
            if cpu is not None:
                assert (cpu - cuda).norm() <= 1e-5 * cpu.norm()
