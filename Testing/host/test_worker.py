"""Commands of the library in processes of their own: results, faults, hangs, Cancel, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from scenes import LIBRARY, alive, labelled_ct, python_slicer

HERE = Path(__file__).parent
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="python run.py has not made .venv yet")
SOON = 3.0  # s from Cancel to gone: 2 s of patience, and what the machine takes

# A library of ours in the place of `diffrender`: one file that does what a fault would make the real one do.
COMMANDS = {
    "crash": """
        import os, sys
        for n in range(500): print("line", n, file=sys.stderr)
        print("the last thing it said", file=sys.stderr, flush=True)
        os.abort()
    """,
    "exits": "import sys; print('gone wrong', file=sys.stderr); sys.exit(3)",
    "no-typer": "import a_package_that_nobody_has",
    "refuses": """
        import json, sys
        print(json.dumps({"type": "error", "kind": "PathError", "message": "x.nrrd is missing.", "exit_code": 2}))
        sys.exit(2)
    """,
    "hang": """
        import signal, subprocess, sys, time
        for one in (signal.SIGTERM, signal.SIGINT): signal.signal(one, signal.SIG_IGN)
        child = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        children = [subprocess.Popen([sys.executable, "-c", child]) for _ in range(2)]
        print("children", *[one.pid for one in children], file=sys.stderr, flush=True)
        time.sleep(600)
    """,
    "polite": """
        import json, sys
        print(json.dumps({"type": "progress", "done": 1, "total": 4, "seconds_left": 9.0}), flush=True)
        asked = sys.stdin.readline()  # '' at its end
        print(json.dumps({"type": "error", "kind": "Stopped", "message": "Stopped after 1 of 4. " + repr(asked),
                          "exit_code": 130}))
        sys.exit(130)
    """,
    "flood": """
        import json, sys
        for n in range(20000): print("x" * 100, file=sys.stderr)
        for n in range(2000): print(json.dumps({"type": "progress", "done": n, "total": 2000}))
        print("no JSON, from some package")
        print('{"type": "resu', end="", flush=True)
        import time; time.sleep(0.2)
        sys.stdout.buffer.write('lt", "name": "B\\u00e4ume"}'.encode()); sys.stdout.flush()
    """,
}


@pytest.fixture
def worker(tmp_path, monkeypatch, desktop):
    """Starts a Worker whose words are a name of COMMANDS; kills at the end what a failed test left."""
    from DiffRenderLib import worker as part

    faults = tmp_path / "faults" / "diffrender"
    faults.mkdir(parents=True)
    (faults / "__init__.py").touch()
    codes = json.dumps({name: textwrap.dedent(code) for name, code in COMMANDS.items()})
    (faults / "__main__.py").write_text(f"import sys\nexec({codes}[sys.argv[1]])\n")
    program = python_slicer(tmp_path / "bin with spaces and ü", sys.executable)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(part, "__file__", str(tmp_path / "faults" / "DiffRenderLib" / "worker.py"))
    started = []

    def start(name, **callbacks):
        ends = []
        one = part.Worker([name], ends.append, **callbacks)
        one.ends = ends
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


@pytest.fixture
def library(tmp_path, monkeypatch, desktop):
    """Starts a Worker of the real library."""
    from DiffRenderLib import worker as part

    program = python_slicer(tmp_path / "bin", LIBRARY)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def start(words, **callbacks):
        ends = []
        one = part.Worker(words, ends.append, **callbacks)
        one.ends = ends
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


def tree_of(pid):
    from DiffRenderLib.processes import descendants

    return [pid, *descendants(pid)]


def test_a_crash_is_told_with_its_last_words(desktop, worker):
    one = worker("crash")
    desktop.wait(lambda: one.ends)
    (end,) = one.ends
    assert end.state == "failed"
    assert "ended unexpectedly" in end.message
    assert any("the last thing it said" in line for line in end.log[-3:])
    assert "line 499" in end.log
    assert 150 < len(end.log) <= 200, "the last words, not all of them"
    assert not one.running


@pytest.mark.parametrize(("name", "words"), [("exits", "gone wrong"), ("no-typer", "a_package_that_nobody_has")])
def test_an_end_without_a_result_is_a_failure(desktop, worker, name, words):
    one = worker(name)
    desktop.wait(lambda: one.ends)
    assert one.ends[0].state == "failed"
    assert any(words in line for line in one.ends[0].log)


def test_an_error_of_the_library_is_told_in_its_own_words(desktop, worker):
    one = worker("refuses")
    desktop.wait(lambda: one.ends)
    assert (one.ends[0].state, one.ends[0].message) == ("failed", "x.nrrd is missing.")


def test_a_program_that_is_not_there_is_a_failure(desktop, worker, monkeypatch):
    from DiffRenderLib import worker as part

    monkeypatch.setattr(part, "python", lambda: "/nowhere/PythonSlicer")
    one = worker("polite")
    desktop.wait(lambda: one.ends)
    assert one.ends[0].state == "failed"
    assert "/nowhere/PythonSlicer" in one.ends[0].message


def test_much_output_neither_holds_up_the_event_loop_nor_loses_lines(desktop, worker):
    lines = []
    one = worker("flood", on_line=lines.append)
    longest = desktop.wait(lambda: one.ends)
    (end,) = one.ends
    assert end.state == "done"
    assert end.result["name"] == "Bäume"  # it came in two pieces, cut within a line
    assert [line["done"] for line in lines] == list(range(2000))
    assert "no JSON, from some package" in end.log
    print(f"longest stop of the event loop {1000 * longest:.0f} ms")


def test_cancel_asks_first(desktop, worker):
    lines = []
    one = worker("polite", on_line=lines.append)
    desktop.wait(lambda: lines)
    one.cancel()
    one.cancel()
    desktop.wait(lambda: one.ends, 2.0)
    assert one.ends[0].state == "cancelled"
    assert one.ends[0].message == "Stopped after 1 of 4. 'cancel\\n'"


def test_who_does_not_listen_is_killed_with_all_it_started(desktop, worker):
    log = []
    one = worker("hang", on_log=log.append)
    desktop.wait(lambda: log)
    tree = tree_of(one.pid)
    assert len(tree) >= 4, "launcher, Python, and two children of it"
    assert set(map(int, log[0].split()[1:])) <= set(tree)
    one.cancel()
    began = time.monotonic()
    longest = desktop.wait(lambda: one.ends)
    desktop.wait(lambda: not any(map(alive, tree)))
    took = time.monotonic() - began
    print(f"cancel to gone {took:.2f} s, longest stop of the event loop {1000 * longest:.0f} ms")
    assert took < SOON
    assert one.ends[0].state == "cancelled"


def test_closing_ends_it_and_calls_nobody(desktop, worker):
    log = []
    one = worker("hang", on_log=log.append)
    desktop.wait(lambda: log)
    tree = tree_of(one.pid)
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < SOON
    desktop.wait(lambda: not any(map(alive, tree)), 1.0)
    assert one.ends == []
    assert not one.running


# A desktop of its own, which opens a panel, starts the hanging command, and is ended from outside or closes itself.
WHOLE = """
import os, sys
sys.path[:0] = [{here!r}]
os.environ["PATH"] = {bin!r} + os.pathsep + os.environ["PATH"]
import desktop
one = desktop.Desktop()
panel = one.open("DeepDVR").panel
from DiffRenderLib import worker as part
from DiffRenderLib.processes import descendants
part.__file__ = {file!r}
panel.work.start([{command!r}], "Working", lambda result: "")
one.wait(lambda: panel.work.ui.detailsText.plainText or panel.work.ui.progressBar.maximum)
print(*descendants(panel.work._worker.pid), panel.work._worker.pid, flush=True)
if {closes}:
    one.close()
