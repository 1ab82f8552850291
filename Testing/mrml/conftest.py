"""A scene as Slicer makes one, without Slicer: slicer-core has the nodes and the logics, no window and no module.

`python run.py test` makes the environment of these tests, .venv-slicer. In an environment without slicer-core they are
left out.
"""

import importlib.util

import pytest

from Testing.mrml.scenes import Slicer

HERE = importlib.util.find_spec("slicer_core") is not None
collect_ignore_glob = [] if HERE else ["test_*.py"]


def pytest_report_header() -> str:
    return "" if HERE else "Testing/mrml is left out: no slicer-core here; `python run.py test` installs it"


@pytest.fixture
def make_slicer(tmp_path_factory):
    """A function that makes one scene after another, such as to save in one and to open in the next."""
    return lambda: Slicer(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def slicer_(make_slicer):
    return make_slicer()


@pytest.fixture
def scene(slicer_):
    return slicer_.scene
