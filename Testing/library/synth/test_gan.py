"""Losses, penalties, averages and steps of the two networks, each against its formula."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from torch import nn

from diffrender.errors import SettingError
from diffrender.phantom import torso
from diffrender.rays.field import MarchSettings
from diffrender.synth import gan
from diffrender.synth import generator as viewer
from diffrender.synth.discriminator import UNetDiscriminator
from diffrender.synth.fields import GeneratorSettings
from diffrender.synth.gan import (
    Adversaries,
    StepLosses,
    cut_and_mixed,
    discriminator_loss,
    follow,
    generator_loss,
    r1,
    touched,
)
from diffrender.synth.vrr_settings import VRRSettings, vrr_preset
from diffrender.synth.watch import RECENT, SATURATED, Watch, measures, preview
from diffrender.views import preset
from diffrender.volume import Volume

TINY = VRRSettings(
    GeneratorSettings(lattice=4, detail=6, channels=(4, 6), points=20),
    discriminator=(4, 6),
    image_size=(12, 16),
    steps=4,
    batch=2,
    augment=False,
    device="cpu",
)


@pytest.fixture(autouse=True)
def plain_march(monkeypatch):
    """Pictures this small take longer to compile fused kernels for than to march through without."""
    monkeypatch.setattr(viewer, "MarchSettings", partial(MarchSettings, backend="torch"))


def logits(*numbers: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of whole pictures, and twice as large ones of two pixels each."""
    whole = torch.tensor(numbers)
    return whole, (2 * whole)[:, None, None, None].expand(-1, 1, 1, 2)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(numbers) -> float:
    return sum(numbers) / len(numbers)


def test_losses_are_those_of_the_formulas():
    real, fake = logits(0.7, -1.1, 0.3), logits(0.4, 0.2, -0.9)
    told = [(1, [0.7, -1.1, 0.3], [0.4, 0.2, -0.9]), (2, [0.7, -1.1, 0.3], [0.4, 0.2, -0.9])]
    against = sum(
        mean([-math.log(logistic(n * r)) for r in rs]) + mean([-math.log(1 - logistic(n * f)) for f in fs])
        for n, rs, fs in told
    )
    assert float(discriminator_loss("log", real, fake)) == pytest.approx(against, rel=1e-6)
    assert float(discriminator_loss("non-saturating", real, fake)) == pytest.approx(against, rel=1e-6)
    hinge = sum(mean([max(0, 1 - n * r) for r in rs]) + mean([max(0, 1 + n * f) for f in fs]) for n, rs, fs in told)
    assert float(discriminator_loss("hinge", real, fake)) == pytest.approx(hinge, rel=1e-6)
    forms = {
        "log": lambda f: math.log(1 - logistic(f)),
        "non-saturating": lambda f: -math.log(logistic(f)),
        "hinge": lambda f: -f,
    }
    for kind, form in forms.items():
        truth = sum(mean([form(n * f) for f in (0.4, 0.2, -0.9)]) for n in (1, 2))
        assert float(generator_loss(kind, fake)) == pytest.approx(truth, rel=1e-6)


class Slanted(nn.Module):
    """Logits that are linear in the pixels: the gradient is known."""

    def __init__(self):
        super().__init__()
        self.whole = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
        self.pixel = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: torch.Tensor):
        return (x * self.whole).sum((1, 2, 3)), self.pixel * x


def test_r1_is_the_mean_square_of_the_gradient():
    found = r1(Slanted(), torch.rand(3, 1, 2, 2))
    # of whole + the mean over four pixels of 4 x: (1 + 1)^2 + (-2 + 1)^2 + (0.5 + 1)^2 + (3 + 1)^2
    assert found.requires_grad
    assert float(found.detach()) == pytest.approx(4 + 1 + 2.25 + 16)