else:
    one.wait(lambda: False, 60)
"""


def whole_desktop(worker, tmp_path, monkeypatch, command, closes):
    code = WHOLE.format(
        here=str(HERE),
        bin=os.environ["PATH"].split(os.pathsep)[0],
        file=str(tmp_path / "faults" / "DiffRenderLib" / "worker.py"),
        command=command,
        closes=closes,
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return child, [int(word) for word in child.stdout.readline().split()]


def test_closing_the_application_leaves_no_orphan(worker, tmp_path, monkeypatch, desktop):
    child, tree = whole_desktop(worker, tmp_path, monkeypatch, "hang", closes=True)
    assert len(tree) >= 4
    assert child.wait(20) == 0
    desktop.wait(lambda: not any(map(alive, tree)), 1.0)


def test_a_killed_application_leaves_no_orphan_that_listens(worker, tmp_path, monkeypatch, desktop):
    child, tree = whole_desktop(worker, tmp_path, monkeypatch, "polite", closes=False)
    assert tree
    child.send_signal(signal.SIGKILL)
    child.wait()
    desktop.wait(lambda: not any(map(alive, tree)), SOON)


@needs_library
def test_a_command_of_the_library_gives_its_result(desktop, library, tmp_path):
    lines = []
    folder = tmp_path / "frames äöü, of a patient"
    one = library(
        ["fit", "simulate", "parametric", "--views", "0,50", "--size", "64", "-o", str(folder)], on_line=lines.append
    )
    longest = desktop.wait(lambda: one.ends, 120)
    (end,) = one.ends
    assert end.state == "done", end
    assert (folder / "pose.json").exists()
    print(f"longest stop of the event loop {1000 * longest:.0f} ms")


@needs_library
def test_cancel_in_the_middle_keeps_what_is_whole(desktop, library, tmp_path):
    ct, labels, names = labelled_ct(tmp_path / "ct")
    lines = []
    folder = tmp_path / "data"
    words = ["synth", "dataset", ct, "--labels", labels, "--names", names, "--views", "400", "--size", "64"]
    one = library([*words, "-o", str(folder)], on_line=lines.append)
    desktop.wait(lambda: any(line.get("done", 0) > 3 and line["total"] == 400 for line in lines), 120)
    tree = tree_of(one.pid)
    one.cancel()
    began = time.monotonic()
    longest = desktop.wait(lambda: one.ends)
    desktop.wait(lambda: not any(map(alive, tree)))
    print(f"cancel to gone {time.monotonic() - began:.2f} s, longest stop {1000 * longest:.0f} ms")
    assert time.monotonic() - began < SOON
    assert one.ends[0].state == "cancelled"
    assert "goes on from there" in one.ends[0].message
    images, masks = (sorted(path.stem for path in (folder / part).iterdir()) for part in ("images", "masks"))
    assert images == masks
    assert 3 < len(images) < 400


@needs_library
def test_the_doctor_is_heard_in_the_panel(desktop, library, tmp_path, pictures):
    panel = desktop.open("NeRPSynth").panel
    panel.ui.doctorButton.click()
    assert panel.work.running
    assert not panel.ui.doctorButton.enabled
    assert panel.work.ui.cancelButton.visible
    desktop.screenshot(pictures, "NeRPSynth-running")
    desktop.wait(lambda: not panel.work.running, 120)
    desktop.screenshot(pictures, "NeRPSynth-doctor")
    desktop.screenshot(pictures, "NeRPSynth-doctor", dark=True)
    assert "torch" in panel.work.ui.detailsText.plainText
    assert panel.ui.doctorButton.enabled
    assert not panel.work.ui.cancelButton.visible


def test_a_scene_closed_and_a_module_left_or_reloaded_during_work(desktop, worker):
    widget = desktop.open("DeepDVR")
    panel = widget.panel
    panel.work.start(["polite"], "Working", lambda result: "done")
    desktop.wait(lambda: "about 9 s left" in panel.work.ui.workLabel.text)
    desktop.open("NeRPSynth")
    assert panel.work.running, "leaving a module does not end its work"
    desktop.open("DeepDVR")
    desktop.close_scene()
    desktop.wait(lambda: not panel.work.running, 2.0)
    assert panel.work.ui.workLabel.text.startswith("Stopped after 1 of 4")
    panel.work.start(["polite"], "Working", lambda result: "done")
    running = panel.work._worker
    widget.onReload()
    assert not running.running


def test_a_fault_of_the_panel_at_the_end_leaves_no_panel_that_seems_to_work(desktop, worker, capfd):
    panel = desktop.open("DeepDVR").panel
    panel.work.start(["flood"], "Working", lambda result: 1 / 0)
    desktop.wait(lambda: not panel.work.running)
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert not panel.work.ui.cancelButton.visible
    assert panel.ui.doctorButton.enabled


def test_a_failure_opens_the_details(desktop, worker, pictures):
    panel = desktop.open("XrayRegistration").panel
    panel.work.start(["crash"], "Working", lambda result: "done")
    desktop.wait(lambda: not panel.work.running)
    assert "ended unexpectedly" in panel.work.ui.workLabel.text
    assert not panel.work.ui.detailsButton.collapsed
    assert "the last thing it said" in panel.work.ui.detailsText.plainText
    desktop.screenshot(pictures, "XrayRegistration-crash")
