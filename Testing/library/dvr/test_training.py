"""Training: it learns, and stopped, killed or short of memory it ends where it should, and says so."""

import contextlib
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from trainings import SHOWN, brief, cameras, case, drawing, lump

from diffrender.dvr import learner as learner_module
from diffrender.dvr.course import weights_hash
from diffrender.dvr.renderer import SLOTS
from diffrender.dvr.renderers import renderer
from diffrender.dvr.settings import Augmentation, TrainSettings
from diffrender.dvr.training import Case, train, train_on
from diffrender.dvr.view import Role, Views, render_views
from diffrender.errors import ImageError, Notice, OutputError, PathError, SettingError
from diffrender.jobs import load_whole
from diffrender.volume import Volume

TESTING = str(Path(sys.modules["trainings"].__file__).parent)


@pytest.fixture(scope="module")
def one():
    return case()


def weights(trained):
    return {name: tensor.clone() for name, tensor in trained.last.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_keeps_the_best_beside_the_last(one):
    job = train_on([one], brief(steps=40, rate=0.2))
    seen = list(job)
    result = job.result
    assert [p.done for p in seen] == list(range(1, 41))
    assert seen[-1].loss < 0.4 * seen[0].loss
    assert all(p.scores.keys() == {"psnr", "ssim", "psnr-painted"} for p in seen)
    assert seen[0].preview.shape == (4, 20, 17)
    assert result.scores["ssim"] == max(line["ssim"] for line in result.history)
    assert result.scores["psnr"] > result.history[0]["psnr"] + 3
    assert result.outcome == "finished"
    assert "Finished after 40 steps" in result.sentence
    assert result.info["scores"] == result.scores
    assert len(result.info["volumes"][0]) == 64


def test_the_best_is_the_one_that_scored_best(one):
    # so high a rate that it gets worse again
    result = train_on([one], brief(steps=30, rate=3.0, decay=1.0)).run()
    best = max(result.history, key=lambda line: line["ssim"])
    assert best["step"] < 30
    target = one.targets[-1]
    with torch.no_grad():
        drawn, last = (made(one.volume, target.camera) for made in (result.renderer, result.last))
    assert not torch.equal(drawn, last)
    from diffrender.dvr.losses import scores_of

    assert scores_of(drawn, target)["ssim"] == pytest.approx(best["ssim"], abs=1e-5)
    assert scores_of(last, target)["ssim"] == pytest.approx(result.history[-1]["ssim"], abs=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["lookup", "unet-s"])
def test_the_same_seed_twice_gives_the_same_weights_bit_for_bit(one, name, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        settings = brief(renderer=name, steps=3, drawing=drawing(dropout=0.3))
        first, second = (weights(train_on([one], settings).run()) for _ in range(2))
        torch.rand(7)  # nobody else's draws matter
        third = weights(train_on([one], dataclasses.replace(settings, seed=1)).run())
    finally:
        torch.set_num_threads(before)
    assert same(first, second)
    assert not same(first, third)


def test_nobody_elses_random_state_and_settings_are_touched(one):
    state, deterministic = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    train_on([one], brief(renderer="unet-s", steps=2, augment=Augmentation(10, 10, 10))).run()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.mark.parametrize(
    "settings",
    [
        brief(steps=9, augment=Augmentation(rotation=15.0, shift=20.0, noise=5.0)),
        brief(renderer="unet-s", steps=5, drawing=drawing(dropout=0.3, norm="batch")),
        brief(renderer="unet-s", steps=5, patches=True, checkpointing=True),
    ],
    ids=["augmented", "dropout", "patches"],
)
def test_cancelled_and_resumed_it_ends_as_one_that_never_stopped(tmp_path, one, settings):
    straight = train_on([one], settings).run()
    path = tmp_path / "train.ckpt"
    for stop in (1, 2):
        job = train_on([one], settings, path)
        for _ in range(stop):
            next(job)
        job.cancel()
        assert list(job) == []
    resumed = train_on([one], settings, path)
    assert next(resumed).done == 4
    result = resumed.run()
    assert same(weights(result), weights(straight))
    assert same(result.renderer.state_dict(), straight.renderer.state_dict())
    assert [line["step"] for line in result.history] == [line["step"] for line in straight.history]
    again = train_on([one], settings, path)  # a finished one has nothing left to do
    assert list(again) == []
    assert same(weights(again.result), weights(straight))


RUN = """
import sys
sys.path.insert(0, {testing!r})
import torch
torch.set_num_threads(1)
from diffrender.dvr.training import train_on
from diffrender.jobs import Checkpoint
from trainings import brief, case
Checkpoint.__init__.__defaults__ = (0.0,)  # every save is due
settings = brief(steps=400, augment=None)
for progress in train_on([case()], settings, sys.argv[1]):
    print(progress.done, flush=True)
"""


@pytest.mark.parametrize("after", [3, 17])
def test_killed_and_resumed_it_ends_as_one_that_never_stopped(tmp_path, one, after):
    script, path = tmp_path / "run.py", tmp_path / "train.ckpt"
    script.write_text(RUN.format(testing=TESTING))
    running = subprocess.Popen([sys.executable, script, path], stdout=subprocess.PIPE, text=True)
    for line in running.stdout:
        if int(line) >= after:
            break
    time.sleep(0.013 * after % 0.05)  # somewhere in a step, or in a save
    running.kill()
    running.wait()
    assert Path(f"{path}.lock").exists()  # nobody was left to remove it
    done = load_whole(path)["done"]
    assert done >= after - 1
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        saved, settings = dict(load_whole(path)), brief(steps=400)
        resumed, straight = train_on([one], settings, path), train_on([one], settings)
        assert next(resumed).done == done + 1
        for _ in range(done + 1):
            next(straight)
        resumed.cancel()
        list(resumed)
        ours = load_whole(path)["learner"]
        theirs = tmp_path / "straight.ckpt"
        straight = train_on([one], settings, theirs)
        for _ in range(done + 1):
            next(straight)
        straight.cancel()
        list(straight)
    finally:
        torch.set_num_threads(before)
    assert saved["done"] == done
    assert same(ours["weights"], load_whole(theirs)["learner"]["weights"])
    assert str(ours["optimiser"]) == str(load_whole(theirs)["learner"]["optimiser"])
    assert not Path(f"{path}.lock").exists()


def test_a_save_of_another_training_is_refused_and_says_how_it_differs(tmp_path, one):
    path = tmp_path / "train.ckpt"
    train_on([one], brief(steps=2), path).run()
    with pytest.raises(PathError, match=r"save of another training: rate is 0\.5 here and was None there"):
        train_on([one], brief(steps=2, rate=0.5), path).run()
    with pytest.raises(PathError, match=r"cases\.0\.targets is .* here and was .* there\. Go on with"):
        train_on([case(count=3)], brief(steps=2), path).run()
    with pytest.raises(PathError, match=r"cases\.0\.volume is"):
        train_on([dataclasses.replace(one, volume=lump(seed=6))], brief(steps=2), path).run()
    with pytest.raises(PathError, match="start is"):
        train_on([one], brief(steps=2), path, renderer("lookup", drawing())).run()
    train_on([one], brief(steps=2), path).run()  # it is still there
    path.write_bytes(b"nonsense")
    with pytest.raises(PathError, match="is no save of ours, or it is damaged"):
        train_on([one], brief(steps=2), path).run()


def test_two_trainings_do_not_write_to_one_place(tmp_path, one):
    path = tmp_path / "train.ckpt"
    first = train_on([one], brief(), path)
    next(first)
    with pytest.raises(OutputError, match=r"A training is writing to .*train\.ckpt already \(process \d+ on .*delete"):
        train_on([one], brief(), path).run()
    first.run()
    train_on([one], brief(), path).run()  # done, so it is free


def test_a_full_disk_is_said_and_the_save_before_stays_whole(tmp_path, one, monkeypatch):
    path = tmp_path / "train.ckpt"
    job = train_on([one], brief(), path)
    next(job)
    job.cancel()
    list(job)
    kept = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OutputError, match=r"train\.ckpt could not be saved: .*No space left.*still whole"):
            train_on([one], brief(), path).run()
    assert path.read_bytes() == kept
    assert same(weights(train_on([one], brief(), path).run()), weights(train_on([one], brief()).run()))


def test_a_diverging_loss_stops_it_and_the_best_is_kept(one, monkeypatch):
    real, calls = learner_module.loss_of, []

    def breaks(image, target, settings):
        calls.append(1)
        return real(image, target, settings) * (float("nan") if len(calls) > 20 else 1)

    monkeypatch.setattr(learner_module, "loss_of", breaks)
    job = train_on([one], brief(steps=100, rate=0.1))
    seen = list(job)
    result = job.result
    assert result.outcome == "diverged"
    assert 10 <= len(seen) < 20
    assert seen[-1].loss is None
    assert "training diverged; the best, of step" in result.sentence
    assert "Try a lower rate (it was 0.1)" in result.sentence
    assert all(torch.isfinite(t).all() for t in (*result.renderer.state_dict().values(), *weights(result).values()))


def test_a_loss_far_above_its_start_for_long_stops_it_too(one, monkeypatch):
    real, calls = learner_module.loss_of, []

    def grows(image, target, settings):
        calls.append(1)
        return real(image, target, settings) * (1 + len(calls) / 20)

    monkeypatch.setattr(learner_module, "loss_of", grows)
    result = train_on([one], brief(steps=1000, batch=1, rate=1e-6)).run()
    assert result.outcome == "diverged"
    assert 110 <= result.steps < 400


def test_when_memory_runs_out_the_batch_is_halved(one, monkeypatch):
    real = learner_module.Learner._gradients

    def greedy(self, number, volume, targets, *rest):
        if len(targets) > 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        return real(self, number, volume, targets, *rest)

    monkeypatch.setattr(learner_module.Learner, "_gradients", greedy)
    with pytest.warns(Notice, match="The memory is full. A step takes . views from now on") as told:
        result = train_on([one], brief(batch=3, steps=None, epochs=2)).run()
    assert ["takes 1 views" in str(w.message) for w in told if w.category is Notice] == [True]
    assert result.steps == 6  # two epochs of the three views that are not kept out, one a step


def test_when_not_even_one_view_fits_it_says_what_would(one, monkeypatch):
    def never(*_):
        raise MemoryError

    monkeypatch.setattr(learner_module.Learner, "_gradients", never)
    from diffrender.errors import MemoryNeedError

    job = train_on([one], brief(batch=1, renderer="unet-s"))
    with pytest.warns(Notice, match="computed twice"), pytest.raises(MemoryNeedError, match="with one view a step"):
        job.run()


def test_only_the_chosen_slots_learn(one):
    start = renderer("lookup", drawing())
    hashed = weights_hash(start)
    tuned = train_on([one], brief(slots=("colour",), steps=3), renderer=start).run().last
    assert weights_hash(start) == hashed  # the one given stays as it was
    changed = {name for name, tensor in tuned.state_dict().items() if not torch.equal(tensor, start.state_dict()[name])}
    assert changed == {"colour.logits"}
    with pytest.raises(SettingError, match=r"lookup has nothing to learn in decoder, accumulate\. Choose other slots"):
        train_on([one], brief(slots=("decoder", "accumulate"))).run()


def test_what_frozen_slots_make_of_a_volume_is_made_once(one, monkeypatch):
    start = renderer("vnetl16-17", drawing(width=0.0625))
    calls = []
    real = type(start.encoder).forward

    def counted(self, *args):
        calls.append(1)
        return real(self, *args)

    monkeypatch.setattr(type(start.encoder), "forward", counted)
    tuned = train_on([one], brief(slots=("decoder",), steps=3), renderer=start).run().last
    assert len(calls) == 2  # one to learn what memory it takes, and one
    changed = [n for n, t in tuned.state_dict().items() if not torch.equal(t, start.state_dict()[n])]
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_several_volumes_are_trained_on_and_each_is_encoded_once_a_step():
    cases = [case(3), case(2, seed=9, shape=(8, 12, 10))]
    job = train_on(cases, brief(steps=None, epochs=3, batch=2))
    seen = list(job)
    # the last view of the second volume is kept out: batches 2 + 1 of the first, 1 of the second, three times
    assert len(seen) == 9
    assert job.result.info["views"] == 5
    assert len(set(job.result.info["volumes"])) == 2


def test_seconds_are_a_budget_over_resumes(tmp_path, one):
    settings = brief(steps=None, seconds=1.0)
    path = tmp_path / "train.ckpt"
    job = train_on([one], settings, path)
    first = next(job)
    assert 0 < first.seconds_left <= 1.0
    job.cancel()
    list(job)
    used = load_whole(path)["seconds"]
    began = time.monotonic()
    result = train_on([one], settings, path).run()
    assert result.seconds >= 1.0
    assert time.monotonic() - began < 1.0 - used + 20  # not from the start for ever; a machine may be busy
    assert result.steps > 1


def test_with_few_views_none_is_kept_out_and_that_is_said(one):
    few = Case(one.volume, one.targets[:2])
    job = train_on([few], brief(steps=2))
    with pytest.warns(Notice, match="There are 2 views to learn from, so none is kept out"):
        seen = list(job)
    assert seen[-1].scores is None
    assert seen[-1].preview is not None
    assert job.result.renderer is job.result.last


def test_a_view_that_says_nothing_is_neither_trained_on_nor_scored(one):
    nothing = torch.zeros_like(one.targets[0].weight)
    silent = dataclasses.replace(one.targets[3], weight=nothing, alpha_weight=nothing)
    targets = (*one.targets[:3], silent)
    from diffrender.dvr.cases import held_out_of, trained_views

    held = held_out_of([Case(one.volume, targets)], brief())
    assert (held.view, held.scored) == (2, True)
    assert trained_views([Case(one.volume, targets)], held) == [(0, 0), (0, 1)]


def test_what_cannot_be_trained_on_is_refused_before_anything_runs(one):
    values = one.volume.values.float()
    values[1, 2, 3] = float("nan")
    broken = Volume(values, one.volume.world_from_voxel, source="ct.nii.gz")
    with pytest.raises(ImageError, match=r"ct\.nii\.gz holds 1 values that are NaN or infinite"):
        train_on([Case(broken, one.targets)], brief())
    flat = Volume(torch.full((4, 5, 6), 7, dtype=torch.int16), one.volume.world_from_voxel)
    with pytest.raises(ImageError, match="holds the value 7 and no other"):
        train_on([Case(flat, one.targets)], brief())
    nothing = torch.zeros_like(one.targets[0].weight)
    silent = tuple(dataclasses.replace(t, weight=nothing, alpha_weight=nothing) for t in one.targets)
    with pytest.raises(ImageError, match="There is nothing to learn from"):
        train_on([Case(one.volume, silent)], brief())
    with pytest.raises(ImageError, match="the only one to learn from"):
        train_on([Case(one.volume, one.targets[:1])], brief(held_out=0))
    with pytest.raises(SettingError, match="number of one of the 4 views, from 0, or -1; not 4"):
        train_on([one], brief(held_out=4))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 3, "seconds": 5.0}, "one budget, in steps, seconds or epochs"),
        ({"steps": 0}, "steps is above 0"),
        ({"rate": -1.0}, "rate is above 0"),
        ({"batch": 0}, "batch is above 0"),
        ({"slots": ("eyes",)}, "slots are some of encoder"),
        ({"slots": ()}, "none cannot be trained"),
        ({"sampling": (0.0, 1.0)}, "two numbers of samples a voxel"),
        ({"decay": 0.0}, "decay is a share"),
        ({"renderer": "vnet9"}, "is no renderer"),
        ({"precision": "half"}, "precision is one of"),
    ],
)
def test_impossible_settings_are_refused(wrong, words):
    with pytest.raises(SettingError, match=words):
        TrainSettings(**wrong)


