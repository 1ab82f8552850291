"""What it costs beside arithmetic: threads, memory, labels in the same pass, the time to import."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cases
import clock
import psutil
import torch
from report import Result, Row, at_least, at_most

import diffrender as dr

REPOSITORY = Path(__file__).resolve().parents[2]
IDLE = 10  # [%] of all cores, in the seconds before: more makes two threads wait for each other
PROBE = Path(__file__).with_name("memory_probe.py")


def threads() -> Result | None:
    """Wall time with two threads against one: 256^3 at 512 x 512, on a machine that does nothing else."""
    if (os.cpu_count() or 1) < 2:
        print("threads: this machine has one core; nothing to compare.")
        return None
    if (busy := psutil.cpu_percent(interval=3)) > IDLE:
        print(f"threads: the machine is {busy:.0f} % busy with other work; nothing is measured, a stored result stays.")
        return None
    case = cases.cube((512, 512))
    q = dr.prepare(case.values)

    def run(count: int, jacobian: bool) -> None:
        torch.set_num_threads(count)
        xi = torch.zeros(6, dtype=torch.float64, requires_grad=jacobian)
        p = dr.line_integrals(q, case.world_from_voxel, case.camera, xi, backend="warp")
        if jacobian:
            p.sum().backward()

    contenders = {
        f"{what}, {n} thread" + "s" * (n > 1): (lambda n=n, j=j: run(n, j))
        for what, j in (("forward", False), ("forward and pose gradient", True))
        for n in (1, 2)
    }
    times = clock.take_turns(contenders, seconds=25, least=10)
    rows = []
    for what in ("forward", "forward and pose gradient"):
        one, two = times[f"{what}, 1 thread"], times[f"{what}, 2 threads"]
        # The least of many: on a machine with other work the median tells of that work, not of ours.
        rows.append(at_least(f"two threads against one, {what}", one.least_wall_ms / two.least_wall_ms, 1.7))
        rows.append(
            Row(f"{what}, wall ms least, 1 / 2 threads", "", f"{one.least_wall_ms:.0f} / {two.least_wall_ms:.0f}")
        )
    notes = [f"{case.what}; fused kernel, float32, least wall time; other work took {busy:.0f} % of the machine."]
    return Result(rows, {name: t.as_dict() for name, t in times.items()}, notes)


def memory() -> Result:
    """Extra peak memory beyond inputs, outputs and the one prepared copy, each measured in a process of its own."""
    rows, figures = [], {}
    for backend, name, asked in (("warp", "fused kernel", 32), ("torch", "torch twin", 256)):
        for case in ("cube", "slab"):
            command = [sys.executable, str(PROBE), backend, case]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures[f"{backend} {case}"] = probed = json.loads(output.splitlines()[-1])
            tasks = {task: round(found["extra_mib"], 1) for task, found in probed["found"].items()}
            each = ", ".join(f"{task} {extra:g}" for task, extra in tasks.items())
            rows.append(at_most(f"{name}, {probed['what']}", max(tasks.values()), asked, " MB"))
            rows.append(Row("of that", "", f"{each} MB"))
    return Result(
        rows, figures, ["Peak resident memory of the process less what it held before and the results' own size."]
    )


def labels() -> Result | None:
    """A radiograph with all label masks against the radiograph alone, on the real abdomen CT."""
    from diffrender.io import read_volume
    from diffrender.xray import scene_of

    folder = cases.DATA / "ct-abdomenpelvis-totalseg"
    if not folder.exists():
        print(f"labels: {folder} does not exist (DIFFRENDER_DATA names the folder that holds it).")
        return None
    torch.set_num_threads(1)
    volume = read_volume(folder / "ct.nii.gz", folder / "labels_totalsegv1_multilabel.nii.gz", folder / "labels.csv")
    camera = dr.c_arm(volume, 15, -10, pixel_size=1.165, image_size=(256, 256))
    alone = dr.RadiographSettings(labels=False)
    held, held_alone = scene_of(volume), scene_of(volume, alone)
    contenders = {
        "one radiograph, alone": lambda: dr.radiograph(volume, camera, alone),
        "one radiograph, with masks": lambda: dr.radiograph(volume, camera),
        "of a prepared scene, alone": lambda: dr.radiograph(held_alone, camera),
        "of a prepared scene, with masks": lambda: dr.radiograph(held, camera),
    }
    times = clock.take_turns(contenders, seconds=20)
    rows = []
    for what in ("one radiograph", "of a prepared scene"):
        without, with_masks = (times[f"{what}, {n}"].cpu_ms for n in ("alone", "with masks"))
        count = len(volume.label_ids)
        rows.append(at_most(f"{what}: with {count} label masks against alone", with_masks / without, 3, "x the time"))
        rows.append(Row(f"{what}: CPU ms least, alone / with masks", "", f"{without:.1f} / {with_masks:.1f}"))
    notes = ["dr.radiograph from HU to masks, 122 x 101 x 112 voxels at 256 x 256 px, one thread, fused kernel."]
    return Result(rows, {name: t.as_dict() for name, t in times.items()}, notes)


def imports() -> Result:
    """`import diffrender` and `python -m diffrender --help`, each in fresh interpreters; the least of ten."""
    timed = "import time; t = time.perf_counter(); import diffrender; print(time.perf_counter() - t)"
    heavy = "import sys, diffrender; print(sorted({'torch', 'numpy', 'vtk', 'jaxtyping'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode

    def python(*arguments: str) -> tuple[str, float]:
        start = time.perf_counter()
        command = [sys.executable, *arguments]
        output = subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True)
        return output.stdout.strip(), time.perf_counter() - start

    imported = min(float(python("-c", timed)[0]) for _ in range(10))
    helped = min(python("-m", "diffrender", "--help")[1] for _ in range(10))
    brings = python("-c", heavy)[0]
    rows = [
        at_most("import diffrender", imported, 0.1, " s"),
        Row("heavy packages that `import diffrender` brings", "none", brings, brings == "[]"),
        at_most("python -m diffrender --help", helped, 1.0, " s"),
    ]
    return Result(rows, {"import_s": imported, "help_s": helped})
