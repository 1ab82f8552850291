"""Transfer functions: what colour and which opacity a Hounsfield unit has."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import SettingError
from diffrender.rays.field import Table

OPAQUE = 0.9999  # an opacity of 1 within a finite length would need an infinite extinction


@dataclass(frozen=True)
class TransferFunction:
    """Colour and opacity over HU, linear between points, held beyond the outermost, as in VTK.

    Attributes:
        colours: (HU, r, g, b) with rising HU; sRGB display values 0..1.
        opacities: (HU, opacity) with rising HU; the opacity that `unit_distance` of it has.
        unit_distance: [mm]; VTK's ScalarOpacityUnitDistance.
        name: for menus and provenance.
    """

    colours: tuple[tuple[float, float, float, float], ...]
    opacities: tuple[tuple[float, float], ...]
    unit_distance: float = 1.0
    name: str = ""

    def at(self, hu: Float[Tensor, "*n"]) -> Float[Tensor, "*n 4"]:
        """Red, green, blue and extinction kappa [1/mm] at HU: -ln(1 - opacity) / unit_distance."""
        at = hu.detach().cpu().double().numpy()
        points = np.array(self.colours)
        channels = [np.interp(at, points[:, 0], points[:, n]) for n in (1, 2, 3)]
        where, opacity = np.array(self.opacities).T
        covered = np.minimum(np.interp(at, where, opacity), OPAQUE)
        channels.append(-np.log1p(-covered) / self.unit_distance)
        return torch.from_numpy(np.stack(channels, -1)).to(hu.device, torch.float32)

    def table(self, bins: int = 256, low: float = -1024.0, high: float = 3071.0) -> Table:
        """Evenly spaced entries (red, green, blue, extinction [1/mm]) for the march."""
        if not low < high or bins < 2 or not math.isfinite(high - low):
            raise SettingError(f"A table has two bins or more over a rising range, not {bins} over {low} to {high}.")
        return Table(self.at(torch.linspace(low, high, bins, dtype=torch.float64)), ((low, high),))
