"""Path length through a closed mesh: its clock, its accuracy against closed forms and embree, its gradients."""

import dataclasses

import numpy as np
import surfaces
import torch
from clock import take_turns
from report import Result, Row, at_least, at_most

import diffrender as dr
import phantoms
from diffrender.camera import Camera, c_arm
from diffrender.mesh import Mesh
from diffrender.rays.surface import path_lengths_with_jacobian
from diffrender.rays.surface_torch import GRAZING

CENTRE = np.array([12.0, -7.0, 30.0])
XI = torch.tensor([1.5, -2.0, 0.8, 0.03, -0.05, 0.04], dtype=torch.float64)


def surface() -> Result:
    """20 480 triangles at 256 x 256: an ellipsoid of 180 x 120 x 150 mm, oblique, off centre."""
    torch.set_num_threads(1)
    solid = phantoms.Ellipsoid(CENTRE, (90.0, 60.0, 75.0), phantoms.rotation(31, -14, 52))
    mesh = surfaces.of_ellipsoid(solid, 5)
    camera = c_arm((10.0, 0.0, 28.0), 25, -15, pixel_size=(1.0, 1.1))
    figures: dict = {}
    rows = _times(mesh, camera, figures) + _accuracy(mesh, solid, camera, figures) + _gradients(figures)
    size = " x ".join(str(n) for n in camera.image_size)
    notes = [
        f"{len(mesh.faces)} triangles, {size} px, half of which they cover. Backward: the gradient in the vertices.",
        f"No face is clamped where every crossing of a ray has |n . d| above {GRAZING}.",
    ]
    return Result(rows, figures, notes)


def _times(mesh: Mesh, camera: Camera, figures: dict) -> list[Row]:
    g = torch.rand(camera.image_size, generator=torch.Generator().manual_seed(2))
    basis = torch.randn((20, *mesh.vertices.shape), generator=torch.Generator().manual_seed(3))
    beside = basis.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    small = dataclasses.replace(
        camera,
        image_size=(128, 128),
        pixel_size=(2.0, 2.2),
        principal_point=tuple(n / 2 for n in camera.principal_point),
    )

    def both(backend: str) -> None:
        vertices = mesh.vertices.clone().requires_grad_()
        (dr.path_lengths(Mesh(vertices, mesh.faces), camera, backend=backend) * g).sum().backward()

    times = take_turns(
        {
            "fused kernel, forward": lambda: dr.path_lengths(mesh, camera, backend="warp"),
            "torch splat, forward": lambda: dr.path_lengths(mesh, camera, backend="torch"),
            "fused kernel, forward and backward": lambda: both("warp"),
            "torch splat, forward and backward": lambda: both("torch"),
            "fused kernel, Jacobian of pose and 20 modes": lambda: path_lengths_with_jacobian(
                mesh, camera, basis, backend="warp"
            ),
            "the same at 128 x 128, modes side by side": lambda: path_lengths_with_jacobian(
                mesh, small, beside, XI, backend="warp"
            ),
        },
        seconds=30,
    )
    figures["CPU ms"] = {name: time.as_dict() for name, time in times.items()}
    ms = {name: time.cpu_ms for name, time in times.items()}
    return [
        at_most("path length, forward", ms["fused kernel, forward"], 6, " CPU-ms"),
        at_most("path length, forward and backward", ms["fused kernel, forward and backward"], 20, " CPU-ms"),
        *(
            at_least(
                f"torch splat over fused kernel, {way}", ms[f"torch splat, {way}"] / ms[f"fused kernel, {way}"], 10
            )
            for way in ("forward", "forward and backward")
        ),
        Row("Jacobian of pose and 20 modes", "", f"{ms['fused kernel, Jacobian of pose and 20 modes']:.3g} CPU-ms"),
        Row(
            "at 128 x 128, modes side by side in memory",
            "",
            f"{ms['the same at 128 x 128, modes side by side']:.3g} CPU-ms",
        ),
    ]


def _accuracy(mesh: Mesh, solid: phantoms.Ellipsoid, camera: Camera, figures: dict) -> list[Row]:
    source, directions = (t.numpy() for t in camera.rays())
    chords = solid.chords(source, directions.reshape(-1, 3))
    lengths = dr.path_lengths(mesh, camera, backend="warp").numpy().ravel()
    cast, closed, cosine = _embree(mesh, source, directions.reshape(-1, 3))
    met = (chords > 0) | (lengths > 0)
    clear = closed & (cast > 0) & (cosine > GRAZING)
    off = {"chords": np.abs(lengths - chords)[met], "embree": np.abs(lengths - cast)[clear]}
    figures["mm"] = {
        name: {"median": float(np.median(d)), "99 %": float(np.quantile(d, 0.99)), "most": float(d.max())}
        for name, d in off.items()
    }
    figures["rays"] = {"met": int(met.sum()), "compared with embree": int(clear.sum())}
    return [
        at_most(
            "against chords of the ellipsoid, median of all that meet it", float(np.median(off["chords"])), 0.05, " mm"
        ),
        at_most("against embree, median where no face is clamped", float(np.median(off["embree"])), 0.01, " mm"),
        Row(
            "against embree, 99 % and the most",
            "",
            f"{np.quantile(off['embree'], 0.99):.2g}, {off['embree'].max():.2g} mm",
        ),
    ]


