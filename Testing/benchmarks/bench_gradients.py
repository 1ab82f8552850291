"""Gradients against finite differences in float64, volume gradients against autograd; a pose alone and in a batch."""

import judges
import numpy as np
import torch
from report import Result, Row, at_most

import diffrender as dr
import phantoms
from diffrender.camera import Camera
from diffrender.pose import motion
from diffrender.volume import Volume

SIZE = (60, 72, 84)  # (k, j, i)
# [mm, rad]. Interpolated values have kinks at voxel planes, and a difference over one is wrong by up to a step.
STEP = np.array([1e-4] * 3 + [1e-6] * 3)


def gradients() -> Result:
    """Pose gradient and Jacobian on a smooth volume, each against two roads in float64; the volume gradient."""
    volume, camera = _smooth()
    xi = torch.tensor([1.5, -2.0, 0.8, 0.03, -0.05, 0.04], dtype=torch.float64)
    values = volume.values.double()
    by_twin = _differences(lambda x: _drawn(values, volume, camera, x, "torch"), xi)
    by_judge = _differences(lambda x: _judged(values, volume, camera, x), xi)
    weights = torch.linspace(-1, 2, by_twin[..., 0].numel(), dtype=torch.float64).reshape(camera.image_size)
    rows, figures = [], {}
    for backend, name in (("warp", "fused kernel"), ("torch", "torch twin")):
        found = _found(volume, camera, xi, weights, backend)
        for what, mine in found.items():
            same, exact = (
                (t if what == "Jacobian" else torch.einsum("hwn,hw->n", t, weights)) for t in (by_twin, by_judge)
            )
            figures[f"{name}, {what}"] = {
                "against its own integral": _off(mine, same),
                "against exact": _off(mine, exact),
            }
            off = figures[f"{name}, {what}"]
            rows.append(at_most(f"{name}: {what}, against finite differences", off["against its own integral"], 1e-3))
            rows.append(Row(f"{name}: {what}, against those of the exact integral", "", f"{off['against exact']:.2g}"))
    rows += _volume_gradients(volume, camera, xi, weights, figures)
    notes = [
        f"Relative, float32 against float64; {SIZE[2]} x {SIZE[1]} x {SIZE[0]} oblong, oblique voxels, smooth, moved.",
        "Finite differences: of the torch twin in float64, and of the exact integral of the trilinear interpolant.",
    ]
    return Result(rows, figures, notes)


def _volume_gradients(volume: Volume, camera: Camera, xi, weights, figures) -> list[Row]:
    """The adjoint against a second road: <g, A v> = <A' g, v> for any v, and autograd through the twin in float64."""
    found = {}
    for key, values, backend in (
        ("warp", volume.values, "warp"),
        ("torch", volume.values, "torch"),
        ("twin, float64", volume.values.double(), "torch"),
    ):
        at = values.clone().requires_grad_()
        p = dr.line_integrals(at, volume.world_from_voxel, camera, xi, backend=backend)
        (p * p * weights.to(p)).sum().backward()
        assert at.grad is not None
        found[key] = at.grad.double()
    off = {key: _off(found[key], found["twin, float64"]) for key in ("warp", "torch")}
    probe = _probe(volume, camera, xi, weights)
    figures["volume gradient"] = off | {"adjoint against finite differences": probe}
    return [
        at_most("fused kernel: volume gradient, against the twin's in float64", off["warp"], 1e-4),
        at_most("torch twin: volume gradient, against itself in float64", off["torch"], 1e-4),
        at_most("twin in float64: volume gradient along a random direction, finite differences", probe, 1e-4),
    ]


