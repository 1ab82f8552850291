"""run.py as a newcomer meets it: each test types the command in a small checkout whose path has spaces and an umlaut.

The checkout has the real run.py; its pyproject.toml asks for one toy package, so that an installation takes seconds.
Nothing stands in for pip, venv, the disk, the network or an old Python: where a machine has no way to it, the test is
skipped and says so.
"""

import contextlib
import functools
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).resolve().parents[2]
PAYLOAD = 3_000_000  # [bytes], of the toy wheel, which is not compressed
MAIN = "import os, sys, toy; print(toy.__version__, os.getcwd(), sys.argv[1:])\n"
PYPROJECT = """[project]
dependencies = [
    "toy>=1",  # a comment, as in the real file
]

[project.optional-dependencies]
fast = []
learn = []
test = []
"""


def make_wheel(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    what = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"__version__ = {version!r}\n")
        wheel.writestr(f"{name}.bin", bytes(PAYLOAD))
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", what)
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_checkout(folder: Path) -> Path:
    (folder / "diffrender").mkdir(parents=True)
    shutil.copy(ROOT / "run.py", folder)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "constraints.txt").write_text("toy==1.5\n")
    (folder / "diffrender" / "__init__.py").touch()
    (folder / "diffrender" / "__main__.py").write_text(MAIN)
    return folder


def clean_environment(**more: str) -> dict[str, str]:
    """Without the settings for pip that this machine may have."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "VIRTUAL_ENV"))}
    return {**ours, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_CACHE_DIR": "off", **more}


def type_in(checkout: Path, *words: str, python: str = sys.executable, **environment: str):
    """`python run.py WORDS`, typed in the folder above the checkout."""
    command = [python, os.path.join(checkout.name, "run.py"), *words]
    place = checkout.parent
    env = clean_environment(**environment)
    return subprocess.run(command, cwd=place, env=env, capture_output=True, encoding="utf-8", check=False, timeout=120)


def assert_refused(result, words: str) -> None:
    """One sentence, exit code 2, and no traceback. (What run.py says before that is said of what it does.)"""
    assert result.returncode == 2, result.stderr
    assert re.search(words, result.stderr.splitlines()[-1]), result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert all(line.startswith("run.py: ") for line in result.stderr.splitlines()), result.stderr


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Räder und Speichen")
    for version in ("1.0", "1.5", "2.0"):
        make_wheel(folder, "toy", version)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Path:
    """A checkout after its first start; to be copied, not changed."""
    checkout = make_checkout(tmp_path_factory.mktemp("Übung mit Leerzeichen") / "checkout")
    result = type_in(checkout, "hello", "--wheelhouse", str(wheelhouse))
    assert result.returncode == 0, result.stderr
    return checkout


@pytest.fixture
def started(installed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(installed, tmp_path / "Übung mit Leerzeichen" / "checkout", symlinks=True)


def take_toy_out(checkout: Path) -> Path:
    """As after an installation that was cut off before the first package: an environment that holds nothing."""
    for path in Path(run.packages_in(str(checkout / ".venv"))).glob("toy*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    Path(run.stamp_in(str(checkout / ".venv"))).unlink()
    return checkout


@pytest.fixture
def empty(started: Path) -> Path:
    return take_toy_out(started)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A checkout before its first start."""
    return make_checkout(tmp_path / "neu und Übung" / "checkout")


def test_first_start_installs_and_hands_the_arguments_on(fresh, wheelhouse):
    result = type_in(fresh, "radiograph", "--wheelhouse", str(wheelhouse), "eine Datei.nii", "--size", "64")
    assert result.returncode == 0, result.stderr
    # The version is that of constraints.txt though a later one lies there; the place is the one it was typed in.
    assert result.stdout.strip() == f"1.5 {fresh.parent} ['radiograph', 'eine Datei.nii', '--size', '64']"
    assert "making " in result.stderr
    assert "installing toy" in result.stderr


def test_second_start_only_looks(started):
    begin = time.perf_counter()
    result = type_in(started, "hello", PIP_NO_INDEX="1")
    assert time.perf_counter() - begin < 3.0  # [s], what the project promises; about 0.2 where it is idle
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("1.5 ")


def test_library_is_found_from_anywhere_and_after_a_move(started):
    moved = started.rename(started.parent / "ein anderer Ört")
    python = run.python_in(str(moved / ".venv"))
    command = [python, "-c", "import diffrender; print(diffrender.__file__)"]
    asked = subprocess.run(command, capture_output=True, cwd="/", check=True)
    assert Path(os.fsdecode(asked.stdout).strip()) == moved / "diffrender" / "__init__.py"


def test_a_changed_lock_is_installed(started, wheelhouse):
    (started / "constraints.txt").write_text("toy==2.0\n")
    result = type_in(started, "hello", "--wheelhouse", str(wheelhouse))
    assert result.stdout.startswith("2.0 "), result.stderr


