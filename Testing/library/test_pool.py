"""Pieces of work in processes: all are done, a lost process's too, and none outlives its parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from diffrender.errors import DiffRenderError, Notice, SettingError
from diffrender.pool import in_pool

HERE = Path(__file__)


def squared(piece):
    number, _ = piece
    return number * number


def dies_once(piece):
    """Ends its process the first time it meets number 3."""
    number, folder = piece
    mark = Path(folder, "died")
    if number == 3 and not mark.exists():
        mark.touch()
        os._exit(1)
    return number * number


def always_dies(piece):
    if piece[0] == 2:
        os._exit(1)
    return piece[0]


def refuses(piece):
    raise SettingError("no")


def sleeps(piece):
    Path(piece[1], str(os.getpid())).touch()
    time.sleep(60)


def work_of(function, count, folder, workers=2):
    return dict(in_pool(function, [(n, str(folder)) for n in range(count)], workers))


def test_every_piece_is_done_and_a_lost_process_has_its_piece_done_by_another(tmp_path):
    with pytest.warns(Notice, match="ended unexpectedly"):
        found = work_of(dies_once, 8, tmp_path)
    assert found == {(n, str(tmp_path)): n * n for n in range(8)}


def test_a_piece_that_ends_every_process_is_given_up(tmp_path):
    with pytest.warns(Notice), pytest.raises(DiffRenderError, match=r"3 times.*memory"):
        work_of(always_dies, 4, tmp_path, 1)


def test_an_error_of_the_work_is_the_error(tmp_path):
    with pytest.raises(SettingError, match="no"):
        work_of(refuses, 1, tmp_path, 1)


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    call = f"    test_pool.work_of(test_pool.sleeps, 2, {str(tmp_path)!r})"
    script.write_text(f"import test_pool\n\nif __name__ == '__main__':\n{call}\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, cwd=tmp_path)
    try:
        children = _wait_for(lambda: [int(f.name) for f in tmp_path.iterdir() if f.name.isdigit()], 2, parent)
    finally:
        parent.kill()
        parent.wait()
    for _ in range(100):
        if not any(psutil.pid_exists(child) and _runs(child) for child in children):
            return
        time.sleep(0.1)
    pytest.fail("a process has outlived its parent by ten seconds")


def _wait_for(found, count, parent):
    for _ in range(600):
        if len(found()) >= count:
            return found()
        assert parent.poll() is None, "the parent ended before its children began"
        time.sleep(0.1)
    raise AssertionError("the children did not begin within a minute")


def _runs(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
