"""Two networks against each other: losses, what keeps the discriminator in bounds, and one step of both.

Source: Pham & Tran, Neural Radiance Projection (2022), for the losses and lambda; the rest is named where it stands.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffrender.camera import Camera
from diffrender.learning import drawn, reproducible, seeded
from diffrender.synth.discriminator import UNetDiscriminator
from diffrender.synth.fields import fixed_fields
from diffrender.synth.generator import VRRGenerator, shown, viewed
from diffrender.synth.reach import reached
from diffrender.synth.vrr_settings import VRRSettings
from diffrender.volume import Volume

BETAS = (0.0, 0.99)  # of both Adams, as in StyleGAN2
WARMING = 10.0  # steps: until many times as many are done the average follows faster, so that it forgets the start
TOUCH = 0.125  # of a picture's side that it is shifted by at most before the discriminator sees it
BRIGHTER, STEEPER = 0.2, 0.4  # that greys are shifted by at most, and by how much their contrast changes

Logits = tuple[Float[Tensor, "n"], Float[Tensor, "n 1 h w"]]  # of whole pictures, and of their pixels


def discriminator_loss(kind: str, real: Logits, fake: Logits) -> Float[Tensor, ""]:
    """What the discriminator lowers: of whole pictures and of pixels alike.

    -log D(x) - log(1 - D(G(y))) with D the logistic of the logits, whatever the generator's form; "hinge":
    max(0, 1 - l) of real logits and max(0, 1 + l) of made ones.
    """
    if kind == "hinge":
        return sum((F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)), _zero(real))
    return sum((F.softplus(-r).mean() + F.softplus(f).mean() for r, f in zip(real, fake, strict=True)), _zero(real))


def generator_loss(kind: str, fake: Logits) -> Float[Tensor, ""]:
    """What the generator lowers: "log", log(1 - D(G(y))), the paper's; "non-saturating", -log D(G(y)), the same aim
    with a gradient where the discriminator is sure (Goodfellow et al., 2014); "hinge", -l."""
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "log": lambda logits: -F.softplus(logits),
        "non-saturating": lambda logits: F.softplus(-logits),
        "hinge": lambda logits: -logits,
    }
    return sum((forms[kind](logits).mean() for logits in fake), _zero(fake))


def r1(discriminator: nn.Module, real: Float[Tensor, "n 1 h w"]) -> Float[Tensor, ""]:
    """The mean square of the logits' gradient in real pictures, there for the weights to learn from.

    Source: Mescheder, Geiger & Nowozin (2018), arXiv:1801.04406, eq. 9 without gamma / 2.
    """
    pictures = real.detach().requires_grad_()
    whole, pixel = discriminator(pictures)
    (slope,) = torch.autograd.grad(whole.sum() + pixel.mean((1, 2, 3)).sum(), pictures, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()


def cut_and_mixed(
    real: Float[Tensor, "n 1 h w"], fake: Float[Tensor, "n 1 h w"], draw: torch.Generator
) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "1 1 h w"]]:
    """Pictures that are real inside a drawn box and made outside, or the other way round, and 1 where they are real."""
    height, width = real.shape[2:]
    top, left, size, swap = torch.rand(4, generator=draw).tolist()
    tall, broad = round(height * size**0.5), round(width * size**0.5)
    row, column = round(top * (height - tall)), round(left * (width - broad))
    mask = torch.zeros(1, 1, height, width, device=real.device)
    mask[..., row : row + tall, column : column + broad] = 1.0
    mask = 1.0 - mask if swap < 0.5 else mask
    return mask * real + (1.0 - mask) * fake, mask


def touched(pictures: Float[Tensor, "n 1 h w"], draw: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Shifted, brightened and steepened, each by its own draw: few radiographs are then not learned by heart.

    Source: Zhao et al., Differentiable Augmentation (2020), arXiv:2006.10738; no flips: left and right are anatomy.
    """
    numbers = (2.0 * torch.rand(len(pictures), 4, generator=draw) - 1.0).to(pictures)
    height, width = pictures.shape[2:]
    mean = pictures.mean((1, 2, 3), keepdim=True)
    contrast, brightness = (n[:, None, None, None] for n in (1.0 + STEEPER * numbers[:, 0], BRIGHTER * numbers[:, 1]))
    changed = (pictures - mean) * contrast + mean + brightness
    edge = [round(TOUCH * side) for side in (height, width)]
    wide = F.pad(changed, (edge[1], edge[1], edge[0], edge[0]), mode="replicate")
    moved = []
    for one, (down, right) in zip(wide, numbers[:, 2:].tolist(), strict=True):
        row, column = edge[0] + round(down * edge[0]), edge[1] + round(right * edge[1])
        moved.append(one[:, row : row + height, column : column + width])
    return torch.stack(moved)


def follow(average: nn.Module, module: nn.Module, decay: float, number: int) -> None:
    """Move the running mean of a network's weights on, at step `number` from 0; counts and means of norms are copied.

    Source: Karras et al. (2018), arXiv:1710.10196.
    """
    kept = min(decay, (1.0 + number) / (WARMING + number))
    with torch.no_grad():
        for mean, now in zip(average.parameters(), module.parameters(), strict=True):
            mean.lerp_(now, 1.0 - kept)
        for mean, now in zip(average.buffers(), module.buffers(), strict=True):
            mean.copy_(now)


