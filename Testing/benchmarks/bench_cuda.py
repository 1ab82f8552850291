"""On an NVIDIA GPU: the fused kernel against nanodrr's, both in one run. Elsewhere nothing is written."""

import statistics

import cases
import peers
import torch
from report import Result, Row, at_most

import diffrender as dr


def cuda() -> Result | None:
    """256^3 at 200 x 200 forward, by CUDA events; contenders take turns."""
    if not torch.cuda.is_available():
        print("cuda: torch sees no NVIDIA GPU here; nothing is measured and the stored result, if any, stays.")
        return None
    case = cases.cube()
    values = case.values.cuda()
    on_gpu = cases.Case(values, case.world_from_voxel, case.camera, case.centre, case.what)
    q = dr.prepare(values)
    xi = torch.tensor([3.0, -5.0, 2.0, 0.04, -0.03, 0.05], dtype=torch.float64)
    theirs = peers.nanodrr(on_gpu, backend="triton")
    contenders = {
        "fused kernel": lambda: dr.line_integrals(q, case.world_from_voxel, case.camera, xi, backend="warp"),
        "nanodrr": lambda: theirs(xi),
    }
    with torch.no_grad():
        off = ((contenders["fused kernel"]() - theirs(xi)).norm() / theirs(xi).norm()).item()
        if not off < 0.03:
            raise SystemExit(f"The fused kernel and nanodrr draw different images on the GPU: {off:.2%}.")
        calls = {name: _microseconds(run) for name, run in contenders.items()}
        kernels = {name: _on_device(run) for name, run in contenders.items()}
    rows = [
        at_most("fused kernel against nanodrr's, forward", calls["fused kernel"] / calls["nanodrr"], 1.5, "x the time")
    ]
    rows += [
        Row(f"{name}: a call / its kernels alone", "", f"{calls[name]:.0f} / {kernels[name]:.0f} us")
        for name in contenders
    ]
    notes = [f"{case.what}; float32, least of the rounds. The two images differ by {off:.3%}."]
    return Result(rows, {"call_us": calls, "kernels_us": kernels}, notes)


def _microseconds(run, rounds: int = 30, calls: int = 20) -> float:
    """A call's time with the queue kept full [us]: least of the rounds."""
    for _ in range(5):
        run()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        torch.cuda.synchronize()
        times.append(1000 * start.elapsed_time(end) / calls)
    return min(times)


def _on_device(run, calls: int = 20) -> float:
    """What the device itself works for one call [us], without the time the CPU takes to ask for it."""
    from torch.profiler import ProfilerActivity, profile

    totals = []
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            for _ in range(calls):
                run()
            torch.cuda.synchronize()
        totals.append(sum(event.device_time_total for event in recorded.key_averages()) / calls)
    return statistics.median(totals)
