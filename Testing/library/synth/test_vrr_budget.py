"""What a training is said to take, against what it takes and against how it must grow."""

import dataclasses

import pytest
import torch

from diffrender.synth import vrr_budget
from diffrender.synth.fields import FieldMapper, GeneratorSettings
from diffrender.synth.vrr_budget import OVERHEAD, training_estimate
from diffrender.synth.vrr_settings import VRRSettings

SMALL = VRRSettings(GeneratorSettings(lattice=16, detail=32, channels=(4, 8), points=40), steps=30, device="cpu")


def test_memory_grows_with_what_is_asked_for_and_counts_what_autograd_keeps():
    plain = training_estimate(SMALL).memory - OVERHEAD
    finer = dataclasses.replace(SMALL, generator=dataclasses.replace(SMALL.generator, detail=64))
    more = dataclasses.replace(SMALL, batch=4 * SMALL.batch)
    # matter, opacity, their gradient and what they are made of: a dozen numbers a voxel at the least
    assert training_estimate(finer).memory - OVERHEAD - plain > 12 * 4 * (64**3 - 32**3)
    looks = training_estimate(more).memory - OVERHEAD - plain
    # a picture of 96 x 96: the finest level alone keeps some 6 maps of 8 channels, twice
    assert looks > (more.batch - SMALL.batch) * 2 * 6 * 8 * 96 * 96 * 4
    kept = []
    mapper = FieldMapper(SMALL.generator)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage())
        return tensor

    ct = vrr_budget._given(SMALL)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mapper(ct)
    truth = sum({one._cdata: one.nbytes() for one in kept}.values())
    with torch.device("meta"):
        nowhere, nothing = FieldMapper(SMALL.generator), vrr_budget._given(SMALL)
    found, _ = vrr_budget._counted(lambda: nowhere(nothing))
    assert found == pytest.approx(truth, rel=0.02)


def test_steps_follow_from_the_budget():
    assert training_estimate(SMALL).steps == 30
    epochs = dataclasses.replace(SMALL, steps=None, epochs=3)
    assert training_estimate(epochs, 23).steps == 18  # 69 radiographs, 4 a step
    assert training_estimate(epochs).steps == 0
    timed = training_estimate(dataclasses.replace(SMALL, steps=None, seconds=100.0))
    assert timed.steps == int(100 / timed.step)
    assert "s a step" in timed.sentence


def test_what_does_not_fit_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(vrr_budget, "free_memory", lambda _: 1e8)
    found = training_estimate(SMALL)
    assert not found.fits
    assert "smaller batch (it is 4)" in found.sentence
