"""Baking: what a trained renderer learned, as something that Slicer's own volume rendering draws live.

A renderer that gives every voxel colour and extinction becomes an RGBA volume of 8 or 16 bits; one that is a transfer
function becomes that, and can be baked as well. Alpha is linear in the extinction kappa, which VTK interpolates between
voxels as the march does, and the opacity function makes 1 - exp(-kappa d) of it afterwards.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8, UInt16
from torch import Tensor

from diffrender.dvr.classify import classified_finely, finest, how_close
from diffrender.dvr.renderer import Marched, Plain, Renderer
from diffrender.dvr.renderers import RENDERERS
from diffrender.dvr.transfer import TransferFunction, transfer_of_table
from diffrender.errors import SettingError, notify
from diffrender.rays.field import Field, MarchSettings
from diffrender.rays.march import march
from diffrender.views import eye
from diffrender.volume import Volume

BITS = (8, 16)
POINTS = 255  # of the opacity function, besides 0
# Extinction is cut off where a voxel's edge is this opaque: what lies beyond cannot be seen, and the levels that it
# would take are wanted for what is thin. Which is best depends on the volume, so it is tried.
CEILINGS = (0.9999, 0.999, 0.99, 0.97, 0.93, 0.9, 0.85, 0.8)
TRIED_FROM = ((0.3, 1.0, 0.2), (1.0, -0.4, -0.3))  # RAS, directions to the eye
TRIED_SIZE = (96, 96)
# Steps of a lattice that fills a unit cube evenly, 1/g, 1/g^2, 1/g^3 with g^4 = g + 1 (Roberts, The Unreasonable
# Effectiveness of Quasirandom Sequences, 2018): thresholds by it differ most between neighbours, so that what they add
# evens out within a voxel or two, in which rounding by chance leaves grain (soft tissue: 4 dB less).
SPREAD = tuple(1.2207440846057596**-n for n in (1, 2, 3))
UNIT = (
    1.0  # mm. For dependent components VTK reads the unit distance of the alpha component, which nothing sets: it is 1
)
# Between its points VTK's opacity is linear, and the march's extinction: over so short a length the two agree.
TABLE_UNIT = 0.1  # mm
# VTK samples a transfer function as finely as its closest points lie, at least 1024 times, and reads it half a sample
# off; two points this close take its pictures from 44 to 60 dB of ours.
CLOSEST_HU, CLOSEST_POINT = 0.5, 0.02

_REASONS = {
    "vnetl16-17": "colours its picture after compositing 16 features, so no voxel has a colour",
    "dvrnet": "draws its picture with a 2D network, anew for every view",
    "rendernet": "turns the volume into each view and learns projection itself, so no voxel has an opacity",
    "vnet-unet": "draws its picture with a 2D network, anew for every view",
}


@dataclass(frozen=True, eq=False)
class Baked:
    """A volume of colours, to be drawn with dependent components.

    Attributes:
        rgba: (k, j, i, 4), levels from 0 to 255 or, in 16 bits, 65535: red, green and blue (sRGB display values, not
            premultiplied), and kappa / kappa_max.
        world_from_voxel: (4, 4), RAS [mm].
        kappa_max: extinction of the highest alpha [1/mm].
        name: of the renderer.
        finer: steps from one of the CT's voxel centres to the next.
    """

    rgba: UInt8[Tensor, "k j i 4"] | Int32[Tensor, "k j i 4"]
    world_from_voxel: Float[Tensor, "4 4"]
    kappa_max: float
    name: str = ""
    finer: int = 1

    @property
    def bits(self) -> int:
        """8 or 16, which lie in an int32: not every torch has an uint16."""
        return 8 if self.rgba.dtype == torch.uint8 else 16

    @property
    def pixels(self) -> UInt8[np.ndarray, "k j i 4"] | UInt16[np.ndarray, "k j i 4"]:
        """The levels as files and VTK take them."""
        return self.rgba.contiguous().numpy().astype(np.uint8 if self.bits == 8 else np.uint16, copy=False)

    @cached_property
    def opacities(self) -> tuple[tuple[float, float], ...]:
        """(alpha, opacity over `UNIT`), the opacity function."""
        return self.opacities_over(UNIT)

    def opacities_over(self, length: float) -> tuple[tuple[float, float], ...]:
        """(alpha, opacity over `length` [mm])."""
        points = np.insert(np.arange(POINTS + 1.0), 1, CLOSEST_POINT)
        opacity = -np.expm1(-self.kappa_max * points / POINTS * length)
        return tuple(zip((points * (_highest(self.bits) / POINTS)).tolist(), opacity.tolist(), strict=True))

    def field(self) -> Field:
        """The same for our own march."""
        values = self.rgba.permute(3, 0, 1, 2).float() / _highest(self.bits)
        values[3] *= self.kappa_max
        return Field(values, self.world_from_voxel)


def bake(renderer: Renderer, volume: Volume, bits: int = 8, finer: int | None = None) -> Baked:
    """Colour and extinction of every voxel, in 8 bits or in 16.

    8 bits is what every program takes that shows RGBA, VTK's CPU mapper among them. 16 bits are for VTK's GPU mapper:
    twice the memory, and closer to what the renderer draws where much is thin, or where OpenGL runs in software, which
    interpolates 8 bits in 8 bits.

    A transfer function that is learned can be baked too, changed by the voxels or not. It classifies what lies between
    voxels, a baked volume its own voxels alone, so it is baked `finer` times finer than the CT, with `finer` steps from
    voxel to voxel: by default as fine as 48 million voxels allow, at most 4. A Notice says how close that is.
    `transfer_of` gives away whole what nothing changes.

    Raises: SettingError for a renderer that has no colour and opacity a voxel, saying why and what to do; for `finer`
    below 1, and above 1 for a renderer that gives voxels their colours itself, which a finer volume would only repeat.
    """
    if bits not in BITS:
        raise SettingError(f"A volume is baked in {' or '.join(map(str, BITS))} bits, not {bits}.")
    if finer is not None and finer < 1:
        raise SettingError(f"A volume is baked 1, 2, 3, ... times finer than the CT, not {finer}.")
    check_bakes(renderer)
    with torch.no_grad():
        field = renderer.encode(volume)[0]
        times = _times(renderer, field, finer)
        shown = _shown(renderer, field, times)
    if float(shown.values[3].max()) == 0:
        notify(f"{volume.source or 'The volume'}: {renderer.name} shows nothing of it, so the baked volume is empty.")
    return replace(_closest(shown, renderer.name, bits), finer=times)


def _times(renderer: Renderer, field: Field, finer: int | None) -> int:
    """How many times finer than the CT is baked."""
    if finer is None:
        return finest(field)
    if field.table is None and finer > 1:
        raise SettingError(
            f"{renderer.name} gives every voxel its colour, and between voxels they are interpolated, by VTK too: a "
            "volume that is finer would show the same. Leave out how much finer (--finer)."
        )
    return finer


def _shown(renderer: Renderer, field: Field, finer: int) -> Field:
    """Colours within 0 and 1 and extinction, on the lattice that is baked."""
    if field.channels != 4:
        raise SettingError(f"{renderer.name} gives a voxel {field.channels} channels, not colour and extinction.")
    if field.table is not None:
        notify(how_close(renderer.name, finer, field.table.entries.ndim == 2 and field.change is None))
        return classified_finely(field, finer)
    values = field.values.float()
    return Field(torch.cat([values[:3].clamp(0, 1), values[3:].clamp(min=0)]), field.world_from_voxel)


def transfer_of(renderer: Renderer) -> TransferFunction:
    """The transfer function that a renderer has learned, for a volume property of VTK or Slicer.

    Raises: SettingError for one that is no transfer function of HU.
    """
    if RENDERERS[renderer.name].bakes != "table":
        raise SettingError(
            f"{renderer.name} is more than a transfer function of HU, so it has none to give. Bake it into a volume."
        )
    check_bakes(renderer)
    with torch.no_grad():
        (field,) = renderer.encode(Volume(torch.zeros(2, 2, 2), torch.eye(4, dtype=torch.float64)))
    assert field.table is not None
    ((low, high),) = field.table.ranges
    made = transfer_of_table(field.table.entries, low, high, TABLE_UNIT, renderer.settings.drawn_by.name)
    return finely(made)


def finely(transfer: TransferFunction) -> TransferFunction:
    """The same transfer function with two points so close that VTK samples it finely."""
    (at, opacity), (hu, *colour) = transfer.opacities[0], transfer.colours[0]
    return TransferFunction(
        ((hu - CLOSEST_HU, *colour), *transfer.colours),  # pyright: ignore[reportArgumentType]
        ((at - CLOSEST_HU, opacity), *transfer.opacities),
        transfer.unit_distance,
        transfer.name,
    )


def check_bakes(renderer: Renderer) -> None:
    """Raises: SettingError where a renderer cannot be baked, with the reason and what to do instead."""
    name, kind = renderer.name, renderer.settings.accumulate
    instead = "Draw with it as it is (pictures, turntables)"
    if name in RENDERERS and RENDERERS[name].bakes is None:
        reason = _REASONS.get(name, "makes its picture in image space")
        others = ", ".join(one for one, recipe in RENDERERS.items() if recipe.bakes == "voxels")
        raise SettingError(f"{name} cannot be baked: it {reason}. {instead}, or train one of {others}.")
    if kind != "alpha" or not isinstance(renderer.accumulate, Marched) or not isinstance(renderer.decoder, Plain):
        raise SettingError(
            f"{name} cannot be baked: it puts samples together by {kind!r}, and Slicer's volume rendering by alpha "
            f"compositing. {instead}, or train it with accumulate='alpha'."
        )


def _ceilings(kappa: Tensor, edge: float) -> list[float]:
    """The extinctions [1/mm] that the highest alpha may stand for, those of `CEILINGS` and what there is."""
    most = float(kappa.max()) or 1.0
    return sorted({min(most, float(-np.log1p(-opacity)) / edge) for opacity in CEILINGS})


def _levelled(field: Field, highest: float, name: str, bits: int) -> Baked:
    """Rounded to levels, of which the highest alpha stands for `highest` [1/mm]."""
    levels, kappa = _highest(bits), field.values[3]
    rgba = torch.empty((*field.shape, 4), dtype=torch.uint8 if bits == 8 else torch.int32, device=kappa.device)
    for channel, colour in enumerate(field.values[:3]):
        rgba[..., channel] = (colour * levels).round()
    level = kappa.clamp(max=highest) * (levels / highest)
    alpha = (level + _thresholds(level)).floor().clamp(max=levels)
    alpha.view(-1)[alpha.argmin()] = 0  # VTK spans the opacity function from the least alpha there is to the greatest
    rgba[..., 3] = alpha
    return Baked(rgba.cpu(), field.world_from_voxel, highest, name)


def _thresholds(level: Float[Tensor, "k j i"]) -> Float[Tensor, "k j i"]:
    """From 0 to 1, evenly spread in every neighbourhood: rounded by them, haze of less than a level stays haze."""
    k, j, i = (
        step * torch.arange(n, dtype=torch.float64, device="cpu") for n, step in zip(level.shape, SPREAD, strict=True)
    )
    return ((k[:, None, None] + j[:, None] + i) % 1).to(level)


def _highest(bits: int) -> int:
    return 2**bits - 1


def _closest(field: Field, name: str, bits: int) -> Baked:
    """Of what the highest alpha may stand for, that whose pictures differ least from the field's."""
    ceilings = _ceilings(field.values[3], field.voxel_size)
    if len(ceilings) == 1:
        return _levelled(field, ceilings[0], name, bits)
    on_lattice = Volume(field.values[3], field.world_from_voxel)
    cameras = [eye(on_lattice, towards, TRIED_SIZE) for towards in TRIED_FROM]
    found: list[tuple[float, float]] = []
    with torch.no_grad():
        wanted = march(field, cameras, MarchSettings()).cpu()
        for highest in ceilings:  # one at a time, since each is as large as the volume
            drawn = march(_levelled(field, highest, name, bits).field(), cameras, MarchSettings())
            found.append((float(((drawn - wanted) ** 2).mean()), highest))
    return _levelled(field, min(found)[1], name, bits)
