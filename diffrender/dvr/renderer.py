"""A renderer: encoder -> colour, opacity -> accumulate -> decoder, five slots and one call (Weiss & Navab, fig. 4)."""

import importlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diffrender.camera import Camera
from diffrender.dvr.transfer import TransferFunction, transfer_preset
from diffrender.errors import SettingError
from diffrender.rays.field import Field, MarchSettings, Table, check_finite
from diffrender.rays.march import march
from diffrender.volume import Volume

SLOTS = ("encoder", "colour", "opacity", "accumulate", "decoder")
NORMS = ("group", "batch", "none")
STARTS = ("transfer", "scratch")
ACCUMULATORS = ("alpha", "mip", "mean", "mida", "gru")


@dataclass(frozen=True)
class RendererSettings:
    """What a renderer is made with; a model file keeps them.

    Attributes:
        transfer: what colours and opacities start from; None: the preset ct-bone.
        start: "transfer", so that an untrained renderer draws what `transfer` draws, or "scratch", as in the paper.
        width: share of the paper's channels in every layer; 1 is the paper's size.
        norm: "group", "batch" as in the paper, or "none".
        dropout: probability, 0.5 in the paper's VNets; 0 by default, since dropped features make frames flicker.
        low, high: HU of a table's first and last entry.
        bins: entries of a table of HU; `bins2`: of gradient magnitude, in `lookup2d`.
        clusters: of `clusters`.
        strength: of what `hybrid` has learned beyond its table, from 0 to 1; can be changed afterwards.
        accumulate: how samples become a pixel: "alpha", "mip", "mean", "mida", or "gru" (learned; the paper's outlook).
        sampling_rate: s of eq. 4 when drawing.
        seed: of the weights.
    Raises: SettingError.
    """

    transfer: TransferFunction | None = None
    start: str = "transfer"
    width: float = 1.0
    norm: str = "group"
    dropout: float = 0.0
    low: float = -1024.0
    high: float = 3071.0
    bins: int = 256
    bins2: int = 32
    clusters: int = 250
    strength: float = 1.0
    accumulate: str = "alpha"
    sampling_rate: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name, value, offered in (
            ("start", self.start, STARTS),
            ("norm", self.norm, NORMS),
            ("accumulate", self.accumulate, ACCUMULATORS),
        ):
            if value not in offered:
                raise SettingError(f"{name} is one of {', '.join(offered)}, not {value!r}.")
        for name, value, low, high in (
            ("width", self.width, 1 / 64, 8.0),
            ("dropout", self.dropout, 0.0, 0.95),
            ("strength", self.strength, 0.0, 1.0),
            ("sampling_rate", self.sampling_rate, 0.01, 64.0),
            ("bins", self.bins, 2, 65536),
            ("bins2", self.bins2, 2, 4096),
            ("clusters", self.clusters, 2, 4096),
        ):
            if not low <= value <= high:
                raise SettingError(f"{name} lies between {low:g} and {high:g}; {value} does not.")
        if not self.low < self.high:
            raise SettingError(f"low lies below high [HU]; these are {self.low} and {self.high}.")

    @property
    def drawn_by(self) -> TransferFunction:
        """What colours and opacities start from."""
        return transfer_preset("ct-bone") if self.transfer is None else self.transfer


@dataclass(frozen=True, eq=False)
class Grid:
    """Features of one scale: (channel, k, j, i) on a lattice of their own."""

    values: Shaped[Tensor, "channel k j i"]
    world_from_voxel: Float[Tensor, "4 4"]


@dataclass(frozen=True, eq=False)
class Changed:
    """What a slot says of a scale: a table, looked up at every sample, and what each voxel changes of it.

    The table keeps surfaces as sharp as the transfer function draws them, however coarse the voxels.

    Attributes:
        table: of HU; of n columns from the colour slot, of one from the opacity slot.
        change: (n, k, j, i), interpolated to every sample: added to colours, a factor of extinction (at least 0).
    """

    table: Table
    change: Float[Tensor, "n k j i"]


