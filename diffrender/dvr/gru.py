"""Learned accumulation: a GRU that walks along each ray and says how much each sample counts.

What it has met on the way decides by which factor the extinction of the next sample is multiplied; then samples are
composited as ever (eq. 5, 6). So colours stay mixtures of those met, alpha between 0 and 1, and a network that says 0
is alpha compositing. The paper names recurrent accumulation as its outlook and leaves it open.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.camera import Camera
from diffrender.dvr.layers import again, silence
from diffrender.rays.field import Field, MarchSettings
from diffrender.rays.march import samples_along

HIDDEN = 16
AT_ONCE = 1_000_000  # samples whose inner results are held at a time, about; each has some 100 numbers
STRONGEST = 4.0  # extinction is multiplied by exp(-4) to exp(4)


class Gru(nn.Module):
    """The accumulate slot "gru".

    Args:
        channels: colours of a sample.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.cell = nn.GRU(channels + 1, HIDDEN)
        self.last = nn.Linear(HIDDEN, 1)
        silence(self.last)

    def forward(
        self, fields: tuple[Field, ...], camera: Camera, settings: MarchSettings, jitter: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Rays in bands of rows; on the way back each is walked once more, so that memory goes with the pixels."""
        return tuple(self._image(field, camera, settings, jitter) for field in fields)

    def _image(
        self, field: Field, camera: Camera, settings: MarchSettings, jitter: torch.Generator | None
    ) -> Float[Tensor, "channel h w"]:
        bands = []
        for band in _bands(field, camera, settings):
            # each walk of a band, the second one as well, draws the same starts
            seed = None if jitter is None else int(torch.randint(2**62, (1,), generator=jitter, device=jitter.device))
            bands.append(again(True, self._walk_of(field, band, settings, seed), field.values))
        return torch.cat(bands, 1)

    def _walk_of(self, field: Field, camera: Camera, settings: MarchSettings, seed: int | None):
        step = field.voxel_size / settings.sampling_rate

        def walk(values: Tensor) -> Tensor:
            jitter = None if seed is None else torch.Generator().manual_seed(seed)
            pixels, images = [], []
            for at, channels, inside in samples_along(replace(field, values=values), camera, settings, jitter):
                pixels.append(at)
                images.append(self._composited(channels, inside, step, settings.weighted))
            image = torch.cat(images, 1)[:, torch.cat(pixels).argsort()]
            return image.reshape(len(image), *camera.image_size)

        return walk

    def _composited(self, channels: Tensor, inside: Tensor, step: float, weighted: bool) -> Float[Tensor, "channel r"]:
        """Of (channel, sample, ray) the image's (channel, ray), alpha last."""
        if not len(inside):
            return channels.sum(1) * 0
        depth = torch.where(inside, channels[-1], 0) * step
        seen = torch.cat([channels[:-1], -torch.expm1(-depth)[None]]).permute(1, 2, 0)
        # bounded softly, so that its gradient never ends
        says = STRONGEST * torch.tanh(self.last(self.cell(seen)[0])[..., 0] / STRONGEST)
        depth = depth * says.exp()
        before = torch.exp(-(depth.cumsum(0) - depth))
        share = before * (-torch.expm1(-depth) if weighted else step * inside)
        alpha = -torch.expm1(-depth.sum(0))
        return torch.cat([(channels[:-1] * share).sum(1), alpha[None]])


def _bands(field: Field, camera: Camera, settings: MarchSettings) -> list[Camera]:
    """The camera's image cut into bands of rows."""
    (height, width), (row, column) = camera.image_size, camera.principal_point
    diagonal = float(sum(n * n for n in field.shape)) ** 0.5 * settings.sampling_rate
    rows = max(1, min(height, int(AT_ONCE / (diagonal * width))))
    tops = range(0, height, rows)
    return [
        replace(camera, image_size=(min(rows, height - top), width), principal_point=(row - top, column))
        for top in tops
    ]
