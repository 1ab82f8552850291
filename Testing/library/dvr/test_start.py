"""What unet-s starts from: the mean of instant previews, kept in models, and fitted where it is one volume's."""

import dataclasses

import pytest
import torch
from trainings import brief, case, drawing, lump

from diffrender.dvr import start as start_module
from diffrender.dvr.clusters import build_clusters, fit_clusters
from diffrender.dvr.losses import scores_of
from diffrender.dvr.model import load_model, save_model
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.settings import Augmentation
from diffrender.dvr.start import PREVIEWS, VOXELS_A_GROUP, Start
from diffrender.dvr.training import train_on
from diffrender.dvr.transfer import TransferFunction


@pytest.fixture(scope="module")
def one():
    return case(shape=(11, 14, 10))


def test_before_it_is_fitted_nothing_changes():
    found = Start(drawing())(lump((5, 7, 6)))
    assert torch.equal(found[:3], torch.zeros(3, 5, 7, 6))
    assert torch.equal(found[3], torch.ones(5, 7, 6))


def test_it_is_the_mean_of_previews(one):
    settings = drawing()
    made = Start(settings)
    made.fit(one.volume, one.targets)
    shown = int((settings.drawn_by.at(one.volume.values)[..., 3] > 1e-4).sum())
    total = torch.zeros(4, *one.volume.shape)
    for seed in range(PREVIEWS):
        drawn = RendererSettings(transfer=settings.transfer, clusters=shown // VOXELS_A_GROUP, seed=seed)
        preview = build_clusters(drawn)
        fit_clusters(preview, one.volume, one.targets)
        (grid,) = preview.encoder(one.volume)
        with torch.no_grad():
            total += torch.cat([preview.colour((grid,))[0].change, preview.opacity((grid,))[0].change])
    # single precision: sums of four
    assert (made(one.volume) - total / PREVIEWS).abs().max() < 1e-5
    assert total[:3].std() > 0.1


def test_where_time_is_short_one_preview_is_enough(one):
    made = Start(drawing())
    made.fit(one.volume, one.targets, enough=lambda: True)
    assert made.used.tolist() == [1, 0, 0, 0]
    single = build_clusters(RendererSettings(transfer=drawing().transfer, clusters=int(made_groups(made)), seed=0))
    fit_clusters(single, one.volume, one.targets)
    with torch.no_grad():
        change = single.colour(single.encoder(one.volume))[0].change
    assert (made(one.volume)[:3] - change).abs().max() < 1e-5


def made_groups(made: Start) -> int:
    """Groups that are of this volume, not filled in."""
    return int((made.groupings[0].centres.abs().amax(1) < 1e5).sum())


def test_what_shows_nothing_has_no_start(one):
    hidden = TransferFunction(((0.0, 0.5, 0.5, 0.5), (1.0, 0.5, 0.5, 0.5)), ((0.0, 0.0), (1.0, 0.0)))
    made = Start(drawing(transfer=hidden))
    made.fit(one.volume, one.targets)
    assert not made.used.any()


def test_of_many_views_some_that_are_spread_are_solved_for(one, monkeypatch):
    seen = []
    monkeypatch.setattr(start_module, "fit_clusters", lambda preview, volume, targets: seen.append(list(targets)))
    silent = [dataclasses.replace(t, weight=t.weight * 0, alpha_weight=t.alpha_weight * 0) for t in one.targets[:1]]
    many = [*silent, *(dataclasses.replace(one.targets[n % 4]) for n in range(19))]
    Start(drawing()).fit(one.volume, many)
    places = [[many.index(t) for t in targets] for targets in seen]
    assert len(places) == PREVIEWS
    assert places[0] == [1, 4, 6, 9, 11, 14, 16, 19]


def test_a_training_begins_at_its_start_and_keeps_it(one, tmp_path):
    result = train_on([one], brief(renderer="unet-s", steps=2)).run()
    target = one.targets[-1]
    table, fitted = renderer("unet-s", drawing()), renderer("unet-s", drawing())
    fitted.encoder.start.fit(one.volume, one.targets[:-1])
    with torch.no_grad():
        plain, begun = (scores_of(made(one.volume, target.camera), target)["psnr"] for made in (table, fitted))
    assert begun > plain + 2
    assert result.history[0]["psnr"] == pytest.approx(begun, abs=1e-3)
    for name, tensor in fitted.encoder.start.state_dict().items():
        assert torch.equal(result.last.encoder.start.state_dict()[name], tensor)
    saved = save_model(tmp_path / "m.safetensors", result.last)
    again, _ = load_model(saved)
    with torch.no_grad():
        assert torch.equal(again(one.volume, target.camera), result.last.eval()(one.volume, target.camera))


@pytest.mark.parametrize("several", [True, False])
def test_patients_that_change_have_no_start(one, several):
    cases = [one, case(seed=8)] if several else [one]
    augment = Augmentation() if several else Augmentation(rotation=5.0)
    result = train_on(cases, brief(renderer="unet-s", steps=1, augment=augment)).run()
    assert not result.last.encoder.start.used.any()


def test_a_trained_renderer_goes_on_from_its_own_start(one):
    first = train_on([one], brief(renderer="unet-s", steps=1)).run().last
    other = case(seed=8)
    second = train_on([other], brief(renderer="unet-s", steps=1), renderer=first).run().last
    assert torch.equal(second.encoder.start.offsets, first.encoder.start.offsets)