class Renderer(nn.Module):
    """Draws a volume; a call is pure. Every renderer of the table is one of these with other slots.

    The slots are modules:
        encoder(volume) -> tuple of `Grid`, one a scale, the finest first
        colour(grids) -> for each scale colours (n, k, j, i), a `Table` of n columns, or such a table `Changed`
        opacity(grids) -> for each scale extinction (1, k, j, i) [1/mm], a `Table` of one column, or that `Changed`
            (what is classified are the first of the grid's channels, as many as the table has axes)
        accumulate(fields, camera, settings, jitter) -> for each scale an image (n + 1, h, w), alpha last
        decoder(images) -> (4, h, w) premultiplied RGBA

    Attributes:
        name: as in the table of renderers.
        settings: what it was made with.
    """

    def __init__(
        self,
        name: str,
        settings: RendererSettings,
        *,
        encoder: nn.Module,
        colour: nn.Module,
        opacity: nn.Module,
        accumulate: nn.Module,
        decoder: nn.Module,
    ):
        super().__init__()
        self.name, self.settings = name, settings
        self.encoder, self.colour, self.opacity = encoder, colour, opacity
        self.accumulate, self.decoder = accumulate, decoder

    def encode(self, volume: Volume) -> tuple[Field, ...]:
        """The part that does not depend on the camera: once per volume; drawing keeps it.

        Raises: ImageError, naming the volume's source, where it holds NaN or infinity.
        """
        check_finite(volume.values, volume.source or "The volume")
        grids = self.encoder(volume)
        return tuple(
            field_of(grid, colour, opacity)
            for grid, colour, opacity in zip(grids, self.colour(grids), self.opacity(grids), strict=True)
        )

    def show(
        self,
        fields: tuple[Field, ...],
        camera: Camera,
        settings: MarchSettings | None = None,
        jitter: torch.Generator | None = None,
    ) -> Float[Tensor, "4 h w"]:
        """The part that depends on the camera: march and decoder, of what `encode` gave."""
        settings = MarchSettings(sampling_rate=self.settings.sampling_rate) if settings is None else settings
        return self.decoder(self.accumulate(fields, camera, settings, jitter))

    def forward(self, volume: Volume, camera: Camera) -> Float[Tensor, "4 h w"]:
        """Draw: premultiplied RGBA, sRGB display values 0..1, no background."""
        return self.show(self.encode(volume), camera)

    def slot(self, name: str) -> nn.Module:
        """One of `SLOTS`. Raises: SettingError."""
        if name not in SLOTS:
            raise SettingError(f"A slot is one of {', '.join(SLOTS)}, not {name!r}.")
        return getattr(self, name)


class Marched(nn.Module):
    """The accumulate slot without parameters: the march, scale by scale."""

    def __init__(self, accumulate: str = "alpha"):
        super().__init__()
        self.kind = accumulate

    def forward(
        self, fields: tuple[Field, ...], camera: Camera, settings: MarchSettings, jitter: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        one = MarchSettings(settings.sampling_rate, self.kind, settings.weighted, settings.start, settings.backend)
        return tuple(march(field, camera, one, jitter=jitter) for field in fields)


def accumulator(settings: RendererSettings, channels: int) -> nn.Module:
    """The accumulate slot that the settings name, for so many colour channels."""
    if settings.accumulate == "gru":
        return importlib.import_module("diffrender.dvr.gru").Gru(channels)  # learned; the others have no parameters
    return Marched(settings.accumulate)


class Plain(nn.Module):
    """The decoder slot of a renderer whose accumulated colours are the picture."""

    def forward(self, images: tuple[Tensor, ...]) -> Float[Tensor, "4 h w"]:
        """The finest scale's image, kept within what a display shows."""
        return images[0].clamp(0, 1)


def field_of(grid: Grid, colour: Tensor | Table | Changed, opacity: Tensor | Table | Changed) -> Field:
    """A field of what the two slots say of a grid: both tables, both changed tables, or both on the lattice."""
    if isinstance(colour, Changed) and isinstance(opacity, Changed):
        plain = field_of(grid, colour.table, opacity.table)
        # side by side in memory, where the march's kernels want them
        change = torch.cat([colour.change.movedim(0, -1), opacity.change.movedim(0, -1)], -1).movedim(-1, 0)
        return replace(plain, change=change)
    if isinstance(colour, Table) and isinstance(opacity, Table):
        entries = torch.cat([colour.entries, opacity.entries], -1)
        values = grid.values[0] if entries.ndim == 2 else grid.values
        return Field(values, grid.world_from_voxel, Table(entries, colour.ranges))
    if isinstance(colour, Tensor) and isinstance(opacity, Tensor):
        return Field(torch.cat([colour, opacity]), grid.world_from_voxel)
    raise SettingError(
        "The colour and the opacity slot of a renderer give both a table, both a changed one, or both a value a voxel."
    )


def device_of(module: nn.Module) -> Any:
    """Where a renderer's numbers lie."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
