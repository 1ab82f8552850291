"""A lock is held against others that live, and taken over from those that have ended."""

import json
import os
import socket
import subprocess
import sys

import pytest

from diffrender.errors import OutputError
from diffrender.io.lock import locked


def test_it_is_held_and_given_back(tmp_path):
    place = tmp_path / "new folder" / "train.ckpt"
    with locked(place, "A training"):
        assert place.with_name("train.ckpt.lock").exists()
        with (
            pytest.raises(OutputError, match=rf"A training is writing to .*process {os.getpid()} on"),
            locked(place, "A training"),
        ):
            pass
        with locked(place.with_name("other.ckpt"), "A training"):
            pass
    assert list(place.parent.iterdir()) == []
    with locked(place, "A training"):
        pass


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a", "It"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_kept_out_and_a_dead_one_is_not_waited_for(tmp_path):
    code = (
        "import sys, time; from diffrender.io.lock import locked\n"
        "with locked(sys.argv[1], 'A training'):\n    print('held', flush=True); time.sleep(60)"
    )
    place = tmp_path / "train.ckpt"
    other = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline().strip() == "held"
    with pytest.raises(OutputError, match=f"process {other.pid} on"), locked(place, "A training"):
        pass
    other.kill()
    other.wait()
    assert (tmp_path / "train.ckpt.lock").exists()
    with locked(place, "A training"):
        pass


@pytest.mark.parametrize("change", [{"machine": "elsewhere"}, {"began": 1.0}, {"process": 2**30}])
def test_a_lock_of_another_machine_holds_and_one_of_an_earlier_process_of_that_number_does_not(tmp_path, change):
    lock = tmp_path / "a.lock"
    import psutil

    own = {"process": os.getpid(), "began": psutil.Process().create_time(), "machine": socket.gethostname()}
    lock.write_text(json.dumps({**own, **change}))
    if "machine" in change:
        with (
            pytest.raises(OutputError, match=r"on elsewhere.*If you know that it has ended, delete"),
            locked(tmp_path / "a", "It"),
        ):
            pass
        return
    with locked(tmp_path / "a", "It"):
        pass


def test_half_a_lock_is_waited_for_and_an_old_one_is_not(tmp_path):
    lock = tmp_path / "a.lock"
    lock.write_text('{"proc')
    with pytest.raises(OutputError, match="is writing to"), locked(tmp_path / "a", "It"):
        pass
    os.utime(lock, (1, 1))
    with locked(tmp_path / "a", "It"):
        pass