def _embree(mesh: Mesh, source: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed sums of distances, whether the signs balance, and the least |n . d|, of each ray."""
    import trimesh
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    shape = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    origins = np.broadcast_to(source, directions.shape)
    at, ray, face = RayMeshIntersector(shape).intersects_location(origins, directions)
    cosine = np.einsum("nx,nx->n", shape.face_normals[face], directions[ray])
    distance = np.sign(cosine) * np.linalg.norm(at - source, axis=1)
    least = np.ones(len(directions))
    np.minimum.at(least, ray, np.abs(cosine))
    sums = (np.bincount(ray, w, minlength=len(directions)) for w in (distance, np.sign(cosine)))
    lengths, signs = sums
    return lengths, signs == 0, least


def _gradients(figures: dict) -> list[Row]:
    """Float32 kernels against float64: autograd through every ray against every face, and finite differences."""
    solid = phantoms.ellipsoid(CENTRE)
    mesh = surfaces.of_ellipsoid(solid, 3)
    exact = Mesh(mesh.vertices.double(), mesh.faces)
    camera = phantoms.oblique_camera(CENTRE + np.array([5.0, -3.0, 4.0]), image_size=(40, 34), mirrored=True)
    basis = torch.randn((6, *mesh.vertices.shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source, directions = camera.rays()
    clear = (surfaces.cast(dr.moved(exact, XI), source, directions)[1] > 1.01 * GRAZING).reshape(camera.image_size)
    weights = torch.linspace(-1, 2, clear.numel(), dtype=torch.float64).reshape(clear.shape) * clear

    def judged(parameters: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
        shape = vertices + torch.einsum("m,mvx->vx", parameters[6:], basis)
        body = dr.moved(Mesh(shape, mesh.faces), parameters[:6], exact.centre)
        return surfaces.cast(body, source, directions)[0].reshape(camera.image_size)

    at = torch.cat([XI, torch.zeros(6, dtype=torch.float64)]).requires_grad_()
    vertices = exact.vertices.clone().requires_grad_()
    (judged(at, vertices) * weights).sum().backward()
    assert vertices.grad is not None
    assert at.grad is not None
    truth = {"vertices": vertices.grad, "pose": at.grad[:6], "coefficients": at.grad[6:]}
    own = mesh.vertices.clone().requires_grad_()
    (dr.path_lengths(Mesh(own, mesh.faces), camera, XI, backend="warp") * weights).sum().backward()
    assert own.grad is not None
    _, jacobian = path_lengths_with_jacobian(mesh, camera, basis, XI, backend="warp")
    found = torch.einsum("hwp,hw->p", jacobian.double(), weights)
    mine = {"vertices": own.grad.double(), "pose": found[:6], "coefficients": found[6:]}
    off = {name: ((mine[name] - truth[name]).norm() / truth[name].norm()).item() for name in truth}
    rows = [at_most(f"gradient in {name}, against float64 autograd of ray casting", off[name], 1e-3) for name in truth]
    figures["gradients, relative"] = off
    return rows + _differences(exact, camera, basis, jacobian.double(), clear, figures)


def _differences(mesh: Mesh, camera: Camera, basis, jacobian, clear, figures: dict) -> list[Row]:
    """Ray by ray, by central differences of the twin in float64, less those that pass from face to face in between."""

    def image(parameters: torch.Tensor) -> torch.Tensor:
        shape = mesh.vertices + torch.einsum("m,mvx->vx", parameters[6:], basis)
        return dr.path_lengths(Mesh(shape, mesh.faces), camera, parameters[:6], mesh.centre, "torch")

    at = torch.cat([XI, torch.zeros(len(basis), dtype=torch.float64)])
    here, worst, least = image(at), 0.0, 1.0
    for n, step in enumerate([1e-4] * 3 + [1e-6] * 3 + [1e-4] * len(basis)):
        change = torch.zeros_like(at)
        change[n] = step
        after, before = image(at + change), image(at - change)
        difference = (after - before) / (2 * step)
        bend = (after - 2 * here + before).abs() / step
        kept = clear & (bend < 1e-2 * difference.abs().max())
        worst = max(worst, ((difference - jacobian[..., n])[kept].norm() / difference[kept].norm()).item())
        least = min(least, (kept.sum() / clear.sum()).item())
    figures["Jacobian against finite differences"] = {"relative": worst, "least share of rays": least}
    return [at_most("Jacobian of pose and coefficients, worst column, against finite differences", worst, 1e-3)]
