"""What a training will take: memory that is counted comes near what is taken, and too much is refused with a size."""

import dataclasses
import re

import pytest
import torch
from trainings import brief, case, drawing, lump

from diffrender.dvr.budget import estimate
from diffrender.dvr.renderer import field_of
from diffrender.dvr.renderers import RENDERERS, count_parameters, renderer
from diffrender.dvr.room import check_room, needed, room_for
from diffrender.dvr.training import train_on
from diffrender.errors import MemoryNeedError, Notice
from diffrender.learning import is_out_of_memory


@pytest.mark.parametrize("name", list(RENDERERS))
def test_every_renderers_need_is_counted_without_allocating_it(name):
    settings = brief(renderer=name, drawing=drawing(width=1.0))
    need = needed(settings, lump(), (200, 200), shape=(256, 256, 256))
    # a prior's table of 4096 x 4 float32 comes to it, 66 kB, and what unet-s starts from, 154 kB
    assert need.weights == pytest.approx(4 * count_parameters(name, settings.drawing), rel=0.02, abs=2.5e5)
    assert need.encoder > 256**3  # at the least the numbers themselves
    assert need.total > need.encoder
    counted = name in ("vnet4-4", "vnetl16-4", "vnetl16-17", "dvrnet", "vnet-unet", "unet-s", "hybrid")
    assert (need.operations[0] > 1e9) == counted
    if name == "dvrnet":  # 200 x 200 x 16 channels of float32 is 2.6 MB; its U-Net keeps some dozens of them
        assert 2e7 < need.view < 2e9


@pytest.mark.parametrize("name", ["unet-s", "vnetl16-17"])
def test_what_is_counted_is_what_the_way_back_keeps(name):
    # from scratch: what a transfer function hides unet-s leaves out, and that is not known when it is counted
    settings, volume = brief(renderer=name, drawing=drawing(start="scratch")), lump((24, 20, 28))
    made, kept = renderer(name, settings.drawing), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        grids = made.encoder(volume)
        fields = [field_of(*slots) for slots in zip(grids, made.colour(grids), made.opacity(grids), strict=True)]
    size = sum(storage.nbytes() for storage in kept.values())
    parts = [part for field in fields for part in (field.values, field.change) if part is not None]
    marched = 4 * sum(part.numel() * 4 for part in parts)  # FIELD_COPIES of float32
    assert needed(settings, volume, (20, 17)).encoder == pytest.approx(1.3 * size + marched, rel=0.02)


def test_gradient_checkpointing_needs_less():
    settings, volume = brief(renderer="vnet4-4", drawing=drawing(width=0.5)), lump((32, 32, 32))
    sparing = dataclasses.replace(settings, checkpointing=True)
    assert needed(sparing, volume, (20, 17)).encoder < 0.6 * needed(settings, volume, (20, 17)).encoder


def test_what_does_not_fit_is_refused_with_a_size_that_does():
    settings, volume = brief(renderer="vnet4-4", drawing=drawing(width=1.0)), lump((96, 80, 64))
    with pytest.raises(
        MemoryNeedError, match=r"vnet4-4 on 64 x 80 x 96 voxels needs about .* GiB .* would fit\."
    ) as told:
        check_room(settings, volume, (200, 200), free=1.5e9)
    i, j, k = (int(n) for n in re.findall(r"A volume of (\d+) x (\d+) x (\d+) voxels", str(told.value))[0])
    assert 16 <= k < 96
    assert i / 64 == pytest.approx(j / 80, abs=0.03)
    sparing = dataclasses.replace(settings, checkpointing=True)
    assert needed(sparing, volume, (200, 200), (k, j, i)).total <= 1.5e9
    assert room_for(settings, volume, (200, 200), 1e6) == "No smaller volume would fit either."


def test_checkpointing_is_taken_up_where_it_helps(monkeypatch):
    settings, volume = brief(renderer="vnet4-4", drawing=drawing(width=0.5)), lump((32, 32, 32))
    sparing = dataclasses.replace(settings, checkpointing=True)
    whole, less = (needed(s, volume, (20, 17)).total for s in (settings, sparing))
    assert not check_room(settings, volume, (20, 17), free=whole + 1)
    assert check_room(settings, volume, (20, 17), free=(whole + less) / 2)
    small = brief(renderer="unet-s", steps=1)
    monkeypatch.setattr("diffrender.dvr.course.check_room", lambda *_: True)
    with pytest.warns(Notice, match="Memory is short: the encoder's results are computed twice"):
        assert train_on([case(3)], small).run().steps == 1


def test_a_training_that_has_no_room_does_not_start(monkeypatch):
    monkeypatch.setattr("diffrender.dvr.course.free_memory", lambda _: 1e8)
    with pytest.raises(MemoryNeedError, match=r"lookup on 9 x 13 x 11 voxels needs about .* even for one view a step"):
        train_on([case(3)], brief()).run()


def test_an_estimate_says_all_of_it_in_a_sentence():
    volume = lump((20, 24, 28))
    found = estimate(brief(renderer="lookup", steps=50, batch=4), volume, (40, 50), views=9)
    assert found.steps == 50
    assert found.step > 0
    assert found.seconds == pytest.approx(50 * found.step)
    assert re.fullmatch(
        r"lookup on 28 x 24 x 20 voxels, 9 views of 50 x 40 pixels: about \S+ s a step, 50 steps in \S+ (s|min|h); "
        r"about \S+ GiB of memory, of \S+ GiB that are free\.",
        found.sentence,
    )
    epochs = estimate(brief(renderer="lookup", steps=None, epochs=3, batch=4), volume, (40, 50), views=8)
    assert epochs.steps == 6


def test_torchs_and_pythons_words_for_a_full_memory_are_known():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_out_of_memory(told.value)
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match"))
