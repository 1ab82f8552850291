"""Forward and pose gradient, against DiffDRR's and nanodrr's trilinear sampling with 500 samples a ray."""

from collections.abc import Callable

import cases
import clock
import peers
import torch
from report import Result, Row, at_least

import diffrender as dr

SECONDS = 60


def pose_256() -> Result:
    return _pose(cases.cube(), diffdrr=30, nanodrr=20, twin=6)


def pose_512() -> Result:
    return _pose(cases.slab(), diffdrr=10, nanodrr=5, twin=2.5)


def _pose(case: cases.Case, diffdrr: float, nanodrr: float, twin: float) -> Result:
    torch.set_num_threads(1)
    draw = _contenders(case)
    notes = [f"{case.what}; float32, one thread, forward and the gradient of the image's sum in six pose numbers."]
    notes += _agreement(draw)
    times = clock.take_turns({name: _forward_and_backward(image) for name, image in draw.items()}, SECONDS)
    cpu = {name: t.cpu_ms for name, t in times.items()}
    rows = [
        at_least("fused kernel against DiffDRR trilinear", cpu["DiffDRR"] / cpu["warp"], diffdrr),
        at_least("fused kernel against nanodrr", cpu["nanodrr"] / cpu["warp"], nanodrr),
        at_least("torch twin against DiffDRR trilinear", cpu["DiffDRR"] / cpu["torch twin"], twin),
        Row("torch twin against nanodrr", "", f"{cpu['nanodrr'] / cpu['torch twin']:.3g}x"),
        Row("int16 against float32, fused", "", f"{cpu['warp'] / cpu['warp int16']:.3g}x"),
        *[
            Row(f"{name}, CPU ms least / wall ms median", "", f"{t.cpu_ms:.1f} / {t.wall_ms:.1f} ({t.rounds} runs)")
            for name, t in times.items()
        ],
    ]
    return Result(rows, {name: t.as_dict() for name, t in times.items()}, notes)


def _contenders(case: cases.Case) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Each renderer as a function of xi, holding its own copy of the volume."""
    q = dr.prepare(case.values)
    step = case.values.max().item() / 30000
    q16 = dr.prepare((case.values / step).round().to(torch.int16), scale=step)
    lattice, camera = case.world_from_voxel, case.camera
    return {
        "warp": lambda xi: dr.line_integrals(q, lattice, camera, xi, backend="warp"),
        "warp int16": lambda xi: dr.line_integrals(q16, lattice, camera, xi, backend="warp"),
        "torch twin": lambda xi: dr.line_integrals(q, lattice, camera, xi, backend="torch"),
        "nanodrr": peers.nanodrr(case),
        "DiffDRR": peers.diffdrr(case),
    }


def _forward_and_backward(image: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        xi = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        image(xi).sum().backward()
        assert xi.grad is not None
        return xi.grad

    return run


def _agreement(draw: dict[str, Callable[[torch.Tensor], torch.Tensor]]) -> list[str]:
    """Nobody is timed who draws something else: images and pose gradients agree, at a pose away from rest."""
    xi = torch.tensor([3.0, -5.0, 2.0, 0.04, -0.03, 0.05], dtype=torch.float64)
    weights = None
    images, gradients = {}, {}
    for name, image in draw.items():
        at = xi.clone().requires_grad_()
        drawn = image(at)
        # An uneven weight: the gradient of a plain sum nearly cancels where the whole body is in the picture.
        weights = torch.linspace(-1, 2, drawn.numel()).reshape(drawn.shape) if weights is None else weights
        (drawn * weights).sum().backward()
        assert at.grad is not None
        images[name], gradients[name] = drawn.detach(), at.grad * torch.tensor([1.0] * 3 + [0.01] * 3)
    notes = []
    for name in draw:
        by, turned = (
            ((found[name] - found["warp"]).norm() / found["warp"].norm()).item() for found in (images, gradients)
        )
        if not by < 0.03 or not turned < 0.1:
            raise SystemExit(
                f"{name} does not draw what the fused kernel draws: images differ by {by:.2%}, gradients {turned:.2%}."
            )
        notes.append(f"{name} and the fused kernel differ by {by:.3%} (images), {turned:.3%} (pose gradients).")
    return notes[1:]
