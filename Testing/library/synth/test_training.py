"""The training of learned radiographs as a job: resumed to the bit, cancelled, out of memory, collapsed, diverged."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch

import diffrender as dr
from diffrender.errors import MemoryNeedError, Notice, PathError, SettingError, UnitError
from diffrender.jobs import load_whole
from diffrender.phantom import torso
from diffrender.rays.field import MarchSettings
from diffrender.synth import contest
from diffrender.synth import generator as viewer
from diffrender.synth.contest import Contest
from diffrender.synth.fields import GeneratorSettings
from diffrender.synth.gan import Adversaries, StepLosses
from diffrender.synth.generator import drr_baseline, load_generator, save_generator
from diffrender.synth.reach import volume_hash
from diffrender.synth.training import train
from diffrender.synth.views import drawn_camera
from diffrender.synth.vrr_settings import VRRSettings
from diffrender.synth.xray_folder import XrayPictures
from diffrender.views import preset
from diffrender.volume import Volume

TINY = VRRSettings(
    GeneratorSettings(lattice=4, detail=6, channels=(4, 6), points=20),
    discriminator=(4, 6),
    image_size=(12, 16),
    steps=4,
    batch=2,
    previews=2,
    r1_every=3,
    cutmix=0.5,
    device="cpu",
)
OK = StepLosses(1.0, 1.0, 0.1, None, 0.5, True)


@pytest.fixture(autouse=True)
def plain_march(monkeypatch):
    """Pictures this small take longer to compile fused kernels for than to march through without."""
    monkeypatch.setattr(viewer, "MarchSettings", partial(MarchSettings, backend="torch"))


@pytest.fixture(scope="module")
def cts() -> list[Volume]:
    return [torso(shape=(14, 12, 16)), torso(shape=(12, 14, 16), seed=3, handed="left")]


@pytest.fixture(scope="module")
def real() -> XrayPictures:
    pictures = torch.rand((3, 1, *TINY.image_size), generator=torch.Generator().manual_seed(7))
    return XrayPictures(pictures, ("a.png", "b.png", "c.png"))


def same(a: dict, b: dict, where: str = "") -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        other = b[key]
        if isinstance(value, dict):
            same(value, other, f"{where}{key}/")
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other), where + str(key)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for n, (one, two) in enumerate(zip(value, other, strict=True)):
                same(one, two, f"{where}{key}[{n}]/")
        elif key != "seconds":
            assert value == other, where + str(key)


def test_a_cancelled_and_resumed_training_ends_where_one_that_never_stopped_would(cts, real, tmp_path):
    whole = train(cts, real, TINY, tmp_path / "whole.ckpt").run()
    job = train(cts, real, TINY, tmp_path / "parts.ckpt")
    for step in job:
        if step.done == 2:
            job.cancel()
    assert job.cancelled
    assert load_whole(tmp_path / "parts.ckpt")["done"] == 2
    again = train(cts, real, TINY, tmp_path / "parts.ckpt")
    steps = list(again)
    assert [step.done for step in steps] == [3, 4]
    assert all(step.preview.shape == (1, 24, 32) for step in steps)
    same(*(load_whole(tmp_path / f"{name}.ckpt") for name in ("whole", "parts")))
    same(whole.generator.state_dict(), again.result.generator.state_dict())
    assert again.result.outcome == whole.outcome == "finished"
    assert whole.sentence.startswith("Finished after 4 steps, 2 epochs")
    moved = [line["to_drr"] for line in whole.history]
    assert moved[-1] > 0
    assert [line["step"] for line in whole.history] == [1, 2, 3, 4]  # 3 radiographs, 2 a step
    assert not (tmp_path / "parts.ckpt.lock").exists()


def test_the_trained_generator_is_the_average_and_can_be_saved(cts, real, tmp_path):
    trained = train(cts[0], real, dataclasses.replace(TINY, ema=0.5, steps=2)).run()
    path = save_generator(tmp_path / "vrr.safetensors", trained.generator, trained.info)
    generator, info = load_generator(path)
    assert info["volumes"] == [volume_hash(cts[0])]
    assert (info["radiographs"], info["steps"], info["outcome"]) == (3, 2, "finished")
    camera = preset("chest-pa", cts[0], TINY.image_size)
    with torch.no_grad():
        picture = generator(cts[0], camera)
    assert torch.equal(picture, trained.generator(cts[0], camera))
    assert not torch.equal(picture, drr_baseline(cts[0], camera, TINY.generator))  # something was learned


def test_seeds_settle_a_training(cts, real):
    first, second, other = (
        train(cts, real, dataclasses.replace(TINY, steps=2, seed=seed)).run().generator for seed in (1, 1, 2)
    )
    same(first.state_dict(), second.state_dict())
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_every_radiograph_is_taken_once_before_any_is_taken_again(cts, real, monkeypatch):
    taken = []

    def step(self: Adversaries, volume, cameras, pictures, number):
        taken.extend(int((real.pictures == one).all((1, 2, 3)).nonzero()) for one in pictures)
        assert len(cameras) == len(pictures)
        return OK

    monkeypatch.setattr(Adversaries, "step", step)
    train(cts, real, dataclasses.replace(TINY, steps=6)).run()
    assert [sorted(taken[n : n + 3]) for n in range(0, 12, 3)] == [[0, 1, 2]] * 4
    assert len({tuple(taken[n : n + 3]) for n in range(0, 12, 3)}) > 1


def test_a_save_of_another_training_is_refused_and_another_budget_is_not(cts, real, tmp_path):
    path = tmp_path / "vrr.ckpt"
    train(cts, real, dataclasses.replace(TINY, steps=1), path).run()
    with pytest.raises(PathError, match="its volumes differ"):
        train(cts[:1], real, TINY, path).run()
    with pytest.raises(PathError, match="its settings differ"):
        train(cts, real, dataclasses.replace(TINY, l1=2.0), path).run()
    assert train(cts, real, dataclasses.replace(TINY, steps=3), path).run().steps == 3
    path.write_bytes(b"no save")
    with pytest.raises(PathError, match="no save of ours"):
        train(cts, real, TINY, path).run()


def test_a_full_memory_makes_steps_smaller_and_says_so(cts, real, monkeypatch):
    def step(self: Adversaries, volume, cameras, pictures, number) -> StepLosses:
        if len(cameras) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return OK

    monkeypatch.setattr(Adversaries, "step", step)
    with pytest.warns(Notice, match="from here on a step takes 1 views"):
        assert train(cts, real, dataclasses.replace(TINY, batch=3)).run().steps == 4


def test_memory_that_is_too_small_for_one_view_is_said_with_what_to_do(cts, real, monkeypatch):
    def step(self: Adversaries, volume, cameras, pictures, number) -> StepLosses:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(Adversaries, "step", step)
    with pytest.raises(MemoryNeedError, match=r"one view a step .*smaller lattice"):
        train(cts, real, dataclasses.replace(TINY, batch=1)).run()

    def broken(self: Adversaries, volume, cameras, pictures, number) -> StepLosses:
        raise RuntimeError("something else")

    monkeypatch.setattr(Adversaries, "step", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train(cts, real, TINY).run()


def test_a_collapse_stops_it_and_keeps_the_epoch_before(cts, real, monkeypatch):
    plain = Contest._previews

    def previews(self: Contest):
        pictures, drrs = plain(self)
        return (torch.full_like(pictures, 0.5) if self.done >= 3 else pictures), drrs

    monkeypatch.setattr(Contest, "_previews", previews)
    before = train(cts, real, dataclasses.replace(TINY, steps=2)).run().generator
    with pytest.warns(Notice, match="one grey"):
        trained = train(cts, real, dataclasses.replace(TINY, steps=50)).run()
    assert (trained.outcome, trained.steps) == ("collapsed", 3)
    assert "its average of the epoch before was kept" in trained.sentence
    same(trained.generator.state_dict(), before.state_dict())


def test_numbers_that_are_none_stop_it(cts, real, monkeypatch):
    def step(self: Adversaries, volume, cameras, pictures, number) -> StepLosses:
        return dataclasses.replace(OK, generator=float("nan"), finite=number < 2)

    monkeypatch.setattr(Adversaries, "step", step)
    monkeypatch.setattr(contest, "MOST_BAD", 3)
    trained = train(cts, real, dataclasses.replace(TINY, steps=99)).run()
    assert (trained.outcome, trained.steps) == ("diverged", 2 + 3)
    assert "lower rate" in trained.sentence


def test_budgets_in_epochs_and_seconds(cts, real, monkeypatch):
    monkeypatch.setattr(Adversaries, "step", lambda *_: OK)
    assert train(cts, real, dataclasses.replace(TINY, steps=None, epochs=4)).run().steps == 6
    steps = list(train(cts, real, dataclasses.replace(TINY, steps=None, seconds=0.05)))
    assert steps[-1].done == steps[-1].total
    assert steps[0].seconds_left <= 0.05


def test_what_cannot_be_trained_on_is_refused(cts, real):
    with pytest.raises(SettingError, match="at least one CT"):
        train([], real, TINY)
    with pytest.raises(SettingError, match="read at"):
        train(cts, real, dataclasses.replace(TINY, image_size=(16, 16)))
    with pytest.raises(PathError, match="no-such"):
        train(cts, Path("no-such-folder"), TINY)
    with pytest.raises(UnitError, match="not Hounsfield"):
        train(dataclasses.replace(cts[0], unit="arbitrary"), real, TINY).run()


def test_a_volume_is_known_by_its_numbers_and_by_where_it_lies(cts):
    moved = cts[0].world_from_voxel.clone()
    moved[0, 3] += 1.0
    assert volume_hash(cts[0]) == volume_hash(dataclasses.replace(cts[0], labels=None, names=None))
    assert volume_hash(cts[0]) != volume_hash(dataclasses.replace(cts[0], world_from_voxel=moved))
    cameras = [
        drawn_camera(cts[0], "chest-pa", ct_hash=volume_hash(one), view=0, seed=0, image_size=(8, 8)) for one in cts
    ]
    assert not torch.equal(cameras[0].world_from_camera, cameras[1].world_from_camera)


def test_the_public_names_are_there():
    names = ("train", "VRRGenerator", "drr_baseline", "vrr_preset", "realism_distances", "load_generator", "read_xrays")
    assert all(callable(getattr(dr.synth, name)) for name in names)
