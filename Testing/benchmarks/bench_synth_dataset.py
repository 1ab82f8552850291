"""Data sets: how fast one process and two write them, and whether one that is killed ends as the same bytes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import DATA
from report import Result, Row, at_least, at_most

CT = ("ct-abdomenpelvis-totalseg",)
FILES = ("ct.nii.gz", "labels_totalsegv1_multilabel.nii.gz", "labels.csv")
IMAGES = 200
ASKED = 300.0  # s for these, two processes
KILLS, KILLED_IMAGES = 10, 40
REPOSITORY = Path(__file__).resolve().parents[2]


def dataset() -> Result | None:
    folder = DATA.joinpath(*CT)
    if not folder.exists():
        print(f"Nothing to measure: {folder} does not exist (DIFFRENDER_DATA names the folder that holds it).")
        return None
    with tempfile.TemporaryDirectory(prefix="diffrender-bench-") as temporary:
        place = Path(temporary)
        times = {workers: _timed(place / f"with {workers}", workers) for workers in (1, 2)}
        same = _hashes(place / "with 1") == _hashes(place / "with 2")
        size = sum(file.stat().st_size for file in (place / "with 2").rglob("*") if file.is_file())
        begun = _killed(place / "killed")
        _make(place / "killed", 2, KILLED_IMAGES).wait()
        _make(place / "whole", 1, KILLED_IMAGES).wait()
        identical = _hashes(place / "killed") == _hashes(place / "whole")
    rows = [
        at_most(f"{IMAGES} images, 2 workers, from the command to its end", times[2], ASKED, " s"),
        at_least("2 workers against 1, the whole command", times[1] / times[2], 1.6),
        Row("1 worker and 2: the same bytes", "byte-identical", _word(same), same),
        Row(
            f"killed (SIGKILL, its processes too) at {KILLS} random moments and resumed",
            "byte-identical",
            _word(identical),
            identical,
        ),
        Row("on disk, an image with its masks and path lengths", "", f"{size / IMAGES / 1e6:.2f} MB"),
    ]
    notes = [
        (
            "ct-abdomenpelvis-totalseg, 256 x 256 pixels, pelvis-ap with all its physics, all labels, PNG and NPZ. "
            f"Images that were there when it was killed: {', '.join(map(str, begun))} of {KILLED_IMAGES}."
        )
    ]
    return Result(rows, {"seconds": times, "killed at": begun, "bytes": size}, notes)


def _timed(folder: Path, workers: int) -> float:
    began = time.perf_counter()
    if _make(folder, workers, IMAGES).wait() != 0:
        raise RuntimeError("the command failed")
    return time.perf_counter() - began


def _killed(folder: Path) -> list[int]:
    """Begin, and be killed with all processes a random moment later, again and again. Returns the images left."""
    chance, begun = random.Random(7), []
    for _ in range(KILLS):
        before = _count(folder)
        process = _make(folder, 2, KILLED_IMAGES)
        wanted = before + chance.randint(0, 3)
        while process.poll() is None and _count(folder) <= wanted:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.6))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        begun.append(_count(folder))
    return begun


def _count(folder: Path) -> int:
    return len(list((folder / "images").glob("*.png"))) if (folder / "images").is_dir() else 0


def _make(folder: Path, workers: int, images: int) -> subprocess.Popen:
    ct, labels, names = (str(DATA.joinpath(*CT, name)) for name in FILES)
    words = ["synth", "dataset", ct, "--labels", labels, "--names", names, "--preset", "pelvis-ap"]
    words += ["--views", str(images), "--size", "256", "--workers", str(workers), "-o", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffrender", *words]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=quiet, stderr=quiet, start_new_session=True
    )


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "provenance.json"  # the one that holds a time and the number of workers
    }


def _word(same: bool) -> str:
    return "byte-identical" if same else "differs"
