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


def test_without_a_cache_the_torch_twin_serves(tmp_path):
    (tmp_path / "file").write_text("no folder")
    auto = render(tmp_path / "file" / "cache", "auto")
    assert auto.stdout == "0.2100\n", auto.stderr
    assert "Everything still works, slower, in plain torch" in auto.stderr
    by_name = render(tmp_path / "file" / "cache", "warp")
    assert by_name.returncode == 1
    assert "BackendError: The warp backend was asked for and cannot run" in by_name.stderr
