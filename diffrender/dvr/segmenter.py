"""What was learned from paint about tissue: from the local features of a visible voxel to its label, for any CT."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from diffrender import __version__
from diffrender.dvr.classify import voxels_of
from diffrender.dvr.features import NAMES, local_features
from diffrender.dvr.model import FORMAT, settings_from, settings_record
from diffrender.dvr.renderer import Renderer
from diffrender.dvr.renderers import renderer as renderer_of
from diffrender.errors import InputError, PathError, SettingError
from diffrender.io.tensor_files import fill, opened, packed
from diffrender.io.whole import write_whole
from diffrender.volume import Volume

VISIBLE = 0.002  # extinction [1/mm]: 5 cm of it cover a tenth, the least that a person sees
LOW, HIGH = -1024.0, 3071.0  # HU beyond which none is told from another
HIDDEN = 64
WAVES = (1.5, 3.0)  # of the place: what is on the left differs from what is on the right though it looks alike
PLACES = 3  # how many of the last features are a place
FEATURES = len(NAMES) + 2 * len(WAVES) * PLACES
AT_ONCE = 1 << 18  # voxels
HEADER = 4096  # bytes, in which the metadata of a file begin
KEY = "diffrender-segmenter"  # of the file's metadata


@dataclass(frozen=True, eq=False)
class Segmenter:
    """Labels the voxels of a CT that a renderer shows.

    Attributes:
        renderer: says what is visible.
        network: from `FEATURES` numbers to a score for each class; class 0 is none of `names`.
        middle, spread: of the local features of the voxels that it learned from, by which others are standardised.
        names: {label: name}, in the order of the classes.
    """

    renderer: Renderer
    network: nn.Module
    middle: Float[Tensor, "n"]
    spread: Float[Tensor, "n"]
    names: Mapping[int, str]

    def label(self, volume: Volume) -> Volume:
        """`volume` with `labels` (uint8) and `names`: of the CT that was learned from, or of another one.

        HU are taken as they are, places by where the visible voxels of this volume lie: one that shows another part of
        the body, or with another contrast, is another question than the one that was learned.
        Raises: SettingError where nothing is visible, or for a renderer without an opacity for each voxel.
        """
        return self.labelled(volume, visible_in(self.renderer, volume)[1])

    def labelled(self, volume: Volume, visible: Bool[Tensor, "k j i"]) -> Volume:
        """The same where it is known what is visible."""
        features = standardised(plain_features(volume, visible), self.middle, self.spread)
        ids = torch.tensor([0, *self.names], dtype=torch.uint8)
        with torch.no_grad():
            best = torch.cat([self.network(part).argmax(1) for part in features.split(AT_ONCE)])
        labels: UInt8[Tensor, "k j i"] = torch.zeros(volume.shape, dtype=torch.uint8)
        labels[visible] = ids[best]
        return replace(volume, labels=labels, names=dict(self.names))


def visible_in(renderer: Renderer, volume: Volume) -> tuple[Float[Tensor, "k j i"], Bool[Tensor, "k j i"]]:
    """The extinction [1/mm] of each voxel, and whether it is seen. Raises: SettingError."""
    with torch.no_grad():
        kappa = voxels_of(renderer.encode(volume)[0])[-1].float().cpu()
    if tuple(kappa.shape) != volume.shape:
        raise SettingError(
            f"{renderer.name} has no opacity for each voxel of the volume ({list(kappa.shape)} for "
            f"{list(volume.shape)}), so what is visible cannot be labelled. Segment with lookup or unet-s."
        )
    visible = kappa > VISIBLE
    if not bool(visible.any()):
        raise SettingError(
            f"{renderer.name} shows nothing of {volume.source or 'this volume'}, so there is nothing to label. Check "
            "with `diffrender info` that its values are HU, and that it is of the part of the body that was learned."
        )
    return kappa, visible


def plain_features(volume: Volume, visible: Bool[Tensor, "k j i"]) -> Float[Tensor, "voxel n"]:
    """The local features of the visible voxels, not yet standardised."""
    return local_features(volume, visible, LOW, HIGH)


def standardised(
    plain: Float[Tensor, "voxel n"], middle: Float[Tensor, "n"], spread: Float[Tensor, "n"]
) -> Float[Tensor, "voxel m"]:
    """What the network takes: features about 0, and waves of the place."""
    features = (plain - middle) / spread
    place = features[:, -PLACES:]
    waves = [wave(scale * place) for scale in WAVES for wave in (torch.sin, torch.cos)]
    return torch.cat([features, *waves], 1)


def network_of(classes: int) -> nn.Module:
    """From features to a score for each class."""
    sizes = [FEATURES, HIDDEN, HIDDEN]
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, classes))


def save_segmenter(path: str | Path, segmenter: Segmenter) -> Path:
    """Write NAME.safetensors, whole or not at all; it holds the renderer too. Raises: SettingError, OutputError."""
    record = {
        "format": FORMAT,
        "version": __version__,
        "names": {str(number): name for number, name in segmenter.names.items()},
        "renderer": segmenter.renderer.name,
        "settings": settings_record(segmenter.renderer.settings),
    }
    return write_whole(path, packed(path, _parts(segmenter).state_dict(), KEY, record))


def holds_segmenter(path: str | Path) -> bool:
    """Whether `save_segmenter` wrote a file; not whether it is whole."""
    with open(Path(path).expanduser(), "rb") as file:
        return KEY.encode() in file.read(HEADER)


def load_segmenter(path: str | Path) -> Segmenter:
    """What `save_segmenter` wrote. Runs no code from the file.

    Raises: PathError for a file that is missing, damaged, of another format, or none of these.
    """
    record, tensors = opened(path, KEY, FORMAT, "segmenter of CTs (`diffrender dvr segment --save`)")
    try:
        names = {int(number): str(name) for number, name in record["names"].items()}
        renderer = renderer_of(str(record["renderer"]), settings_from(record["settings"]))
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as problem:
        raise PathError(
            f"{path} does not describe what this DiffRender ({__version__}) can segment with: {problem}"
        ) from None
    made = Segmenter(
        renderer.eval(), network_of(len(names) + 1), torch.zeros(len(NAMES)), torch.ones(len(NAMES)), names
    )
    fill(_parts(made), tensors, str(path))
    return made


def _parts(segmenter: Segmenter) -> nn.Module:
    """All that has numbers in it, as one module."""
    parts: Any = nn.Module()
    parts.renderer, parts.network = segmenter.renderer, segmenter.network
    parts.register_buffer("middle", segmenter.middle)
    parts.register_buffer("spread", segmenter.spread)
    return parts
