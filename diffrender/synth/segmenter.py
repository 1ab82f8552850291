"""A network that outlines labels on radiographs: its settings, its file, and what it says of a radiograph."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffrender import __version__
from diffrender.errors import PathError, SettingError
from diffrender.io.tensor_files import fill, opened, packed
from diffrender.io.whole import write_whole
from diffrender.synth.augment import swapped
from diffrender.synth.films import Film
from diffrender.synth.morphology import components

FORMAT = 1
KEY = "diffrender-xray-segmenter"  # of the file's metadata
STEADY = 1e-4  # added to a deviation
ADAPTED = 0.3  # of the films' own statistics; all of them is less steady
SMALLEST_PART = 0.05  # of a label's largest part: what is smaller is a speck
NETWORKS: dict[str, tuple[tuple[int, ...], int]] = {
    "small": ((16, 32, 64, 128, 128), 1),  # 0.6 million weights, 18 ms forward and back at 128 px on one core
    "large": ((32, 64, 128, 256, 512), 2),  # 6.5 million, for a GPU
    "tiny": ((8, 8, 16, 16), 0),  # for tests
}


@dataclass(frozen=True)
class SegmenterSettings:
    """What a segmenter is.

    Attributes:
        names: of its labels.
        network: one of `NETWORKS`: channels at each depth of MONAI's U-Net, and units in each residual block.
        image_size: (h, w) [px] that it looks at; images are brought to it.
        single: whether a label is one part, as an outlined lung is; of others all but specks is kept.
    Raises: SettingError.
    """

    names: tuple[str, ...]
    network: str = "small"
    image_size: tuple[int, int] = (128, 128)
    single: bool = True

    def __post_init__(self):
        if self.network not in NETWORKS:
            raise SettingError(f"network is one of {', '.join(NETWORKS)}, not {self.network!r}.")
        step = 2 ** (len(NETWORKS[self.network][0]) - 1)
        if not self.names or any(n < 2 * step or n % step for n in self.image_size):
            raise SettingError(
                f"A segmenter has labels, and an image_size of multiples of {step} px from {2 * step} on; not "
                f"{self.names} and {self.image_size}."
            )


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A trained network.

    Attributes:
        settings: what it is.
        network: from (n, 1, h, w), as `standardised`, to a logit for each label.
        info: what it learned from and how well, as JSON data.
    """

    settings: SegmenterSettings
    network: nn.Module
    info: Mapping[str, Any] = field(default_factory=dict)

    def probabilities(self, film: Film) -> Float[np.ndarray, "label h w"]:
        """How sure each label is at each pixel of the film, in the film's own size.

        The mean of what is said of the film and of its mirror image, left and right swapped: half a point of Dice.
        """
        image = network_input(film, self.settings.image_size)
        with torch.no_grad():
            plain, mirrored = torch.sigmoid(self.network.eval()(torch.stack([image, image.flip(-1)])))
            both = (plain + mirrored[swapped(self.settings.names)].flip(-1)) / 2
            whole = F.interpolate(both[None], film.values.shape, mode="bilinear", align_corners=False)
        return whole[0].numpy()

    def segment(self, film: Film) -> Bool[np.ndarray, "label h w"]:
        """The masks of all labels, filled, without specks, in the film's own size."""
        least = 1.0 if self.settings.single else SMALLEST_PART
        return np.stack([_large_parts(layer > 0.5, least) for layer in self.probabilities(film)])


def adapted(segmenter: Segmenter, films: Sequence[Film], share: float = ADAPTED) -> Segmenter:
    """The segmenter with its normalisation moved towards what unlabelled films show; its weights stay.

    Args:
        films: of the kind that it will meet, ten or more.
        share: of the films in the new means and variances, the rest as trained.
    Raises: SettingError for a share outside 0 to 1, or no film.
    Source: AdaBN (Li et al. 2016), arXiv:1603.04779, in part.
    """
    if not films or not 0 <= share <= 1:
        raise SettingError(f"Adapting takes films and a share from 0 to 1; there are {len(films)}, and {share}.")
    images = torch.stack([network_input(film, segmenter.settings.image_size) for film in films])
    network = copy.deepcopy(segmenter.network)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = share
    with torch.no_grad():
        network.train()(torch.cat([images, images.flip(-1)]))
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
    return Segmenter(segmenter.settings, network.eval(), {**segmenter.info, "adapted to": f"{len(films)} films"})


def network_of(settings: SegmenterSettings) -> nn.Module:
    """MONAI's 2D U-Net with residual blocks (Kerfoot et al. 2019), weights as torch draws them."""
    from monai.networks.nets.unet import UNet

    channels, units = NETWORKS[settings.network]
    strides = [2] * (len(channels) - 1)
    return UNet(2, 1, len(settings.names), channels, strides, num_res_units=units, norm="BATCH")


def network_input(film: Film, image_size: tuple[int, int]) -> Float[Tensor, "1 h w"]:
    """A film as the network takes it; pixels are averaged where it is made smaller."""
    whole = torch.from_numpy(np.ascontiguousarray(film.values, dtype=np.float32))[None, None]
    smaller = film.values.shape[0] > image_size[0] or film.values.shape[1] > image_size[1]
    sized = F.interpolate(whole, image_size, mode="bilinear", align_corners=False, antialias=smaller)
    return standardised(sized)[0]


def standardised(images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Mean 0 and deviation 1, image by image."""
    away = images - images.mean((-2, -1), keepdim=True)
    return away / (away.std((-2, -1), keepdim=True) + STEADY)


def save_segmenter(path: str | Path, segmenter: Segmenter) -> Path:
    """Write NAME.safetensors, whole or not at all. Raises: SettingError for another ending, OutputError."""
    record = {
        "format": FORMAT,
        "version": __version__,
        "settings": asdict(segmenter.settings),
        "info": dict(segmenter.info),
    }
    return write_whole(path, packed(path, segmenter.network.state_dict(), KEY, record))


def load_segmenter(path: str | Path) -> Segmenter:
    """What `save_segmenter` wrote. Runs no code from the file.

    Raises: PathError for a file that is missing, damaged, a pickle, of another format or of something else.
    """
    record, tensors = opened(path, KEY, FORMAT, "segmenter of radiographs (`diffrender synth segment`)")
    try:
        said = record["settings"]
        settings = SegmenterSettings(
            tuple(said["names"]), str(said["network"]), tuple(said["image_size"]), bool(said["single"])
        )
    except (SettingError, KeyError, TypeError) as problem:
        raise PathError(f"{path} does not describe a segmenter that can be made: {problem}") from None
    network = network_of(settings)
    fill(network, tensors, str(path))
    return Segmenter(settings, network.eval(), dict(record.get("info") or {}))


def _large_parts(mask: Bool[np.ndarray, "h w"], least: float) -> Bool[np.ndarray, "h w"]:
    """The parts at least so large as that share of the largest, their holes filled."""
    from scipy import ndimage

    groups, sizes = components(mask)
    if not len(sizes):
        return mask
    large = np.flatnonzero(sizes >= least * sizes.max()) + 1
    return np.asarray(ndimage.binary_fill_holes(np.isin(groups, large)))