def test_cut_and_mixed_pictures_are_real_where_the_mask_says_so():
    real, fake = torch.full((2, 1, 20, 30), 0.9), torch.full((2, 1, 20, 30), 0.2)
    kinds, areas = set(), []
    for seed in range(30):
        mixed, mask = cut_and_mixed(real, fake, torch.Generator().manual_seed(seed))
        assert torch.allclose(mixed, 0.2 + 0.7 * mask.expand_as(mixed))
        kinds |= set(mask[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist())
        areas.append(float(mask.mean()))
    assert kinds == {0.0, 1.0}  # real outside as well as inside
    assert 0.25 < mean(areas) < 0.75


def test_touched_pictures_are_moved_and_never_mirrored():
    pictures = torch.zeros(6, 1, 32, 48)
    pictures[:, :, 8:14, 10:13] = 1.0  # tall and left of the middle
    found = touched(pictures, torch.Generator().manual_seed(0))
    assert found.shape == pictures.shape
    centres = []
    for one in found:
        bright = one[0] > (one.max() + one.min()) / 2
        rows, columns = bright.nonzero().unbind(1)
        assert (int(bright.any(1).sum()), int(bright.any(0).sum())) == (6, 3)  # neither turned nor cut
        centres.append((float(rows.double().mean()), float(columns.double().mean())))
    moved = torch.tensor(centres) - torch.tensor([10.5, 11.0])
    assert (moved.abs() <= torch.tensor([4.0, 6.0]) + 1e-3).all()  # an eighth of the sides
    assert (moved.std(0) > 0.5).all()
    assert len({round(float(one.max()), 4) for one in found}) == 6  # each with a brightness of its own
    assert torch.equal(found, touched(pictures, torch.Generator().manual_seed(0)))


def test_the_average_follows_at_its_rate_and_copies_what_is_counted():
    now, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        now.weight.fill_(3.0)
        now.running_mean.fill_(5.0)  # pyright: ignore[reportOptionalMemberAccess]
        average.weight.fill_(1.0)
    follow(average, now, decay=0.9, number=1000)
    assert torch.allclose(average.weight, torch.tensor(1.2))
    assert torch.equal(average.running_mean, now.running_mean)  # pyright: ignore[reportArgumentType]
    follow(average, now, decay=0.9, number=0)  # in the beginning a tenth stays
    assert torch.allclose(average.weight, torch.tensor(0.1 * 1.2 + 0.9 * 3.0))


def test_the_discriminator_tells_pixels_apart_after_a_few_steps():
    torch.manual_seed(0)
    network = UNetDiscriminator((6, 8, 10), spectral=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(1)
    for _ in range(12):
        real = torch.rand((4, 1, 16, 24), generator=draw)
        fake = torch.nn.functional.avg_pool2d(torch.rand((4, 1, 16, 24), generator=draw), 3, 1, 1)
        optimiser.zero_grad()
        discriminator_loss("hinge", network(real), network(fake)).backward()
        optimiser.step()
    (whole, pixel), (other, other_pixel) = network(real), network(fake)
    assert pixel.shape == (4, 1, 16, 24)
    assert whole.min() > other.max()
    assert pixel.mean() > other_pixel.mean() + 0.3
    with pytest.raises(SettingError, match="multiples of 4"):
        network(torch.rand(1, 1, 18, 24))


@pytest.fixture(scope="module")
def chest() -> Volume:
    return torso(shape=(14, 12, 16))


def stepped(chest: Volume, number: int = 0, **changes) -> tuple[Adversaries, StepLosses]:
    pair = Adversaries(dataclasses.replace(TINY, **changes), torch.device("cpu"))
    with torch.no_grad():
        pair.generator.mapper.network.last.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    cameras = [preset(name, chest, TINY.image_size) for name in ("chest-pa", "chest-ap-bedside")]
    real = torch.rand((2, 1, *TINY.image_size), generator=torch.Generator().manual_seed(8))
    return pair, pair.step(chest, cameras, real, number)


def gradients(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_the_penalty_is_worked_out_in_every_nth_step_alone_and_is_as_much_stronger(chest, monkeypatch):
    asked = []

    def counted(network: UNetDiscriminator, real: torch.Tensor) -> torch.Tensor:
        asked.append(real.shape)
        return network.whole.bias.sum()

    monkeypatch.setattr(gan, "r1", counted)
    made = [stepped(chest, number, r1=5.0, r1_every=3)[1].r1 is not None for number in (0, 1, 3)]
    assert made == [True, False, True]
    assert len(asked) == 2
    bias = [stepped(chest, 0, r1=5.0, r1_every=n)[0].discriminator.whole.bias.grad for n in (3, 7)]
    assert float(bias[1] - bias[0]) == pytest.approx(5.0 / 2 * (7 - 3), rel=1e-5)
    stepped(chest, 0, r1=0.0)
    assert len(asked) == 4


def test_lambda_weighs_the_distance_to_the_drr(chest, monkeypatch):
    def nothing(kind: str, fake: gan.Logits) -> torch.Tensor:
        return 0.0 * fake[0].sum()

    monkeypatch.setattr(gan, "generator_loss", nothing)
    once, thrice, never = (gradients(stepped(chest, l1=weight)[0].generator) for weight in (1.0, 3.0, 0.0))
    assert once.abs().max() > 1e-4
    # the clamps and sums run in the same order
    assert torch.allclose(thrice, 3 * once, rtol=1e-4, atol=1e-7)
    assert never.abs().max() == 0


def test_the_generators_step_leaves_the_discriminators_gradients_alone(chest):
    pair, losses = stepped(chest, 5)
    assert all(p.requires_grad for p in pair.discriminator.parameters())
    assert losses.finite
    assert losses.to_drr > 0.01
    assert 0 <= losses.told <= 1
    assert gradients(pair.generator).abs().max() > 0


def test_cutmix_asks_for_consistent_pixels(chest):
    first, second = (gradients(stepped(chest, 5, cutmix=weight)[0].discriminator) for weight in (0.0, 1.0))
    assert not torch.allclose(first, second)


def test_what_the_ct_does_not_reach_is_hidden_in_real_pictures_too(chest, monkeypatch):
    seen = []
    plain = Adversaries._discriminated

    def watched(self: Adversaries, real: torch.Tensor, fake: torch.Tensor, number: int):
        seen.append((real, fake))
        return plain(self, real, fake, number)

    monkeypatch.setattr(Adversaries, "_discriminated", watched)
    pair = Adversaries(TINY, torch.device("cpu"))
    camera = preset("chest-pa", chest, TINY.image_size)
    wide = dataclasses.replace(camera, pixel_size=tuple(1.5 * n for n in camera.pixel_size))
    pair.step(chest, [wide, camera], torch.rand(2, 1, *TINY.image_size) * 0.5 + 0.25, 5)
    real, fake = seen[0]
    hidden = fake[0] == 0
    assert 0.3 < hidden.float().mean() < 0.9
    assert torch.equal(real[0] == 0, hidden)
    assert float(real[0][~hidden].mean()) == pytest.approx(0.5, abs=0.03)


def test_no_number_leaves_the_weights_as_they_are(chest, monkeypatch):
    def nan(kind: str, fake: gan.Logits) -> torch.Tensor:
        return fake[0].sum() * float("nan")

    kept = stepped(chest, 5)[0]  # the same start, with a number
    monkeypatch.setattr(gan, "generator_loss", nan)
    pair, losses = stepped(chest, 5)
    assert not losses.finite
    assert all(bool(p.isfinite().all()) for p in pair.generator.parameters())
    assert all(bool(p.isfinite().all()) for p in pair.average.parameters())
    assert not torch.equal(next(kept.generator.parameters()), next(pair.generator.parameters()))


def test_seeds_settle_everything(chest):
    states = [stepped(chest, 3, seed=seed, augment=True)[0].state() for seed in (1, 1, 2)]
    flat = [torch.cat([t.flatten() for t in state["discriminator"].values()]) for state in states]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def views(seed: int, count: int = 4) -> torch.Tensor:
    return torch.rand((count, 1, 10, 14), generator=torch.Generator().manual_seed(seed))


def patients(difference: float) -> torch.Tensor:
    """Views that have most in common."""
    return 0.7 * views(9)[:1] + difference * views(0)


def test_measures_of_a_healthy_and_of_lost_generators():
    drrs = views(0)
    healthy = measures(0.7 * drrs + 0.1, drrs)
    assert healthy["alike"] == pytest.approx(0.7, rel=1e-4)
    assert healthy["unlike"] == pytest.approx(1.0, abs=1e-5)
    assert measures(drrs[:1].expand(4, -1, -1, -1), drrs)["alike"] == 0.0
    assert measures(torch.full_like(drrs, 0.4), drrs)["flat"] < 1e-6
    assert abs(measures(views(1), drrs)["unlike"]) < 0.2


@pytest.mark.parametrize(
    ("pictures", "kind", "words"),
    [
        (0.5 * patients(0.3) + 0.1, None, None),
        (patients(0.02), "alike", "mode collapse"),
        (0.01 * patients(0.3) + 0.5, "flat", "one grey"),
        (views(1), "unlike", "lost the anatomy"),
    ],
)
def test_a_lost_generator_is_said(pictures, kind, words):
    watch = Watch()
    if kind is None:
        watch.epoch(pictures, patients(0.3))
        assert not watch.collapsed
        return
    with pytest.warns(UserWarning, match=words):
        watch.epoch(pictures, patients(0.3))
    assert watch.collapsed
    assert watch.said == [kind]


def test_a_saturated_discriminator_is_said_once_and_is_no_collapse():
    watch = Watch()
    for _ in range(RECENT - 1):
        watch.step(StepLosses(0.1, 4.0, 0.1, None, 1.0, True))
    assert watch.said == []
    with pytest.warns(UserWarning, match="saturated") as found:
        [watch.step(StepLosses(0.1, 4.0, 0.1, None, 1.0, True)) for _ in range(3)]
    assert len(found) == 1
    assert watch.said == [SATURATED]
    assert not watch.collapsed
    again = Watch()
    again.restore(watch.state())
    assert again.accuracy == watch.accuracy == 1.0


def test_previews_have_the_drrs_above():
    picture = preview(views(0), views(1))
    assert picture.shape == (1, 20, 56)
    assert torch.equal(picture[:, :10, 14:28], views(0)[1])
    assert torch.equal(picture[:, 10:, 14:28], views(1)[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "wasserstein"}, "loss is one of"),
        ({"steps": 3, "epochs": 2}, "one budget"),
        ({"l1": -1.0}, "l1 is a weight"),
        ({"ema": 1.0}, "ema is a share"),
        ({"image_size": (12, 15)}, "multiples of 2"),
        ({"batch": 0}, "batch is above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(SettingError, match=words):
        dataclasses.replace(TINY, **changes)


def test_presets_have_names():
    paper = vrr_preset("paper")
    assert (paper.image_size, paper.generator.points, paper.epochs, paper.l1) == ((256, 256), 512, 200, 1.0)
    assert (paper.generator.mapper, paper.loss) == ("vnet", "log")
    assert vrr_preset("small", seconds=None, steps=7).budget == ("steps", 7.0)
    with pytest.raises(SettingError, match="small, paper"):
        vrr_preset("large")
