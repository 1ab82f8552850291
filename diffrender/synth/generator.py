"""The generator of learned radiographs: a mapper makes fields of a CT, and our march looks at them.

Source: Pham & Tran, Neural Radiance Projection (2022): G = viewer o mapper; the viewer accumulates emission and
absorption along 256 x 256 rays of 512 points.
"""

import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffrender import __version__
from diffrender.camera import Camera
from diffrender.errors import InputError, PathError, SettingError
from diffrender.io.tensor_files import fill, opened, packed
from diffrender.io.whole import write_whole
from diffrender.provenance import plain
from diffrender.rays.field import Field, MarchSettings
from diffrender.rays.march import march
from diffrender.synth.fields import FieldMapper, GeneratorSettings, Given, fixed_fields, given
from diffrender.synth.reach import reached, volume_hash
from diffrender.synth.views import ViewSpread, drawn_camera
from diffrender.volume import Volume

FORMAT = 1
KEY = "diffrender-vrr"  # of the header's metadata
MIDDLE, SPREAD = 0.5, 0.2  # of a shown picture's greys: mean and standard deviation
FLAT = 1e-6  # standard deviation below which a picture shows nothing


class VRRGenerator(nn.Module):
    """Learned radiographs of CTs; untrained it shows the DRR.

    `generator(volume, camera)` is one picture, (1, h, w), 0 to 1 with bone bright; of several cameras (n, 1, h, w).
    """

    def __init__(self, settings: GeneratorSettings | None = None):
        super().__init__()
        self.settings = GeneratorSettings() if settings is None else settings
        self.mapper = FieldMapper(self.settings)
        self._last: tuple[weakref.ref[Volume], Given] | None = None

    def forward(self, volume: Volume, camera: Camera | Sequence[Camera]) -> Float[Tensor, "*n 1 h w"]:
        """What the cameras see, as it is shown; differentiable in the mapper's weights.

        Raises: UnitError where the values are not HU, GeometryError.
        """
        return viewed(self.fields(volume), volume, camera, self.settings)

    def fields(self, volume: Volume) -> Field:
        """Matter [water] and opacity [1/mm] of a CT: march through them as often as wanted."""
        return self.mapper(self.given(volume))

    def with_detail(self, detail: int, points: int) -> "VRRGenerator":
        """The same weights on finer fields and with finer steps, for larger pictures than it was trained on.

        What lung, soft tissue and bone become is learned on the mapper's lattice; where they are, the CT says.
        Raises: SettingError where the settings are without tissues, whose fields are as fine as they were trained.
        """
        if not self.settings.tissues:
            raise SettingError(
                "This generator has learned one number a voxel, so its fields cannot be finer than in its training; "
                "only a generator with tissues can."
            )
        made = VRRGenerator(dataclasses.replace(self.settings, detail=detail, points=points))
        made.load_state_dict(self.state_dict())
        return made.to(next(self.parameters()).device).train(self.training)

    def given(self, volume: Volume) -> Given:
        """The CT made ready, on the mapper's device; that of the last CT is kept."""
        device = next(self.mapper.parameters()).device
        if self._last is None or self._last[0]() is not volume or self._last[1].matter.device != device:
            self._last = (weakref.ref(volume), given(volume, self.settings).to(device))
        return self._last[1]


def drr_baseline(
    volume: Volume, camera: Camera | Sequence[Camera], settings: GeneratorSettings | None = None
) -> Float[Tensor, "*n 1 h w"]:
    """The paper's DRR: the same march and the same presentation, matter fixed from the HU, opacity constant.

    Raises: UnitError where the values are not HU, GeometryError.
    """
    settings = GeneratorSettings() if settings is None else settings
    return viewed(fixed_fields(given(volume, settings), settings), volume, camera, settings)


def viewed(
    field: Field, volume: Volume, camera: Camera | Sequence[Camera], settings: GeneratorSettings
) -> Float[Tensor, "*n 1 h w"]:
    """March through a field and show the result.

    Args:
        volume: whose field it is.
    """
    cameras = [camera] if isinstance(camera, Camera) else list(camera)
    step = float((volume.corners[0] - volume.corners[-1]).norm()) / settings.points
    seen = march(field, cameras, MarchSettings(sampling_rate=field.voxel_size / step))[:, 0]
    reach = torch.stack([reached(volume, one) for one in cameras]).to(seen.device)
    pictures = torch.stack([shown(one, mask) for one, mask in zip(seen, reach, strict=True)])[:, None]
    return pictures[0] if isinstance(camera, Camera) else pictures


def shown(seen: Float[Tensor, "h w"], reach: Bool[Tensor, "h w"] | None = None) -> Float[Tensor, "h w"]:
    """Greys from 0 to 1 whose mean and standard deviation are always the same, as every radiograph has its own window.

    Args:
        reach: where there is something to show; the rest is black and counts for nothing.
    """
    reach = torch.ones_like(seen, dtype=torch.bool) if reach is None else reach
    count = reach.sum().clamp(min=1)
    mean = torch.where(reach, seen, 0.0).sum() / count
    variance = torch.where(reach, (seen - mean) ** 2, 0.0).sum() / count
    greys = MIDDLE + SPREAD * (seen - mean) * torch.rsqrt(variance + FLAT**2)
    return torch.where(reach, greys.clamp(0.0, 1.0), 0.0)


def generated_views(
    generator: VRRGenerator,
    volume: Volume,
    count: int,
    spread: ViewSpread | str = "chest-pa",
    image_size: tuple[int, int] = (128, 128),
    seed: int = 0,
) -> Iterator[tuple[Float[Tensor, "1 h w"], Camera]]:
    """Pictures of a CT from drawn cameras, each with its camera; without gradient.

    Args:
        spread: where the cameras stand, or the name of a preset of spreads. Picture n of a seed is the same however
            many are asked for.
    """
    ct = volume_hash(volume)
    with torch.no_grad():
        field = generator.fields(volume)
        for number in range(count):
            camera = drawn_camera(volume, spread, ct_hash=ct, view=number, seed=seed, image_size=image_size)
            yield viewed(field, volume, camera, generator.settings).cpu(), camera


def save_generator(path: str | Path, generator: VRRGenerator, info: Mapping[str, Any] | None = None) -> Path:
    """Write NAME.safetensors, whole or not at all.

    Args:
        info: what should be known of it, as JSON data; `TrainedVRR.info` has the hashes of the CTs.
    Raises: SettingError for another ending, OutputError.
    """
    record = {
        "format": FORMAT,
        "settings": plain(generator.settings),
        "info": {"version": __version__, **(info or {})},
    }
    return write_whole(path, packed(path, generator.state_dict(), KEY, record))


def load_generator(path: str | Path) -> tuple[VRRGenerator, dict[str, Any]]:
    """The generator in a file, on the CPU and ready to use, and the info saved with it. Runs no code from the file.

    Raises: PathError for a file that is missing, damaged, a pickle, of another format, or of other tensors.
    """
    record, tensors = opened(path, KEY, FORMAT, "generator of radiographs (`diffrender synth train`)")
    try:
        settings = dict(record["settings"])
        made = VRRGenerator(GeneratorSettings(**{**settings, "channels": tuple(settings["channels"])}))
    except (InputError, KeyError, TypeError, ValueError) as problem:
        raise PathError(
            f"{path} does not describe a generator that this DiffRender ({__version__}) can make: {problem}"
        ) from None
    fill(made, tensors, str(path))
    return made.eval(), dict(record.get("info") or {})
