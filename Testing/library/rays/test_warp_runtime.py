"""Warp as a user's machine has it: its cache in a folder with umlauts, a cache that cannot be written, no noise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("warp")

REPOSITORY = Path(__file__).resolve().parents[3]
RENDER = """
import warnings, torch, diffrender as dr
warnings.simplefilter("always")
volume = dr.Volume(torch.full((6, 7, 8), 1000, dtype=torch.int16), torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
p = dr.line_integrals(dr.prepare(volume.values, 1e-5), volume.world_from_voxel, dr.c_arm(volume), backend=BACKEND)
print(f"{p.max().item():.4f}")
"""


def render(cache: Path, backend: str = "warp") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", RENDER.replace("BACKEND", repr(backend))],
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "WARP_CACHE_PATH": str(cache), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )


def test_kernels_are_compiled_once_said_and_kept_in_a_folder_with_umlauts(tmp_path):
    cache = tmp_path / "Überprüfung für Ärzte"
    first = render(cache)
    # Seven voxels of 3 mm along y, air within one voxel at both ends: the middle ray runs through 21 mm.
    assert first.stdout == "0.2100\n", first.stderr
    assert "Compiling the ray kernels for int16 volumes for cpu: once" in first.stderr
    assert str(cache) in first.stderr
    again = render(cache)
    assert again.stdout == "0.2100\n"
    assert again.stderr == ""  # neither the notice, nor warp's banner, nor its word on a missing GPU


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("no folder")
    run = render(tmp_path / "file" / "cache")
    assert run.stdout == "0.2100\n", run.stderr
    assert "compiled anew in every run. Set WARP_CACHE_PATH to a folder that can be written" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
