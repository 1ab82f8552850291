"""`run.py test` and the environment that has Slicer's classes: made once, left out where it cannot be, and said.

In a small checkout like those of test_run.py, whose pytest and slicer-core are toys that say where they run.
"""

import ast
import zipfile
from pathlib import Path

import pytest

import run
from Testing.library.test_run import PYPROJECT, make_checkout, make_wheel, type_in

PYTEST = """import importlib.util, os, sys
slicer = importlib.util.find_spec("slicer_core") is not None
if __name__ == "__main__":
    import toy
    print(repr((slicer, sys.argv[1:])))
    sys.exit(int(os.environ.get("BRIDGE" if slicer else "LIBRARY", "0")))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """toy and a pytest; slicer-core and its VTK are in the folder `more` beside."""
    folder = tmp_path_factory.mktemp("Räder") / "few"
    make_wheel(folder, "toy", "1.5")
    path = make_wheel(folder, "pytest", "9.0")
    with zipfile.ZipFile(path) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, PYTEST if name == "pytest.py" else content)
    more = folder.parent / "more"
    named = [one.partition("==") for one in run.SLICER_CORE]
    for name, version in [(name.replace("-", "_"), version) for name, _, version in named]:
        make_wheel(more, name, version)
    for file in folder.iterdir():
        (more / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    folder = make_checkout(tmp_path_factory.mktemp("Übung mit Leerzeichen") / "checkout")
    (folder / "pyproject.toml").write_text(PYPROJECT.replace('"toy>=1"', '"toy>=1", "pytest>=1"'))
    (folder / "constraints.txt").write_text("toy==1.5\npytest==9.0\n")
    (folder / "Testing" / "mrml").mkdir(parents=True)
    (folder / "Testing" / "host").mkdir()
    (folder / "Testing" / "library").mkdir()
    return folder


def runs(result) -> list:
    """(has slicer-core, arguments) of each pytest that ran."""
    return [ast.literal_eval(line) for line in result.stdout.splitlines()]


def test_the_bridge_is_skipped_and_said_where_slicer_core_is_not(checkout, wheels):
    result = type_in(checkout, "test", "-q", "--wheelhouse", str(wheels))
    assert result.returncode == 0, result.stderr
    assert runs(result) == [(False, ["-q"])]
    places = " and ".join(run.SLICER_TESTS)
    assert f"run.py: the tests in {places} are skipped, since they need slicer-core==" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_bridge_runs_beside_the_library(checkout, wheels):
    offline = ("--wheelhouse", str(wheels.parent / "more"))
    bridge, host, library = (str(Path("Testing", name)) for name in ("mrml", "host", "library"))
    all_ = [(True, ["-k", "name", bridge]), (True, ["-k", "name", host]), (False, ["-k", "name"])]
    first = type_in(checkout, "test", "-k", "name", *offline)
    assert (first.returncode, runs(first)) == (0, all_), first.stderr
    assert "making " in first.stderr
    again = type_in(checkout, "test", "-k", "name", PIP_NO_INDEX="1")
    assert (again.returncode, runs(again), again.stderr) == (0, all_, "")
    assert runs(type_in(checkout, "test", library)) == [(False, [library])]
    assert runs(type_in(checkout, "test", bridge, "-x")) == [(True, ["-x", bridge])]
    # A failure of one is the whole's; 5 is pytest's word for no test of that name, which one of them may lack.
    ends = (({"BRIDGE": "1"}, 1), ({"LIBRARY": "1"}, 1), ({"BRIDGE": "5"}, 0), ({"LIBRARY": "5"}, 0))
    for settings, status in (*ends, ({"BRIDGE": "5", "LIBRARY": "5"}, 5)):
        result = type_in(checkout, "test", **settings)
        assert (result.returncode, len(runs(result))) == (status, 3), settings
