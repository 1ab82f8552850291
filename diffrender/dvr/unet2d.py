"""Decoders: what draws the picture of accumulated features, per pixel or with a 2D U-Net of several scales."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.dvr.layers import CONV, UP, Points, norm, silence
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.tables import colours_of, logits_of

SEEN = 1e-6  # alpha below which a pixel's own colour is not asked for
PICTURE = 3  # red, green and blue


class Picture(nn.Module):
    """The decoder slot of renderers that draw in the image: a network of its finest channels' images, beside the
    prior's picture.

    Images hold accumulated features, with a prior its three colours after them at the finest scale, and alpha. Alpha
    passes untouched; the network's three numbers are added to the logits of the prior's colour (to 0 without a prior),
    which is multiplied by alpha, so that colour never exceeds it.

    Args:
        network: (feature images, the finest first) -> (3, h, w).
    """

    def __init__(self, network: nn.Module, prior: bool):
        super().__init__()
        self.network, self.prior = network, prior

    def forward(self, images: tuple[Tensor, ...]) -> Float[Tensor, "4 h w"]:
        finest, alpha = images[0], images[0][-1:]
        features = finest[: -1 - PICTURE] if self.prior else finest[:-1]
        logits = self.network((features, *(image[:-1] for image in images[1:])))
        if self.prior:
            logits = logits + logits_of(finest[-1 - PICTURE : -1] / alpha.clamp(min=SEEN))
        return torch.cat([colours_of(logits).clamp(0, 1) * alpha, alpha]).clamp(0, 1)


class PointPicture(nn.Module):
    """Three numbers of each pixel's features, by a network of points."""

    def __init__(self, channels: int, hidden: int, zero: bool):
        super().__init__()
        self.points = Points(channels, hidden, PICTURE, zero)

    def forward(self, images: tuple[Tensor, ...]) -> Float[Tensor, "3 h w"]:
        return self.points(images[0])


class UNet2d(nn.Module):
    """A 2D U-Net's way up: from the coarsest scale's image, joined by that of each finer one.

    The finest image may have any size; the coarser ones are of an image padded to a multiple of the coarsest's pixel.

    Args:
        channels: of each scale's image, the finest first; each step up ends with as many as the image it joins.
        kernel: edge of the convolutions [px].
        count: convolutions of each step.
        zero: whether the last layer starts at 0.
    """

    def __init__(self, channels: tuple[int, ...], kernel: int, count: int, zero: bool, settings: RendererSettings):
        super().__init__()
        self.grows, self.joins, source = nn.ModuleList(), nn.ModuleList(), channels[-1]
        for skip in reversed(channels[:-1]):
            self.grows.append(nn.Sequential(UP[2](source, skip, 2, 2), norm(skip, settings, 2), nn.ELU()))
            self.joins.append(_convs(2 * skip, skip, kernel, count, settings))
            source = skip
        self.last = nn.Conv2d(source, PICTURE, 1)
        if zero:
            silence(self.last)

    def forward(self, images: tuple[Tensor, ...]) -> Float[Tensor, "3 h w"]:
        height, width = images[0].shape[1:]
        whole = [2 ** (len(images) - 1) * n for n in images[-1].shape[1:]]
        finest = F.pad(images[0], [0, whole[1] - width, 0, whole[0] - height])
        x, *skips = reversed([finest, *images[1:]])
        x = x[None]
        for grow, join, skip in zip(self.grows, self.joins, skips, strict=True):
            x = join(torch.cat([grow(x), skip[None]], 1))
        return self.last(x)[0, :, :height, :width]


def _convs(channels: int, out: int, kernel: int, count: int, settings: RendererSettings) -> nn.Sequential:
    layers, bias = [], settings.norm == "none"
    for n in range(count):
        source = channels if n == 0 else out
        layers += [CONV[2](source, out, kernel, padding=kernel // 2, bias=bias), norm(out, settings, 2), nn.ELU()]
    return nn.Sequential(*layers)
