"""A U-Net that tells real radiographs from made ones: as a whole, and at every pixel.

Source: Schönfeld, Schiele & Khoreva, A U-Net Based Discriminator for Generative Adversarial Networks (2020),
arXiv:2002.12655; spectral norm: Miyato et al. (2018), arXiv:1802.05957.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from diffrender.errors import SettingError

SLOPE = 0.2  # of a leaky ReLU below 0


class UNetDiscriminator(nn.Module):
    """The way down ends in one number a picture, the way back up in one a pixel; above 0 is real.

    Args:
        channels: of each scale, the finest first; each is half the size of the one before.
        spectral: whether no layer may stretch more than by one, which steadies long trainings and slows short ones.
    Raises: SettingError.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128), spectral: bool = True):
        super().__init__()
        bound = spectral_norm if spectral else _unbound
        if len(channels) < 2 or min(channels) < 1:
            raise SettingError(f"A discriminator has channels for two scales or more, not {tuple(channels)}.")
        self.multiple = 2 ** (len(channels) - 1)
        pairs = list(itertools.pairwise(channels))
        self.first = _Block(1, channels[0], bound)
        self.downs = nn.ModuleList(_Block(a, b, bound) for a, b in pairs)
        self.ups = nn.ModuleList(_Block(b + a, a, bound) for a, b in reversed(pairs))
        self.whole = bound(nn.Linear(channels[-1], 1))
        self.pixel = bound(nn.Conv2d(channels[0], 1, 1))

    def forward(self, pictures: Float[Tensor, "n 1 h w"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 1 h w"]]:
        """Logits of whole pictures, and of their pixels. Raises: SettingError for sides that cannot be halved so."""
        if any(side % self.multiple for side in pictures.shape[2:]):
            raise SettingError(
                f"This discriminator needs pictures whose sides are multiples of {self.multiple}, not "
                f"{' x '.join(map(str, pictures.shape[2:]))}."
            )
        kept = [self.first(2.0 * pictures - 1.0)]
        for down in self.downs:
            kept.append(down(F.avg_pool2d(kept[-1], 2)))
        x = kept.pop()
        whole = self.whole(x.mean((2, 3)))[:, 0]
        for up in self.ups:
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), kept.pop()], 1))
        return whole, self.pixel(x)


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, bound: Callable[[nn.Module], nn.Module]):
        super().__init__()
        self.one = bound(_begun(nn.Conv2d(channels, out, 3, padding=1)))
        self.two = bound(_begun(nn.Conv2d(out, out, 3, padding=1)))
        self.past = bound(_begun(nn.Conv2d(channels, out, 1), slope=1.0))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        inner = F.leaky_relu(self.one(x), SLOPE)
        return (F.leaky_relu(self.two(inner), SLOPE) + self.past(x)) / math.sqrt(2.0)


def _begun(layer: nn.Conv2d, slope: float = SLOPE) -> nn.Conv2d:
    """What goes through it keeps its size (He et al., 2015): torch's own start shrinks it, and with it every gradient,
    by a third a layer, so that nothing is told apart for hundreds of steps."""
    nn.init.kaiming_normal_(layer.weight, slope)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _unbound(layer: nn.Module) -> nn.Module:
    return layer
