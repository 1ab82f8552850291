"""What all commands share, with the real program: --help, JSON lines, exit codes, Ctrl-C, cancel, pipes, terminals."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import pytest

from diffrender.commands.console import Console
from diffrender.errors import SettingError, notify
from diffrender.jobs import Progress

COMMANDS = (
    ["radiograph"],
    ["info"],
    ["doctor"],
    ["demo"],
    ["samples"],
    ["samples", "list"],
    ["samples", "get"],
    ["samples", "remove"],
    ["dvr"],
    ["dvr", "views"],
    ["dvr", "train"],
    ["dvr", "render"],
    ["dvr", "bake"],
    ["dvr", "segment"],
    ["dvr", "renderers"],
    *(["synth", word] for word in ("drr", "dataset", "train", "vrr", "segment", "classify", "metrics")),
)

# A job as a later command will run one: 40 steps of 0.1 s (or 30 times as many), saved when it is stopped.
TOY = """
import json, sys, time
from pathlib import Path
from diffrender.commands import console
from diffrender.commands.console import explain, start
from diffrender.jobs import Job, Progress

SAVE = Path("save.json")

def steps(total):
    done = json.loads(SAVE.read_text()) if SAVE.exists() else 0
    try:
        while done < total:
            time.sleep(0.1)
            done += 1
            yield Progress(done, total, loss=1 / done)
    except GeneratorExit:
        SAVE.write_text(json.dumps(done))
        raise
    return done

console.PLAIN_EVERY = console.JSON_EVERY = 0.0
speak = start(sys.argv[2:])
try:
    with speak.notices():
        result = speak.run(Job(steps(int(sys.argv[1]))), "Learning", "Type it again to go on from save.json.")
    speak.result({"steps": result}, f"{result} steps")
except (Exception, KeyboardInterrupt) as problem:
    sys.exit(explain(speak, problem))
