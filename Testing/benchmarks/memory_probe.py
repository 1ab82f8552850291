"""Renders in a process of its own, and the most memory each held meanwhile: BACKEND CASE, prints JSON."""

import ctypes
import gc
import json
import sys
import time
from pathlib import Path
from threading import Event, Thread

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import cases  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402

import diffrender as dr  # noqa: E402
from diffrender.rays.prepared import Prepared, prepare  # noqa: E402

TASKS = ("forward", "jacobian", "pose gradient", "volume gradient")


def run(q: Prepared, case: cases.Case, backend: str, task: str) -> list[torch.Tensor]:
    """The results that stay, so that their size can be taken off."""
    where = (case.world_from_voxel, case.camera)
    if task == "forward":
        return [dr.line_integrals(q, *where, backend=backend)]
    if task == "jacobian":
        return list(dr.line_integrals_with_jacobian(q, *where, backend=backend))
    if task == "pose gradient":
        xi = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        p = dr.line_integrals(q, *where, xi, backend=backend)
        (p * p).sum().backward()
        # The Jacobian is what the forward pass keeps for the backward one: an output of the pass, as in "jacobian".
        return [p.detach(), torch.empty(*p.shape, 6)]
    p = dr.line_integrals(q, *where, backend=backend)
    (p * p).sum().backward()
    assert q.values is not None
    assert q.values.grad is not None
    return [p.detach(), q.values.grad]


def settle() -> None:
    """Give freed memory back to the system, so that what is measured is new."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class Peak:
    """The most resident memory while it is entered [bytes]: the kernel's own mark on Linux, elsewhere by watching."""

    def __enter__(self) -> "Peak":
        settle()
        self.process = psutil.Process()
        self.before = self.most = self.process.memory_info().rss
        self.marked = _reset_mark()
        self.done = Event()
        self.watch = Thread(target=self._watch, daemon=True)
        if not self.marked:
            self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        if self.marked:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            self.most = 1024 * int(line.split()[1])
        else:
            self.watch.join()

    def _watch(self) -> None:
        while not self.done.is_set():
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.001)


def _reset_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def main(backend: str, name: str) -> None:
    torch.set_num_threads(2)
    small = cases.synthetic((24, 24, 24), (1.0, 1.1, 0.9), (24, 24), 40.0)
    case = cases.cube((512, 512)) if name == "cube" else cases.slab()
    found = {}
    for task in TASKS:
        for part in (small, case):
            part.values.requires_grad_(task == "volume gradient").grad = None
        run(prepare(small.values), small, backend, task)  # kernels loaded, threads started, torch's own tables made
        q = prepare(case.values)
        with Peak() as peak:
            results = run(q, case, backend, task)
        outputs = sum(r.numel() * r.element_size() for r in results)
        found[task] = {"extra_mib": (peak.most - peak.before - outputs) / 2**20, "outputs_mib": outputs / 2**20}
        del q, results
    print(json.dumps({"what": case.what, "found": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
