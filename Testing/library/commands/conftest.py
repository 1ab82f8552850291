"""A small patient on disk, and the program as people start it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Each line of stdout as the JSON it must be."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Patient:
    """Files of one small body: `liver` (id 3) in the middle, `bone` (id 7) up in the patient's left."""

    ct: Path
    labels: Path
    names: Path


@pytest.fixture
def typed(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ended]:
    """Type a command in an empty working directory, without the cost of another interpreter."""
    from diffrender.__main__ import main

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def type_(*words: object) -> Ended:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Ended(code, *capfd.readouterr())

    return type_


@pytest.fixture
def open_stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stdin that stays open and says nothing, as a panel's that waits: with --json its end is the wish to stop."""
    ours, theirs = os.pipe()
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield
        os.close(theirs)


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start the real program, or a script; keywords as for Popen."""

    def start(*words: object, script: str | None = None, env: dict[str, str] | None = None, **more: Any):
        if script is None:
            what = ["-m", "diffrender"]
        else:
            (tmp_path / "script.py").write_text(script, encoding="utf-8")
            what = [str(tmp_path / "script.py")]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, *what, *[str(word) for word in words]]
        return subprocess.Popen(command, **{"env": environment, "cwd": tmp_path, **pipes, **more})

    return start


def ended(process: subprocess.Popen, typed: str | None = None) -> Ended:
    """Wait for a program's end; `typed` goes to its stdin, which then ends."""
    out, err = process.communicate(typed, timeout=120)
    return Ended(process.returncode, out, err)


@pytest.fixture(name="ended")
def ended_fixture() -> Callable[..., Ended]:
    return ended


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """A body of water in air, off centre, oblong voxels, in a folder with a space and an umlaut."""
    folder = tmp_path_factory.mktemp("patient") / "Bäuche 1"
    folder.mkdir()
    k, j, i = np.meshgrid(np.arange(18), np.arange(22), np.arange(26), indexing="ij")
    hu = np.full(k.shape, -1000, np.int16)
    hu[((i - 12) / 10) ** 2 + ((j - 11) / 8) ** 2 + ((k - 8) / 7) ** 2 < 1] = 20
    ids = np.zeros(k.shape, np.uint8)
    ids[6:9, 9:13, 10:14] = 3
    ids[11:14, 9:13, 17:20] = 7  # i grows to the patient's left (LPS), k to the head
    hu[ids == 7] = 900
    for array, name in ((hu, "ct.nii.gz"), (ids, "labels.nrrd")):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((9.0, 11.0, 13.0))
        image.SetOrigin((-90.0, -140.0, 35.0))
        SimpleITK.WriteImage(image, str(folder / name))
    (folder / "names.csv").write_text("id,name\n3,liver\n7,bone\n", encoding="utf-8")
    return Patient(folder / "ct.nii.gz", folder / "labels.nrrd", folder / "names.csv")
