"""Pairs, mixes, and a segmenter that learns from them: resumed as if never stopped, saved safely, scored, reported."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffrender.errors import ImageError, LabelError, Notice, OutputError, PathError, SettingError
from diffrender.jobs import Job
from diffrender.synth.appearance import PLAIN
from diffrender.synth.augment import Warp
from diffrender.synth.course import Training, share_of_rate
from diffrender.synth.films import Film
from diffrender.synth.layers import Layers
from diffrender.synth.pairs import Films, Generated, Masked, Mixed, Pair, masked_in_folder, masked_in_manifest
from diffrender.synth.scores import dice, evaluate_segmenter, mean_dice
from diffrender.synth.segmenter import (
    Segmenter,
    SegmenterSettings,
    adapted,
    load_segmenter,
    network_of,
    save_segmenter,
)
from diffrender.synth.segmenting import batch_of, segmentation_loss, train_segmenter
from diffrender.synth.segmenting_report import overlay_page, segmentation_page

NAMES = ("lung_right", "lung_left")
TINY = Training(steps=120, batch=4, rate=1e-2, network="tiny", image_size=(32, 40), score_every=60)


def chest(row: float, n: int = 48) -> Layers:
    """A slab of soft tissue with two holes, the right one higher and larger."""
    rows, columns = np.mgrid[0:n, 0 : n + 8]
    right = ((rows - row) / 12) ** 2 + ((columns - 16) / 8) ** 2 < 1
    left = ((rows - row - 4) / 9) ** 2 + ((columns - 40) / 6) ** 2 < 1
    tissue = 20.0 - 15.0 * (right | left)
    return Layers({"soft-tissue": tissue.astype(np.float16)}, np.stack([right, left]), NAMES)


@pytest.fixture(scope="module")
def generated() -> Generated:
    return Generated([chest(row) for row in (20, 24, 28)], PLAIN, Warp((0.9, 1.1), shift=0.03, mirror=0.5))


@pytest.fixture(scope="module")
def masked() -> list[Masked]:
    found = []
    for row in (21, 27):
        view = chest(row)
        grey = view.images["soft-tissue"].astype(np.float32) / 20
        known = np.ones(grey.shape, dtype=bool)
        found.append(Masked(Film(grey, f"film {row}.png"), view.masks, known, f"patient {row}"))
    return found


@pytest.fixture(scope="module")
def trained(generated, masked):
    return train_segmenter(generated, TINY, held_out=masked).run()


def test_a_mirrored_draw_has_its_sides_swapped(generated):
    mirrored = 0
    for seed in range(12):
        pair = generated.draw((48, 56), np.random.default_rng(seed))
        right, left = (np.argwhere(mask).mean(0) for mask in pair.masks)
        assert right[1] < left[1]  # what is on the image's left is called right, mirrored or not
        mirrored += int(right[0] > left[0])  # the larger, higher hole is then the left one
        assert pair.image[pair.masks.any(0)].mean() < pair.image[~pair.masks.any(0)].mean()
    assert 2 <= mirrored <= 10


def test_a_batch_hangs_on_seed_and_step_alone(generated):
    for one, same in zip(batch_of(generated, TINY, 7), batch_of(generated, TINY, 7), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(batch_of(generated, TINY, 8)[0], batch_of(generated, TINY, 7)[0])


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 0.0), (3.0, 0.75), (float("inf"), 1.0)])
def test_a_mix_has_the_ratio_asked_for(generated, masked, ratio, share):
    class Marked:
        names = NAMES

        def draw(self, size, random) -> Pair:
            blank = np.zeros((2, *size), dtype=bool)
            return Pair(np.full(size, 2.0, dtype=np.float32), blank, blank[0])

    mixed = Mixed(Marked(), Films(masked, NAMES), ratio)
    drawn = [mixed.draw((32, 32), np.random.default_rng(n)).image.max() == 2 for n in range(100)]
    assert abs(np.mean(drawn) - share) < 0.15  # three deviations of a hundred draws


def test_what_cannot_be_mixed_is_refused(generated, masked):
    with pytest.raises(SettingError, match="from 0 to infinity"):
        Mixed(generated, Films(masked, NAMES), -1.0)
    with pytest.raises(LabelError, match="lung_left"):
        Mixed(generated, Films(masked, ("lung_left", "lung_right")), 1.0)
    with pytest.raises(LabelError, match="same labels"):
        Generated([chest(20), dataclasses.replace(chest(20), names=("a", "b"))])


def test_masks_in_a_folder(tmp_path, masked):
    (tmp_path / "x").mkdir()
    (tmp_path / "m").mkdir()
    ids = np.where(masked[0].masks[0], 1, 0) + np.where(masked[0].masks[1], 2, 0)
    ids[0, :9] = 255
    grey = (masked[0].film.values * 255).astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(grey).save(tmp_path / "x" / name)
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "m" / "a.png")
    with pytest.warns(Notice, match=r"1 of the images .* no mask"):
        (one,) = masked_in_folder(tmp_path / "x", tmp_path / "m", {1: "lung_right", 2: "lung_left"}, {"a.png": "p7"})
    assert np.array_equal(one.masks, masked[0].masks)
    assert (~one.known).sum() == 9
    assert one.group == "p7"
    with pytest.raises(PathError, match="holds no mask"):
        masked_in_folder(tmp_path / "x", tmp_path / "x" / "none", {1: "lung_right"})
    Image.fromarray(ids[:20].astype(np.uint8)).save(tmp_path / "m" / "b.png")
    with pytest.raises(ImageError, match="must be alike"):
        masked_in_folder(tmp_path / "x", tmp_path / "m", {1: "lung_right"})


@pytest.mark.parametrize("kind", ["npz", "png", "tiff"])
def test_masks_in_a_manifest(tmp_path, masked, kind):
    one = masked[0]
    Image.fromarray((one.film.values * 65535).astype(np.uint16)).save(tmp_path / "a.png")
    names = ["heart", "lung_left", "lung_right"]
    layers = np.stack([np.zeros_like(one.masks[0]), one.masks[1], one.masks[0]])
    if kind == "npz":
        np.savez(tmp_path / "m.npz", names=np.array(names), masks=layers)
        entry = "m.npz"
    elif kind == "png":
        for name, layer in zip(names, layers, strict=True):
            Image.fromarray(layer.astype(np.uint8) * 255).save(tmp_path / f"{name}.png")
        entry = {name: f"{name}.png" for name in names}
    else:
        import tifffile

        with tifffile.TiffWriter(tmp_path / "m.tif") as file:
            for name, layer in zip(names, layers, strict=True):
                file.write(layer.astype(np.uint8) * 255, description=name, metadata=None)
        entry = "m.tif"
    line = {"image": "a.png", "masks": entry, "split": "train", "ct": "c"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = masked_in_manifest(tmp_path, NAMES)
    assert np.array_equal(found.masks, one.masks)
    with pytest.raises(LabelError, match="shows tail"):
        masked_in_manifest(tmp_path, ("tail",))


def test_it_learns_the_lungs(trained, masked):
    scores = trained.learned.scores
    assert scores["dice"] > 0.8  # a tiny network after 120 steps; untrained it has 0.2
    assert scores["dice"] == pytest.approx(mean_dice(evaluate_segmenter(trained.segmenter, masked)))
    assert set(scores) == {"dice", "dice of lung_right", "dice of lung_left"}
    assert [line["step"] for line in trained.learned.history] == [60, 120]
    right, left = trained.segmenter.segment(masked[0].film)
    assert np.argwhere(right).mean(0)[1] < np.argwhere(left).mean(0)[1]


def test_stopped_and_resumed_it_ends_where_it_would_have(tmp_path, generated, trained):
    save = tmp_path / "training.ckpt"
    job: Job = train_segmenter(generated, TINY, save)
    for progress in job:
        if progress.done == 23:
            job.cancel()
    assert job.cancelled
    again = train_segmenter(generated, dataclasses.replace(TINY, score_every=7), save).run()
    assert again.learned.steps == 120
    for name, weight in trained.segmenter.network.state_dict().items():
        assert torch.equal(weight, again.segmenter.network.state_dict()[name]), name


def test_a_save_of_another_training_is_refused(tmp_path, generated):
    save = tmp_path / "training.ckpt"
    train_segmenter(generated, dataclasses.replace(TINY, steps=1), save).run()
    with pytest.raises(PathError, match="other settings"):
        train_segmenter(generated, dataclasses.replace(TINY, steps=2), save).run()
    job = train_segmenter(generated, TINY, tmp_path / "b.ckpt")
    next(iter(job))
    with pytest.raises(OutputError, match="already"):
        next(iter(train_segmenter(generated, TINY, tmp_path / "b.ckpt")))
    job.cancel()
    assert not list(job)


def test_a_model_file_is_whole_and_safe(tmp_path, trained, masked):
    path = save_segmenter(tmp_path / "lungs.safetensors", trained.segmenter)
    loaded = load_segmenter(path)
    assert loaded.settings == trained.segmenter.settings
    assert loaded.info["scores"]["dice"] == pytest.approx(trained.learned.scores["dice"])
    film = masked[0].film
    assert np.array_equal(loaded.probabilities(film), trained.segmenter.probabilities(film))
    torch.save(trained.segmenter.network.state_dict(), tmp_path / "pickle.safetensors")
    with pytest.raises(PathError, match="pickle"):
        load_segmenter(tmp_path / "pickle.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PathError, match="not all of one"):
        load_segmenter(tmp_path / "cut.safetensors")
    with pytest.raises(SettingError, match="safe to open"):
        save_segmenter(tmp_path / "lungs.pt", trained.segmenter)


def test_a_mirrored_film_has_mirrored_lungs(trained, masked):
    film = masked[0].film
    mirrored = Film(np.ascontiguousarray(film.values[:, ::-1]), "mirrored")
    plain, other = trained.segmenter.probabilities(film), trained.segmenter.probabilities(mirrored)
    assert np.abs(plain - other[::-1, :, ::-1]).max() < 1e-5
    assert np.abs(plain - other[:, :, ::-1]).max() > 0.5


def test_a_segmenter_adapts_to_films(trained, masked):
    films = [Film(one.film.values**3, one.film.name) for one in masked]
    moved = adapted(trained.segmenter, films)
    weights, before = moved.network.state_dict(), trained.segmenter.network.state_dict()
    changed = {name.rsplit(".", 1)[1] for name in weights if not torch.equal(weights[name], before[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    same = adapted(trained.segmenter, films, 0.0)
    assert np.array_equal(same.probabilities(films[0]), trained.segmenter.probabilities(films[0]))
    with pytest.raises(SettingError, match="from 0 to 1"):
        adapted(trained.segmenter, films, 2.0)


def test_a_film_of_any_size_is_segmented_in_its_own(trained, masked):
    large = np.kron(masked[0].film.values, np.ones((5, 3), dtype=np.float32))
    found = trained.segmenter.segment(Film(large, "large"))
    assert found.shape == (2, *large.shape)
    truth = np.stack([np.kron(mask, np.ones((5, 3), dtype=bool)) for mask in masked[0].masks])
    assert dice(found[0], truth[0], np.ones(large.shape, dtype=bool)) > 0.7


def test_dice_leaves_out_what_nobody_knows():
    truth = np.zeros((8, 10), dtype=bool)
    truth[2:6, 1:5] = True
    found = np.roll(truth, 2, axis=1)
    everywhere = np.ones_like(truth)
    assert dice(found, truth, everywhere) == pytest.approx(2 * 8 / 32)
    known = everywhere.copy()
    known[:, 5:] = False
    assert dice(found, truth, known) == pytest.approx(2 * 8 / (16 + 8))
    assert np.isnan(dice(truth & False, truth & False, everywhere))


def test_the_loss_leaves_out_what_nobody_knows():
    generator = torch.Generator().manual_seed(0)
    logits, masks = (
        torch.randn(2, 1, 6, 7, generator=generator),
        (torch.rand(2, 1, 6, 7, generator=generator) > 0.5).float(),
    )
    known = torch.ones(2, 1, 6, 7)
    known[:, :, 3:] = 0
    other = masks.clone()
    other[:, :, 3:] = 1 - other[:, :, 3:]
    assert torch.equal(segmentation_loss(logits, masks, known), segmentation_loss(logits, other, known))
    assert segmentation_loss(logits, masks, torch.ones_like(known)) != segmentation_loss(
        logits, other, torch.ones_like(known)
    )
    sure = 40 * (masks - 0.5)
    assert float(segmentation_loss(sure, masks, known)) < 0.01


def test_short_memory_halves_the_batch(generated, monkeypatch):
    from diffrender.synth import segmenting

    calls = []

    def crowded(network, batch):
        calls.append(len(batch[0]))
        if len(batch[0]) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return network(batch[0]).mean()

    monkeypatch.setattr(segmenting, "_loss_of", crowded)
    train_segmenter(generated, dataclasses.replace(TINY, steps=2)).run()
    assert calls == [4, 2, 2, 2, 2]


def test_the_rate_rises_and_falls():
    shares = [share_of_rate(n / 200) for n in range(201)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0)
    assert shares.index(max(shares)) == 20
    assert shares[-1] == pytest.approx(0.01)


def test_pages_show_the_worst_first(trained, masked):
    scored = evaluate_segmenter(trained.segmenter, masked)
    assert scored[0].mean <= scored[1].mean
    page = segmentation_page(trained.segmenter, scored, {"PA": ["film 21.png"]})
    order = [page.index(f"{one.film.name}: ") for one in scored]
    assert order == sorted(order)
    assert page.count("<img") == 2
    assert f"{mean_dice(scored):.3f}" in page
    assert "<td>PA</td><td>1</td>" in page
    films = [one.film for one in masked]
    plain = overlay_page(trained.segmenter, films, [trained.segmenter.segment(film) for film in films])
    assert plain.count("<img") == 2


def test_settings_that_cannot_be_are_refused(generated, masked):
    with pytest.raises(SettingError, match="network is one of"):
        SegmenterSettings(NAMES, "huge")
    with pytest.raises(SettingError, match="multiples of 16"):
        SegmenterSettings(NAMES, "small", (100, 100))
    with pytest.raises(SettingError, match="steps, batch"):
        Training(steps=0)
    with pytest.raises(LabelError, match="a mask for each"):
        train_segmenter(generated, TINY, held_out=[dataclasses.replace(masked[0], masks=masked[0].masks[:1])])
    settings = SegmenterSettings(("lung",), "tiny", (32, 40))
    with pytest.raises(SettingError, match="go on from"):
        train_segmenter(generated, TINY, start=Segmenter(settings, network_of(settings)))
