"""Jobs: cancelled and resumed they end where never stopping would; a save is whole or not at all, and recent."""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffrender.errors import DiffRenderError, OutputError, PathError
from diffrender.jobs import Checkpoint, Job, Pace, Progress, load_whole, save_whole

STEPS = 40


def descent(path: Path | None, steps: int = STEPS, every: float = 60.0, pause: float = 0.0) -> Iterator[Progress]:
    """A toy training: noisy steps of a heavy ball, so that weights, velocity and random state must all be resumed."""
    checkpoint = Checkpoint(path, every)
    generator = torch.Generator().manual_seed(3)
    state = {
        "step": 0,
        "weight": torch.tensor([2.0, -1.0]),
        "velocity": torch.zeros(2),
        "random": generator.get_state(),
    }
    state = checkpoint.load() or state
    generator.set_state(state["random"])
    try:
        while state["step"] < steps:
            time.sleep(pause)
            gradient = state["weight"] + torch.randn(2, generator=generator)
            state["velocity"] = 0.8 * state["velocity"] - 0.05 * gradient
            state["weight"] = state["weight"] + state["velocity"]
            state["step"] += 1
            state["random"] = generator.get_state()
            if checkpoint.due():
                checkpoint.save(state)
            yield Progress(state["step"], steps, float(state["weight"].norm()))
    except GeneratorExit:
        checkpoint.save(state)
        raise
    checkpoint.save(state)
    return state["weight"]


def steps_of(job: Job, count: int) -> list[Progress]:
    return [next(job) for _ in range(count)]


def test_a_job_runs_to_its_end_and_has_the_result_of_its_generator():
    seen: list[Progress] = []
    job = Job(descent(None))
    result = job.run(seen.append)
    assert [progress.done for progress in seen] == list(range(1, STEPS + 1))
    assert job.finished
    assert not job.cancelled
    assert torch.equal(job.result, result)
    assert seen[-1].loss == pytest.approx(float(result.norm()))


@pytest.mark.parametrize("stops", [(1,), (13,), (7, 30), (STEPS - 1,)])
def test_cancelled_and_resumed_it_ends_where_never_stopping_would(tmp_path, stops):
    straight = Job(descent(None)).run()
    done = 0
    for stop in stops:
        job = Job(descent(tmp_path / "toy.ckpt"))
        assert steps_of(job, 1)[0].done == done + 1  # it goes on, it does not begin again
        steps_of(job, stop - done - 1)
        job.cancel()
        assert list(job) == []
        assert job.cancelled
        done = stop
    assert torch.equal(Job(descent(tmp_path / "toy.ckpt")).run(), straight)  # bit for bit


def test_killed_without_a_word_it_goes_on_from_its_last_save(tmp_path):
    path = tmp_path / "toy.ckpt"
    job = Job(descent(path, every=0.0))  # every save is due
    steps_of(job, 9)
    kept = path.read_bytes()
    job.cancel()
    list(job)
    path.write_bytes(kept)  # as a power cut would leave it: what cancelling saved never happened
    resumed = Job(descent(path))
    assert next(resumed).done == 10
    assert torch.equal(resumed.run(), Job(descent(None)).run())


def test_cancel_from_another_thread_is_honoured_at_the_next_step(tmp_path):
    job = Job(descent(tmp_path / "toy.ckpt", steps=10_000, pause=0.01))
    threading.Timer(0.2, job.cancel).start()
    began = time.monotonic()
    list(job)
    assert job.cancelled
    assert time.monotonic() - began < 5  # not the 100 s of all steps
    assert load_whole(tmp_path / "toy.ckpt")["step"] == job.progress.done


def test_a_job_cancelled_before_its_first_step_does_nothing(tmp_path):
    job = Job(descent(tmp_path / "toy.ckpt"))
    job.cancel()
    job.cancel()
    assert list(job) == []
    assert not (tmp_path / "toy.ckpt").exists()
    with pytest.raises(DiffRenderError, match="was cancelled before its first step"):
        _ = job.result


