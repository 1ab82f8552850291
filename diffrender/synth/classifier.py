"""A network that says which labels a radiograph shows: its settings, its file, and what it says of a radiograph."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from diffrender import __version__
from diffrender.errors import PathError, SettingError
from diffrender.io.tensor_files import fill, opened, packed
from diffrender.io.whole import write_whole
from diffrender.synth.films import Film
from diffrender.synth.segmenter import network_input

FORMAT = 1
KEY = "diffrender-xray-classifier"  # of the file's metadata
# channels of the first layer, channels that each layer adds, layers of each block
DENSENETS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "densenet121": (64, 32, (6, 12, 24, 16)),  # 7 million weights, for a GPU
    "small": (24, 12, (6, 12, 24, 16)),  # as deep, and a third as wide: for two cores
    "tiny": (8, 4, (2, 2)),  # for tests
}
SMALLEST = 32  # px


@dataclass(frozen=True)
class ClassifierSettings:
    """What a classifier is.

    Attributes:
        names: of its labels, each of which a radiograph may show or not.
        network: one of `DENSENETS`.
        image_size: (h, w) [px] that it looks at.
    Raises: SettingError.
    """

    names: tuple[str, ...]
    network: str = "small"
    image_size: tuple[int, int] = (128, 128)

    def __post_init__(self):
        if self.network not in DENSENETS:
            raise SettingError(f"network is one of {', '.join(DENSENETS)}, not {self.network!r}.")
        if not self.names or min(self.image_size) < SMALLEST:
            raise SettingError(
                f"A classifier has labels, and image_size from {SMALLEST} px on; not {self.names}, {self.image_size}."
            )


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network.

    Attributes:
        settings: what it is.
        network: from (n, 1, h, w), standardised, to a logit for each label.
        info: what it learned from and how well, as JSON data.
    """

    settings: ClassifierSettings
    network: nn.Module
    info: Mapping[str, Any] = field(default_factory=dict)

    def probabilities(self, film: Film) -> Float[np.ndarray, "label"]:
        """How sure it is that the film shows each label."""
        with torch.no_grad():
            logits = self.network.eval()(network_input(film, self.settings.image_size)[None])
        return torch.sigmoid(logits)[0].numpy()


def network_of(settings: ClassifierSettings) -> nn.Module:
    """MONAI's DenseNet121, or one of its kind with fewer channels, weights as torch draws them.

    Source: Huang et al., Densely connected convolutional networks (2017), arXiv:1608.06993.
    """
    from monai.networks.nets.densenet import DenseNet

    first, grows, blocks = DENSENETS[settings.network]
    return DenseNet(2, 1, len(settings.names), init_features=first, growth_rate=grows, block_config=blocks)


def save_classifier(path: str | Path, classifier: Classifier) -> Path:
    """Write NAME.safetensors, whole or not at all. Raises: SettingError for another ending, OutputError."""
    record = {
        "format": FORMAT,
        "version": __version__,
        "settings": asdict(classifier.settings),
        "info": dict(classifier.info),
    }
    return write_whole(path, packed(path, classifier.network.state_dict(), KEY, record))


def load_classifier(path: str | Path) -> Classifier:
    """What `save_classifier` wrote. Runs no code from the file.

    Raises: PathError for a file that is missing, damaged, a pickle, of another format or of something else.
    """
    record, tensors = opened(path, KEY, FORMAT, "classifier of radiographs (`diffrender synth classify`)")
    try:
        said = record["settings"]
        settings = ClassifierSettings(tuple(said["names"]), str(said["network"]), tuple(said["image_size"]))
    except (SettingError, KeyError, TypeError) as problem:
        raise PathError(f"{path} does not describe a classifier that can be made: {problem}") from None
    network = network_of(settings)
    fill(network, tensors, str(path))
    return Classifier(settings, network.eval(), dict(record.get("info") or {}))