def test_an_installation_that_was_cut_off_goes_on(started, wheelhouse):
    shutil.rmtree(run.packages_in(str(started / ".venv")) + "/toy-1.5.dist-info")
    result = type_in(started, "hello", "--wheelhouse", str(wheelhouse))
    assert "installing toy" in result.stderr
    assert "making" not in result.stderr
    assert result.stdout.startswith("1.5 ")


def test_a_failed_installation_leaves_no_stamp(started, tmp_path):
    (started / "pyproject.toml").write_text(PYPROJECT.replace("toy>=1", "toy>=3"))
    (started / "constraints.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # the second time it is tried, and said, again
        result = type_in(started, "hello", "--wheelhouse", str(tmp_path / "empty"))
        assert_refused(result, "empty has no wheel of toy>=3 for this Python")


def test_a_wheelhouse_that_lacks_a_package_names_it(empty, tmp_path):
    (tmp_path / "bare").mkdir()
    assert_refused(type_in(empty, "hello", "--wheelhouse", str(tmp_path / "bare")), "bare has no wheel of toy for this")


def test_an_environment_made_by_hand_is_taken_over(fresh, wheelhouse):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", fresh / ".venv"], check=True)
    python = run.python_in(str(fresh / ".venv"))
    subprocess.run([python, "-m", "ensurepip"], check=True, capture_output=True)
    mark = fresh / ".venv" / "mine.txt"
    mark.touch()
    result = type_in(fresh, "hello", "--wheelhouse", str(wheelhouse))
    assert result.stdout.startswith("1.5 "), result.stderr
    assert "making" not in result.stderr
    assert mark.exists()


def test_a_broken_environment_is_said_and_made_anew(started, wheelhouse):
    python = Path(run.python_in(str(started / ".venv")))
    python.unlink()
    python.symlink_to("/there/is/no/such/python")  # what an upgrade of the system's Python leaves
    result = type_in(started, "hello", "--wheelhouse", str(wheelhouse))
    assert "is broken, or of another Python: making it anew" in result.stderr
    assert result.stdout.startswith("1.5 ")


def test_no_network_is_one_sentence(empty):
    assert_refused(type_in(empty, "hello", PIP_INDEX_URL="http://127.0.0.1:9/simple"), "There is no network")


def test_an_index_without_the_package_is_one_sentence(empty):
    assert_refused(type_in(empty, "hello", PIP_NO_INDEX="1"), "pip could not install it: ERROR: Cannot install toy>=1")


def test_a_wheelhouse_that_is_none_is_one_sentence(fresh):
    for words in (["--wheelhouse", "no such folder"], ["--wheelhouse=no such folder"], ["--wheelhouse"]):
        result = type_in(fresh, "hello", *words)
        assert_refused(result, "--wheelhouse needs a folder of wheels")
        assert not (fresh / ".venv").exists()


@contextlib.contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path]:
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk could be mounted here (only root may): {os.fsdecode(mounted.stderr).strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a small disk, which is Linux's")
@pytest.mark.parametrize("at", ["the environment", "the package"])
def test_a_full_disk_is_one_sentence(tmp_path, wheelhouse, installed, at):
    with small_disk(tmp_path / "kleine Scheibe", "size=100m") as disk:
        checkout = shutil.copytree(installed, disk / "checkout", symlinks=True)
        if at == "the environment":
            shutil.rmtree(checkout / ".venv")
        else:
            take_toy_out(checkout)
        free = shutil.disk_usage(disk).free
        (disk / "full").write_bytes(bytes(free - PAYLOAD // 3))
        assert_refused(type_in(checkout, "hello", "--wheelhouse", str(wheelhouse)), "The disk is full: make room")
        (disk / "full").unlink()
        assert type_in(checkout, "hello", "--wheelhouse", str(wheelhouse)).returncode == 0


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path, wheelhouse):
    with contextlib.ExitStack() as stack:
        if sys.platform.startswith("linux") and os.geteuid() == 0:  # whom no permission stops
            disk = stack.enter_context(small_disk(tmp_path / "nur lesen", "size=1m"))
            checkout = make_checkout(disk / "checkout")
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        else:
            checkout = make_checkout(tmp_path / "nur lesen" / "checkout")
            checkout.chmod(0o555)
        assert_refused(type_in(checkout, "hello", "--wheelhouse", str(wheelhouse)), "Nothing can be written to ")


@contextlib.contextmanager
def package_index(folder: Path, length: bool = True) -> Iterator[str]:
    """The address of an index that serves the wheels of a folder, with or without telling their length."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def send_header(self, keyword, value):
            if length or keyword != "Content-Length" or self.command != "HEAD":
                super().send_header(keyword, value)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (True, "to download: up to 3.0 MB in 1 files (toy 3.0 MB)."),
        (False, "how large the download is could not be found out."),
    ],
)
def test_the_size_of_a_download_is_said_before_it(empty, tmp_path, length, said):
    make_wheel(tmp_path / "index" / "toy", "toy", "1.5")
    with package_index(tmp_path / "index", length) as address:
        result = type_in(empty, "hello", PIP_INDEX_URL=address)
    lines = result.stderr.splitlines()
    assert result.stdout.startswith("1.5 "), result.stderr
    positions = [next(n for n, line in enumerate(lines) if words in line) for words in (said, "installing toy")]
    assert positions == sorted(positions)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT for a group of processes on Windows")
def test_ctrl_c_is_one_line(empty):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and never answers
        process = subprocess.Popen(
            [sys.executable, "run.py", "hello"],
            cwd=empty,
            env=clean_environment(PIP_INDEX_URL=f"http://127.0.0.1:{silent.getsockname()[1]}/"),
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        silent.settimeout(60)
        call = silent.accept()[0]
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=30)[1]
        call.close()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "run.py: Stopped. The same command goes on from here."
    assert "Traceback" not in errors


def other_pythons() -> list[str]:
    """Pythons of this machine that DiffRender cannot run on."""
    names = [f"python{version}" for version in ("2.7", "3.6", "3.7", "3.8", "3.9", "3.13", "3.14")]
    found = [shutil.which(name) for name in names]
    found += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/*/bin/python"))]
    question = "import sys; print(not (3, 10) <= sys.version_info < (3, 13))"
    starts = [path for path in found if path and run.run_quietly([path, "-c", question])[1].strip() == "True"]
    return sorted(set(starts)) or [""]


@pytest.mark.parametrize("python", other_pythons())
def test_a_python_too_old_or_too_new_is_one_sentence_or_finds_another(python, fresh, started, tmp_path):
    if not python:
        pytest.skip("no Python below 3.10 or above 3.12 was found here")
    (tmp_path / "empty").mkdir()
    result = type_in(fresh, "hello", python=python, PATH=str(tmp_path / "empty"))
    assert_refused(result, "DiffRender needs Python 3.10 to 3.12, this is Python [23].[0-9]+, and no other one was")
    assert not (fresh / ".venv").exists()
    result = type_in(started, "hello", python=python, PATH=str(tmp_path / "empty"))
    assert result.returncode == 0, result.stderr
    assert "is not one of 3.10 to 3.12; going on with" in result.stderr
    assert result.stdout.startswith("1.5 ")


def test_torch_and_numpy_that_are_there_are_kept(started, tmp_path):
    for one in ("torch-2.4.1+cpu", "torch-2.13.0", "numpy-1.26.4", "numpy-2.4.6", "toy-1.5"):
        make_wheel(tmp_path / "wheels", *one.split("-"))
    python = run.python_in(str(started / ".venv"))
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", tmp_path / "wheels"]
    subprocess.run([*pip, "torch==2.4.1+cpu", "numpy==1.26.4"], check=True, env=clean_environment())
    (started / "pyproject.toml").write_text(PYPROJECT.replace('"toy>=1"', '"toy>=1", "torch>=2.2", "numpy>=1.26"'))
    (started / "constraints.txt").write_text("toy==1.5\ntorch==2.13.0\nnumpy==2.4.6\n")
    result = type_in(started, "hello", "--wheelhouse", str(tmp_path / "wheels"))
    assert result.returncode == 0, result.stderr
    assert "keeping torch 2.4.1+cpu" in result.stderr
    versions = run.versions_in(run.packages_in(str(started / ".venv")), ".dist-info")
    assert (versions["torch"], versions["numpy"]) == ("2.4.1+cpu", "1.26.4")


def test_what_torch_of_another_version_may_want_otherwise_is_left_open():
    pinned = run.read(str(ROOT / "constraints.txt"))
    assert run.hold_torch(pinned, {}, {}) == pinned
    assert run.hold_torch(pinned, {"torch": "1.13.1"}, {}) == pinned  # too old to keep
    same = run.hold_torch(pinned, {"torch": "2.13.0+cpu", "numpy": "2.2.6"}, {})
    assert "\ntorch==2.13.0+cpu\n" in same
    assert re.findall(r"^numpy==.*", same, re.MULTILINE) == ["numpy==2.2.6"]
    assert "\nsympy==" in same
    other = run.hold_torch(pinned, {}, {"torch": "2.9.1+cpu"})  # from a wheelhouse
    assert re.findall(r"^torch==.*", other, re.MULTILINE) == ["torch==2.9.1+cpu"]
    assert not re.search(r"^(sympy|monai|triton|nvidia-)", other, re.MULTILINE)
    assert re.search(r"^scipy==", other, re.MULTILINE)


def test_run_reads_pyproject_as_toml_does():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML to compare with")
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [one for name in run.EXTRAS for one in extras[name]]
    assert run.project_requirements(*run.EXTRAS) == wanted


def test_constraints_are_exact_and_name_no_place():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    exact = r"[a-z0-9.-]+==[0-9][\w.]*(; [^;]+)?"
    assert [line for line in lines if not re.fullmatch(exact, line)] == []
    asked = {run.name_of(one) for one in run.project_requirements(*run.EXTRAS)}
    assert asked - {run.name_of(line) for line in lines} == set(), "asked for in pyproject.toml, not in constraints.txt"
