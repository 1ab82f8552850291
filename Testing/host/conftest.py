"""The desktop, and where its pictures go.

`python run.py test` makes the environment of these tests, .venv-slicer. Without slicer-core or PySide6, and on Windows,
they are left out.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # desktop, scenes and parts, whatever pytest takes its settings from
HERE = all(map(importlib.util.find_spec, ("slicer_core", "PySide6"))) and sys.platform != "win32"
collect_ignore_glob = [] if HERE else ["test_*.py"]


def pytest_report_header() -> str:
    return (
        "" if HERE else "Testing/host is left out: no slicer-core and PySide6 here; `python run.py test` installs them"
    )


@pytest.fixture
def desktop():
    from desktop import Desktop

    one = Desktop()
    yield one
    one.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """A folder for a person to look at: DIFFRENDER_PICTURES, or a temporary one."""
    return Path(os.environ.get("DIFFRENDER_PICTURES") or tempfile.mkdtemp(prefix="diffrender-panels-"))
