"""The linter and the type checker, so that `python run.py test` is all there is to type. pyproject.toml sets them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_ruff_finds_nothing():
    checked = run("ruff", "check", "--quiet", "--output-format=concise", ".")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_pyright_finds_nothing():
    pytest.importorskip("pyright")
    if run("pyright", "--version").returncode:
        pytest.skip("pyright does not start; it needs node.js, and downloads one when there is none")
    checked = run("pyright")
    assert checked.returncode == 0, checked.stdout + checked.stderr