def test_steps_and_rates_follow_their_schedules():
    settings = TrainSettings(renderer="lookup", rate=0.2, decay=0.25, sampling=(0.1, 2.0))
    assert settings.sampling_at(0.0) == pytest.approx(0.1)
    assert settings.sampling_at(0.5) == pytest.approx(0.1 * 0.75 + 2.0 * 0.25)  # eq. 14
    assert settings.sampling_at(1.0) == pytest.approx(2.0)
    assert [settings.rate_at(s) for s in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.125, 0.05])
    assert settings.budget == ("seconds", 120.0)


def test_painted_views_are_all_that_train_needs():
    volume = lump((21, 19, 17))
    views = render_views(volume, SHOWN, cameras(volume, 4, (30, 26)))
    painted = []
    for view in views.views:
        paint = torch.zeros((30, 26), dtype=torch.uint8)
        paint[8:20, 9:18] = 3
        painted.append(dataclasses.replace(view, paint=paint))
    red = {3: Role("mass", "recolour", (0.9, 0.1, 0.1))}
    asked = Views(tuple(painted), views.transfer, volume, red)
    settings = TrainSettings(renderer="lookup", steps=3, device="cpu")
    result = train(asked, settings).run()
    assert result.renderer.settings.transfer == SHOWN  # it starts from what drew the views
    with torch.no_grad():
        first = renderer("lookup", result.renderer.settings)(volume, asked.views[0].camera)
    # 256 entries from -1024 to 3071 are 16 HU apart, across which SHOWN has corners
    assert float((first - asked.views[0].image).abs().mean()) < 0.01
    with contextlib.suppress(StopIteration):
        assert next(iter(train([asked, asked], settings))).done == 1


def test_slots_are_those_of_the_renderer():
    assert TrainSettings().slots == SLOTS


def test_unet_s_looks_at_views_with_fewer_pixels_first(monkeypatch):
    assert [TrainSettings().coarse_at(share) for share in (0.0, 0.69, 0.71)] == [True, True, False]
    assert not TrainSettings(renderer="lookup").coarse_at(0.0)
    assert TrainSettings(renderer="lookup", coarse=0.2).coarse_at(0.1)
    with pytest.raises(SettingError, match="coarse is a share"):
        TrainSettings(coarse=1.5)
    seen = []
    real = learner_module.loss_of
    monkeypatch.setattr(
        learner_module, "loss_of", lambda image, *rest: (seen.append(image.shape), real(image, *rest))[1]
    )
    train_on([case(image_size=(200, 150), shape=(6, 7, 5))], brief(steps=4, batch=1, coarse=0.6)).run()
    assert seen == [(4, 100, 75), (4, 100, 75), (4, 100, 75), (4, 200, 150)]