def _probe(volume: Volume, camera: Camera, xi, weights) -> float:
    """d loss along a random change of the volume, by autograd and by a central difference."""
    change = torch.rand(volume.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 0.3
    values = volume.values.double()

    def loss(v: torch.Tensor) -> torch.Tensor:
        p = dr.line_integrals(v, volume.world_from_voxel, camera, xi, backend="torch")
        return (p * p * weights).sum()

    at = values.clone().requires_grad_()
    loss(at).backward()
    assert at.grad is not None
    along = (at.grad * change).sum()
    difference = (loss(values + 1e-4 * change) - loss(values - 1e-4 * change)) / 2e-4
    return ((along - difference) / difference).abs().item()


def _smooth() -> tuple[Volume, Camera]:
    lattice = phantoms.oblique_lattice((1.3, 1.6, 1.9))
    centre = phantoms.point_at(lattice, SIZE, (0.54, 0.45, 0.52))
    camera = phantoms.oblique_camera(centre, image_size=(40, 34), field=(150.0, 130.0), mirrored=True)
    return phantoms.drawn(phantoms.smooth(centre, scale=1.1), lattice, SIZE), camera


def _drawn(values, volume: Volume, camera: Camera, xi, backend: str) -> torch.Tensor:
    return dr.line_integrals(values, volume.world_from_voxel, camera, xi, backend=backend).double()


def _judged(values, volume: Volume, camera: Camera, xi) -> torch.Tensor:
    source, directions = camera.rays()
    moved = motion(xi, volume.centre) @ volume.world_from_voxel
    p = judges.trilinear_integral(values.numpy(), moved.numpy(), source.numpy(), directions.reshape(-1, 3).numpy())
    return torch.from_numpy(p).reshape(camera.image_size)


def _differences(image, xi) -> torch.Tensor:
    """(h, w, 6), by central differences."""
    columns = []
    for n, step in enumerate(STEP):
        change = torch.zeros(6, dtype=torch.float64)
        change[n] = step
        columns.append((image(xi + change) - image(xi - change)) / (2 * step))
    return torch.stack(columns, dim=-1)


def _found(volume: Volume, camera: Camera, xi, weights, backend: str) -> dict[str, torch.Tensor]:
    at = xi.clone().requires_grad_()
    p = dr.line_integrals(volume.values, volume.world_from_voxel, camera, at, backend=backend)
    (p * weights.to(p)).sum().backward()
    assert at.grad is not None
    _, J = dr.line_integrals_with_jacobian(volume.values, volume.world_from_voxel, camera, xi=xi, backend=backend)
    return {"pose gradient": at.grad.double(), "Jacobian": J.double()}


def _off(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Worst of the six numbers (or of the whole, for a volume), each relative to its own size."""
    if found.shape[-1] != 6:
        return ((found - truth).norm() / truth.norm()).item()
    found, truth = found.reshape(-1, 6), truth.reshape(-1, 6)
    return ((found - truth).norm(dim=0) / truth.norm(dim=0)).max().item()


def batch() -> Result:
    """The same pose alone and in a batch of 8 others, forward and gradient."""
    volume, camera = _smooth()
    generator = torch.Generator().manual_seed(7)
    poses = torch.randn(8, 6, generator=generator, dtype=torch.float64) * torch.tensor([4.0] * 3 + [0.1] * 3)
    rows, figures = [], {}
    for backend, name in (("warp", "fused kernel"), ("torch", "torch twin")):
        together = poses.clone().requires_grad_()
        images = dr.line_integrals(volume.values, volume.world_from_voxel, camera, together, backend=backend)
        (images * images).sum().backward()
        assert together.grad is not None
        worst = [0.0, 0.0]
        for n in range(8):
            alone = poses[n].clone().requires_grad_()
            image = dr.line_integrals(volume.values, volume.world_from_voxel, camera, alone, backend=backend)
            (image * image).sum().backward()
            assert alone.grad is not None
            pairs = ((images[n].detach(), image.detach()), (together.grad[n], alone.grad))
            worst = [
                max(w, ((a - b).abs().max() / b.abs().max()).item()) for w, (a, b) in zip(worst, pairs, strict=True)
            ]
        figures[name] = {"image": worst[0], "gradient": worst[1]}
        rows.append(at_most(f"{name}: a pose alone and in a batch of 8, relative", max(worst), 1e-6))
    return Result(rows, figures)