@dataclass(frozen=True)
class StepLosses:
    """What a step came to.

    Attributes:
        discriminator, generator: their adversarial losses.
        to_drr: mean difference of the pictures to their DRR.
        r1: the penalty before its factor; None in the steps that leave it out.
        told: share of what the discriminator tells rightly, pictures and pixels alike, 0.5 to 1.
        finite: whether all is a number; else the weights are as they were.
    """

    discriminator: float
    generator: float
    to_drr: float
    r1: float | None
    told: float
    finite: bool


class Adversaries:
    """A generator, its discriminator, the generator's running average, and the optimisers.

    All randomness of a step follows from the seed and the step's number.
    """

    def __init__(self, settings: VRRSettings, device: torch.device):
        self.settings, self.device = settings, device
        with seeded(settings.seed, -1, torch.device("cpu")):
            self.generator = VRRGenerator(settings.generator).to(device)
            self.discriminator = UNetDiscriminator(settings.discriminator, settings.spectral).to(device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        rates = (settings.rate, settings.discriminator_rate)
        parameters = (self.generator.parameters(), self.discriminator.parameters())
        self.optimisers = [
            torch.optim.Adam([{"params": list(own)}], lr=rate, betas=BETAS)
            for own, rate in zip(parameters, rates, strict=True)
        ]

    def step(
        self, volume: Volume, cameras: Sequence[Camera], real: Float[Tensor, "n 1 h w"], number: int
    ) -> StepLosses:
        """One step of the discriminator and one of the generator.

        Args:
            real: radiographs with greys as they came; as many as cameras.
        """
        self.generator.train()
        with seeded(self.settings.seed, number, self.device), reproducible(self.device):
            fake = self.generator(volume, cameras)
            with torch.no_grad():
                ct = self.generator.given(volume)
                drr = viewed(fixed_fields(ct, self.settings.generator), volume, cameras, self.settings.generator)
            shared = self._shared(volume, cameras)
            seen = torch.stack([shown(one, mask) for one, mask in zip(real[:, 0].to(self.device), shared, strict=True)])
            against, told, penalty = self._discriminated(seen[:, None], fake.detach(), number)
            adversarial, to_drr, stepped = self._generated(fake, drr, number)
        finite = stepped and all(bool(torch.isfinite(loss)) for loss in (against, adversarial, to_drr))
        if finite:
            follow(self.average, self.generator, self.settings.ema, number)
        penalty = None if penalty is None else float(penalty)
        return StepLosses(float(against), float(adversarial), float(to_drr), penalty, told, finite)

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back from `state`."""
        for name in ("generator", "discriminator", "average"):
            getattr(self, name).load_state_dict(state[name])
        for optimiser, own in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(own)

    def forget(self) -> None:
        """Let go of what a step that failed has left in memory."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _shared(self, volume: Volume, cameras: Sequence[Camera]) -> Bool[Tensor, "n h w"]:
        """Where both kinds of pictures show something: what the CT does not reach is no mark of a made one."""
        return torch.stack([reached(volume, camera) for camera in cameras]).to(self.device)

    def _discriminated(
        self, real: Tensor, fake: Tensor, number: int
    ) -> tuple[Float[Tensor, ""], float, Float[Tensor, ""] | None]:
        settings, network, optimiser = self.settings, self.discriminator, self.optimisers[1]
        real, fake = (self._touched(part, number, what) for part, what in ((real, "real"), (fake, "made")))
        optimiser.zero_grad(set_to_none=True)
        on_real, on_fake = network(real), network(fake)
        loss = discriminator_loss(settings.loss, on_real, on_fake)
        whole = loss
        if settings.cutmix > 0:
            mixed, mask = cut_and_mixed(real, fake, drawn(settings.seed, "cutmix", number))
            target = mask * on_real[1].detach() + (1.0 - mask) * on_fake[1].detach()
            whole = whole + settings.cutmix * (network(mixed)[1] - target).square().mean()
        penalty = None
        if settings.r1 > 0 and number % settings.r1_every == 0:  # rarely, and as much stronger (StyleGAN2's laziness)
            penalty = r1(network, real)
            whole = whole + settings.r1 / 2.0 * settings.r1_every * penalty
        whole.backward()
        _descend(optimiser)
        told = [float((n > 0).float().mean()) for n in on_real] + [float((n < 0).float().mean()) for n in on_fake]
        return loss.detach(), sum(told) / len(told), None if penalty is None else penalty.detach()

    def _generated(self, fake: Tensor, drr: Tensor, number: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""], bool]:
        optimiser = self.optimisers[0]
        optimiser.zero_grad(set_to_none=True)
        self.discriminator.requires_grad_(False)
        adversarial = generator_loss(self.settings.loss, self.discriminator(self._touched(fake, number, "made again")))
        to_drr = (fake - drr).abs().mean()
        (adversarial + self.settings.l1 * to_drr).backward()
        self.discriminator.requires_grad_(True)
        return adversarial.detach(), to_drr.detach(), _descend(optimiser)

    def _touched(self, pictures: Tensor, number: int, what: str) -> Tensor:
        return touched(pictures, drawn(self.settings.seed, what, number)) if self.settings.augment else pictures


def _descend(optimiser: torch.optim.Optimizer) -> bool:
    """A step, unless a gradient is no number. Returns: whether it was made."""
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    finite = all(bool(torch.isfinite(g).all()) for g in gradients)
    if finite:
        optimiser.step()
    return finite


def _zero(logits: Logits) -> Float[Tensor, ""]:
    return torch.zeros((), device=logits[0].device)