"""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_ends_with_an_example_and_suits_any_console(typed, words):
    ended = typed(*words, "--help")
    assert ended.code == 0
    assert ended.err == ""
    *text, heading, example = ended.out.rstrip().splitlines()
    assert heading.strip() == "Example:"
    assert example.strip().startswith(" ".join(["diffrender", *words]))
    assert max(map(len, text)) <= 80
    assert ended.out.isascii()
    assert "\x1b" not in ended.out


def test_help_of_the_whole_is_there_within_a_second_and_without_torch(started, ended):
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        end = ended(started("--help", env={"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}))
        seconds.append(time.perf_counter() - began)
        assert end.code == 0
    assert min(seconds) < 1.0
    assert "For research, not a medical device." in end.out
    script = (
        "import sys\nfrom diffrender.__main__ import main\nmain(['--help'])\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'vtkmodules', 'warp'} & set(sys.modules)))"
    )
    assert ended(started(script=script)).out.rstrip().endswith("[]")


def test_nothing_typed_shows_the_help_and_is_no_success(typed):
    ended = typed()
    assert ended.code == 2
    assert "radiograph" in ended.out + ended.err


def test_version(typed):
    import diffrender

    ended = typed("--version")
    assert (ended.code, ended.out) == (0, f"diffrender {diffrender.__version__}\n")


@pytest.mark.parametrize("words", [["radiogram"], ["info"], ["info", "a", "b"], ["doctor", "--fast"]])
def test_what_cannot_be_understood_ends_with_2_and_says_where_to_look(typed, words):
    ended = typed(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert re.fullmatch(r"Error: .* Type `diffrender[a-z ]* --help` for what is offered\.\n", ended.err)
    line = typed(*words, "--json").lines[-1]
    assert (line["type"], line["kind"], line["exit_code"]) == ("error", "UsageError", 2)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_path_that_the_console_cannot_spell_is_told_all_the_same(started, ended, encoding):
    process = started("info", "Łódź/größe 漢.nii", env={"PYTHONIOENCODING": encoding}, encoding=encoding)
    end = ended(process)
    assert end.code == 2
    assert end.out == ""
    error = next(line for line in end.err.splitlines() if line.startswith("Error: "))
    assert "Traceback" not in end.err
    said = error.encode(encoding).decode("unicode_escape") if encoding == "ascii" else error
    assert ("größe" if encoding == "cp1252" else "Łódź/größe 漢.nii") in said


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_nor_does_a_result_break_on_such_a_console(started, ended, patient, encoding):
    table = patient.names.with_name("größe 漢.csv")
    table.write_bytes(patient.names.read_bytes())
    end = ended(started("info", table, env={"PYTHONIOENCODING": encoding}, encoding=encoding))
    assert (end.code, end.err) == (0, "")
    assert r"\u6f22.csv is a table of label names" in end.out  # the letter that this console lacks


def test_a_long_path_stays_on_one_line(typed):
    path = "/".join(["a folder with a long name"] * 12) + "/ct.nii.gz"
    assert f"Error: {path} does not exist" in typed("info", path).err.splitlines()[0]


def test_a_fault_of_ours_is_one_sentence_and_a_traceback_only_on_demand(typed, patient, monkeypatch):
    def broken(*_, **__):
        return 1 / 0

    monkeypatch.setattr("diffrender.io.volumes._read", broken)
    ended = typed("info", patient.ct)
    assert ended.code == 1
    assert re.fullmatch(r"Error: ZeroDivisionError: division by zero.*please report it.*--debug added\.\n", ended.err)
    assert "Traceback" in typed("info", patient.ct, "--debug").err
    assert typed("info", patient.ct, "--json").lines[-1]["exit_code"] == 1


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (MemoryError(), "The memory is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "The memory is full"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "The memory is full"),
        (ModuleNotFoundError("No module named 'vtk'", name="vtk"), "The package vtk is not installed.*doctor"),
    ],
)
def test_what_the_machine_lacks_is_told_in_words(typed, patient, monkeypatch, problem, message):
    def fails(*_, **__):
        raise problem

    monkeypatch.setattr("diffrender.io.volumes._read", fails)
    ended = typed("info", patient.ct)
    assert ended.code == 1
    assert re.search(message, ended.err)


def test_a_reader_that_goes_away_is_no_error_to_speak_of(started):
    process = started("samples", "list")
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == ""


def test_notices_are_said_once_and_other_warnings_not(capsys):
    console = Console()
    with console.notices():
        for _ in range(3):
            notify("A localizer was left out.")
        warnings.warn("numpy has changed its mind", DeprecationWarning, stacklevel=1)
    notify_text = capsys.readouterr().err
    assert notify_text == "Note: A localizer was left out.\n"
    console = Console(["--debug"])
    with console.notices():
        warnings.warn("numpy has changed its mind", DeprecationWarning, stacklevel=1)
    assert "numpy has changed its mind" in capsys.readouterr().err


def test_json_lines_are_json_whatever_is_in_them(capsys, tmp_path):
    console = Console(["--json"])
    console.result({"loss": float("nan"), "file": tmp_path / "ä\n", 3: (1, [float("inf")])}, "unseen")
    assert json.loads(capsys.readouterr().out) == {
        "type": "result",
        "loss": None,
        "file": str(tmp_path / "ä\n"),
        "3": [1, [None]],
    }
    assert not Console(["--", "--json"]).json  # a file of that name


def test_progress_says_how_far_and_how_long(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 30.0, 30.0, 31.0, 31.0, 40.0, 40.0])
    monkeypatch.setattr("diffrender.jobs.time.monotonic", lambda: next(clock))
    console = Console()
    for done in (1, 2, 3, 4):  # the third comes too soon after the second to be worth a line
        console.progress(Progress(done, 4), "Learning")
    assert capsys.readouterr().err.splitlines() == [
        "Learning: 1 of 4 (25 %)",
        "Learning: 2 of 4 (50 %), about 60 s left",
        "Learning: 4 of 4 (100 %)",
    ]
    monkeypatch.undo()
    console.progress(Progress(3_000_000, 12_000_000), "Fetching")  # bytes say nothing to a person
    console.progress(Progress(77, 0), "Fetching more")
    assert capsys.readouterr().err.splitlines() == ["Fetching: 25 %", "Fetching more: 77"]


def test_who_cannot_answer_is_not_asked(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SettingError, match=r"Fetch it.*stdin is no terminal.*add --yes"):
        Console().ask("Fetch it?")


def test_a_job_runs_to_its_end_without_reading_stdin(started, ended):
    end = ended(started(5, script=TOY))  # stdin is empty, and so at its end
    assert (end.code, end.out) == (0, "5 steps\n")
    assert end.err.splitlines()[-1] == "Learning: 5 of 5 (100 %)"


def test_with_json_the_end_of_stdin_or_cancel_stops_a_job_which_goes_on_later(started, ended, tmp_path):
    process = started(1000, "--json", script=TOY, stdin=subprocess.PIPE)
    first = json.loads(process.stdout.readline())
    assert (first["type"], first["done"], first["total"], first["what"]) == ("progress", 1, 1000, "Learning")
    process.stdin.write("nonsense\ncancel\n")  # and stdin stays open
    process.stdin.flush()
    lines = [first, *(json.loads(line) for line in process.stdout)]
    assert process.wait(60) == 130
    assert lines[-1] == {
        "type": "error",
        "kind": "Stopped",
        "message": f"Stopped after step {lines[-2]['done']} of 1000. Type it again to go on from save.json.",
        "exit_code": 130,
    }
    assert process.stderr.read() == ""
    saved = json.loads((tmp_path / "save.json").read_text())
    assert saved == lines[-2]["done"]
    orphan = ended(started(1000, "--json", script=TOY), None)  # its parent is gone: stdin is at its end
    assert orphan.code == 130
    assert saved <= json.loads((tmp_path / "save.json").read_text()) <= saved + 5


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process on Windows")
def test_ctrl_c_saves_and_says_how_to_go_on(started, ended, tmp_path):
    process = started(1000, script=TOY)
    while not process.stderr.readline().startswith("Learning: 3 "):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    end = ended(process)
    assert end.code == 130
    assert re.search(r"Stopped after step \d of 1000\. Type it again to go on from save\.json\.$", end.err)
    assert "Traceback" not in end.err
    done = json.loads((tmp_path / "save.json").read_text())
    assert 3 <= done < 10
    again = ended(started(done + 2, "--json", script=TOY, stdin=subprocess.PIPE, stdout=subprocess.PIPE), None)
    assert again.code in (0, 130)  # its stdin ends at once; two steps may be taken before that is seen


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_on_a_terminal_there_is_a_bar_that_goes_away(started):
    import pty

    ours, theirs = pty.openpty()
    process = started(20, script=TOY, stderr=theirs, env={"TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the other end has closed
        while chunk := os.read(ours, 4096):
            seen += chunk
    os.close(ours)
    assert process.wait(60) == 0
    assert process.stdout.read() == "20 steps\n"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "Learning" in text
    assert re.search(r"\d+%", text)
    assert "s left" in text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [["info", "CT"], ["info", "CT", "--json"], ["--help"], ["--version"], ["info", "no"]])
def test_who_prints_to_a_full_disk_reads_one_sentence(started, ended, patient, words):
    with open("/dev/full", "w") as full:
        end = ended(started(*(patient.ct if word == "CT" else word for word in words), stdout=full))
    assert end.code == 2
    if words == ["info", "no"]:  # said on stderr, where there is room
        assert "no does not exist" in end.err
        return
    assert "Traceback" not in end.err
    assert "fault" not in end.err
    assert "Exception ignored" not in end.err
    said = [line for line in end.err.splitlines() if line.startswith("Error")]
    assert said == [
        "Error: What this command prints cannot be written (No space left on device). Make room, or print elsewhere."
    ]


def test_a_file_whose_name_begins_with_a_dash_is_told_how_to_type(typed):
    assert (
        "No such option: -d. A name that begins with - is typed as ./-name, or after -- and a space. Type `diffrender "
        "radiograph --help`" in typed("radiograph", "-dash.nii").err
    )
