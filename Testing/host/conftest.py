"""The desktop, and where its pictures go. All of it skips where PySide6 or slicer-core is missing."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # desktop, scenes and parts, whatever pytest takes its settings from
pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6.QtUiTools", reason="PySide6 is not installed")


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
