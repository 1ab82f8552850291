"""What tests put into a scene or a folder."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import slicer
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonDataModel import vtkImageData

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")  # made by run.py, has torch

WRITE = """
import sys
from pathlib import Path

import labelled_cts

for path in labelled_cts.write(Path(sys.argv[1])):
    print(path)
"""


def labelled_ct(folder: Path) -> list[str]:
    """Paths of a small CT, of its labels and of their names."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "Testing")]))
    command = [str(LIBRARY), "-c", WRITE, str(folder)]
    written = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return written.stdout.splitlines()


def ct_node(path: Path):
    """A volume node that `path` holds."""
    values = np.arange(2 * 3 * 4, dtype=np.int16)
    image = vtkImageData()
    image.SetDimensions(4, 3, 2)
    image.GetPointData().SetScalars(numpy_to_vtk(values, deep=True))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", path.stem)
    node.SetAndObserveImageData(image)
    node.AddDefaultStorageNode()
    storage = node.GetStorageNode()
    storage.SetFileName(str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    assert storage.WriteData(node), path
    return node


def python_slicer(folder: Path, python: str | Path) -> Path:
    """A PythonSlicer in `folder` that runs `python`, as Slicer's launcher does: in a process of its own."""
    program = folder / "PythonSlicer"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\n"{python}" "$@"\ncode=$?\nexit $code\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip()) and not listed.stdout.strip().startswith("Z")


assert sys.platform != "win32", "the stand-in runs on Linux and macOS"
