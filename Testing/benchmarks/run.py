"""The benches: `python run.py bench [NAMES...]`. Each runs in a process of its own, prints a table and stores it.

`bench` without names runs all; `--list` names them; `--page` only rewrites docs/benchmarks.md from what is stored.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPOSITORY / "Testing"), str(REPOSITORY)]

import peers  # noqa: E402  the path above first
import report  # noqa: E402

SKIPPED = 77  # the exit code of a bench that has nothing to measure here


@dataclass(frozen=True)
class Bench:
    """A bench is `function` of `module`; it needs about `minutes` at most, and the peers' environment or not."""

    module: str
    function: str
    minutes: float
    with_peers: bool = False


BENCHES = {
    "pose-256": Bench("bench_pose", "pose_256", 3, with_peers=True),
    "pose-512": Bench("bench_pose", "pose_512", 5, with_peers=True),
    "threads": Bench("bench_resources", "threads", 1),
    "memory": Bench("bench_resources", "memory", 3),
    "labels": Bench("bench_resources", "labels", 2),
    "imports": Bench("bench_resources", "imports", 1),
    "accuracy": Bench("bench_accuracy", "accuracy", 6),
    "chords": Bench("bench_accuracy", "chords", 2),
    "gradients": Bench("bench_gradients", "gradients", 3),
    "batch": Bench("bench_gradients", "batch", 1),
    "march": Bench("bench_march", "march", 8),
    "surface": Bench("bench_surface", "surface", 2),
    "shape": Bench("bench_shape", "shape", 12),
    "fit-floor": Bench("bench_fit", "floor", 6),
    "fit-protocol": Bench("bench_fit", "protocol", 30),
    "fit-deepfluoro": Bench("fit_deepfluoro", "deepfluoro", 30),
    "fit-ct": Bench("fit_ct", "registered", 15),
    "fit-wrist": Bench("fit_wrist", "wrist", 10),
    "diffdrr-picture": Bench("bench_accuracy", "picture", 1),
    "cuda": Bench("bench_cuda", "cuda", 2, with_peers=True),
    "dvr-lookup": Bench("bench_dvr", "lookup", 2),
    "dvr-annealing": Bench("bench_dvr", "annealing", 4),
    "dvr-painted": Bench("bench_dvr_painted", "painted", 10),
    "dvr-baked": Bench("bench_dvr_baked", "baked", 5),
    "dvr-resume": Bench("bench_dvr_sure", "resume", 5),
    "dvr-renderers": Bench("bench_dvr_sure", "renderers", 5),
    "dvr-tables": Bench("dvr_tables", "tables", 15),
    "synth-lungs": Bench("bench_synth_lungs", "lungs", 90),
    "synth-realism": Bench("bench_synth_realism", "realism", 30),
    "synth-hips": Bench("bench_synth_hips", "hips", 2),
    "synth-dataset": Bench("bench_synth_dataset", "dataset", 10),
    "physics-slabs": Bench("bench_beam", "slabs", 2),
    "physics-hvl": Bench("bench_beam", "half_value_layers", 1),
    "physics-noise": Bench("bench_physics", "noise", 1),
    "physics-scatter": Bench("bench_physics", "scatter", 2),
    "physics-gradients": Bench("bench_physics", "gradients", 1),
    "physics-radiograph": Bench("bench_physics", "radiograph", 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHES)}")
    parser.add_argument("--list", action="store_true", help="name the benches and how long each takes at most")
    parser.add_argument("--page", action="store_true", help="only rewrite docs/benchmarks.md from the stored results")
    parser.add_argument("--inside", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return _inside(arguments.inside)
    if unknown := [name for name in arguments.names if name not in BENCHES]:
        parser.error(f"there is no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    if arguments.list:
        for name, bench in BENCHES.items():
            print(f"{name:16} at most {bench.minutes:g} min" + ("  (with the peers)" if bench.with_peers else ""))
        return 0
    codes = [] if arguments.page else [_outside(name) for name in arguments.names or BENCHES]
    report.write_page(list(BENCHES))
    print(f"\n{report.PAGE.relative_to(REPOSITORY)} is written.")
    return max(codes, default=0)


def _outside(name: str) -> int:
    """Run one bench in a child of the right interpreter, within its budget; 0 where all it promises holds."""
    bench = BENCHES[name]
    interpreter = peers.python() if bench.with_peers else Path(sys.executable)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    print(f"\n{name}: at most {bench.minutes:g} minutes ...", flush=True)
    try:
        # Three times the budget, since a busy machine is slower; then something hangs.
        command = [interpreter, __file__, "--inside", name]
        child = subprocess.run(command, check=False, env=environment, timeout=180 * bench.minutes)
    except subprocess.TimeoutExpired:
        print(f"{name} did not end within {3 * bench.minutes:g} minutes and was stopped.")
        return 1
    return 0 if child.returncode == SKIPPED else child.returncode


def _inside(name: str) -> int:
    bench, start = BENCHES[name], time.perf_counter()
    result = getattr(importlib.import_module(bench.module), bench.function)()
    if result is None:
        return SKIPPED
    path = report.store(name, result, time.perf_counter() - start)
    report.show(name, json.loads(path.read_text(encoding="utf-8")))
    return int(any(row.holds is False for row in result.rows))


if __name__ == "__main__":
    sys.exit(main())