def test_without_an_end_there_is_no_result():
    job = Job(descent(None))
    with pytest.raises(DiffRenderError, match=r"no result yet: it is before its first step\. Call `run\(\)`"):
        _ = job.result
    steps_of(job, 3)
    with pytest.raises(DiffRenderError, match="no result yet: it is at step 3 of 40"):
        _ = job.result
    job.cancel()
    with pytest.raises(
        DiffRenderError, match=r"was cancelled at step 3 of 40\. Start it again with the same checkpoint"
    ):
        job.run()


def test_an_error_within_a_job_comes_out_and_leaves_the_last_save_alone(tmp_path):
    def fails() -> Iterator[Progress]:
        yield Progress(1, 2)
        raise PathError("toy.txt went away.")

    job = Job(fails())
    next(job)
    with pytest.raises(PathError, match=r"toy\.txt went away"):
        next(job)
    assert list(job) == []
    with pytest.raises(DiffRenderError, match="ended with an error at step 1 of 2"):
        _ = job.result


def test_seconds_left_come_from_the_steps_of_this_run(monkeypatch):
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr("diffrender.jobs.time.monotonic", lambda: next(clock))
    pace = Pace()
    assert pace.timed(Progress(50, 60)).seconds_left is None  # resumed at 49: one point makes no pace
    assert pace.timed(Progress(52, 60)).seconds_left == pytest.approx(2.0 * 8)
    assert pace.timed(Progress(52, 60, seconds_left=5.0)).seconds_left == 5.0  # who knows better says so


def test_a_save_is_due_before_it_would_be_too_old(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr("diffrender.jobs.time.monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "a.ckpt")
    saved = [0.0]
    for _ in range(100):
        now[0] += 7.0
        if checkpoint.due():
            checkpoint.save({})
            saved.append(now[0])
    ages = [after - before for before, after in itertools.pairwise(saved)]
    assert max(ages) <= 60  # the promise
    assert min(ages) >= 50  # and no writing for nothing
    assert not Checkpoint(None).due()


def test_a_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "über uns" / "a.ckpt"
    save_whole(path, {"step": 4, "weight": torch.arange(3.0)})
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.ckpt could not be saved: .*No space left.* still whole"):
        save_whole(path, {"step": 5})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]
    assert load_whole(path)["step"] == 4
    assert torch.equal(load_whole(path)["weight"], torch.arange(3.0))


def test_a_full_disk_is_told_whatever_torch_makes_of_it(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if sys.platform == "win32" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk to fill: mounting one needs root")
    try:
        with pytest.raises(OutputError, match=r"a\.ckpt could not be saved"):
            save_whole(tmp_path / "a.ckpt", {"weight": torch.zeros(100_000)})
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_of_the_users_own_that_ends_with_part_stays(tmp_path):
    (tmp_path / "a.ckpt.part").write_text("mine")
    save_whole(tmp_path / "a.ckpt", {"step": 4})
    assert (tmp_path / "a.ckpt.part").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_goes_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file.a\.ckpt could not be saved"):
        save_whole(tmp_path / "file" / "a.ckpt", {})


@pytest.mark.parametrize("content", [b"", b"not a save", b"PK\x03\x04 cut off"])
def test_a_damaged_save_is_refused(tmp_path, content):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(PathError, match=r"a\.ckpt is no save of ours, or it is damaged. Delete it"):
        load_whole(path)


def test_a_truncated_save_is_refused_and_a_missing_one_named(tmp_path):
    path = tmp_path / "a.ckpt"
    save_whole(path, {"weight": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(PathError, match="is no save of ours, or it is damaged"):
        load_whole(path)
    with pytest.raises(PathError, match=r"none\.ckpt cannot be read: No such file"):
        load_whole(tmp_path / "none.ckpt")


def test_a_save_that_carries_code_is_refused_and_its_code_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(PathError, match="is no save of ours"):
        load_whole(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()
