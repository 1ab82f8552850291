"""A beam of many energies through materials: areal densities along rays, and what of the beam passes through them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import SettingError, UnitError
from diffrender.physics.attenuation import HU_AIR
from diffrender.physics.decompose import Decomposition, contrast_of, decompose, ladder_of
from diffrender.physics.materials import mass_attenuation
from diffrender.physics.spectra import Spectrum
from diffrender.rays.line import line_integrals
from diffrender.rays.prepared import Prepared, prepare
from diffrender.volume import Volume

PIXELS_AT_ONCE = 4096  # times 100 energies are 1.6 MB: what a core's cache holds
MM_TO_CM = 0.1
MOST = 32767  # of int16


@dataclass(frozen=True, eq=False)
class Matter:
    """A volume's materials made ready for rays. Made by `matter_of`.

    Attributes:
        prepared: {material: its density, in such units that integrals along rays come out in g/cm2}.
        world_from_voxel: (4, 4); RAS [mm].
    """

    prepared: Mapping[str, Prepared]
    world_from_voxel: Float[Tensor, "4 4"]


def matter_of(volume: Volume, settings: Decomposition | None = None) -> Matter:
    """Decompose a CT once; an image then costs only its rays, one pass for each material that the CT holds.

    Densities are kept as int16 (steps of at most 1/32767 of the highest), or as they are where the values carry a
    gradient.

    Raises: UnitError where the values are not HU, SettingError.
    """
    settings = settings or Decomposition()
    if volume.unit != "HU":
        raise UnitError(
            f"{volume.source or 'This volume'} holds values in unit {volume.unit!r}, not Hounsfield units, so what it "
            "is made of is unknown (MR, or a CT without rescale). Give a CT."
        )
    contrast = contrast_of(volume, settings)
    if volume.values.requires_grad and torch.is_grad_enabled():
        densities = decompose(volume.values, settings, contrast)
        return Matter({name: prepare(d, MM_TO_CM) for name, d in densities.items()}, volume.world_from_voxel)
    stored = _stored(volume.values.detach(), settings, contrast)
    prepared = {name: prepare(counts, step * MM_TO_CM) for name, (counts, step) in stored.items()}
    return Matter(prepared, volume.world_from_voxel)


def areal_densities(
    matter: Matter, camera: Camera, xi: Float[Tensor, "6"] | None = None, backend: str = "auto"
) -> dict[str, Float[Tensor, "h w"]]:
    """How much of each material every ray meets [g/cm2].

    Args:
        xi: motion of the volume (t [mm], r [rad]); see `line_integrals`.
    Returns: {material: (h, w)}; differentiable in the volume's values, if `matter` was made of ones with a gradient,
        and in `xi`.
    Raises: as `line_integrals`.
    """
    return {
        name: line_integrals(density, matter.world_from_voxel, camera, xi, backend)
        for name, density in matter.prepared.items()
    }


@dataclass(frozen=True, eq=False)
class Transmission:
    """What reaches the detector behind matter.

    Attributes:
        signal: relative to the open field, 1 without matter.
        second_moment: variance of `signal` times the number of photons that would fall on the pixel in the open field:
            1 for photons of one energy and nothing in their way.
    """

    signal: Float[Tensor, "*shape"]
    second_moment: Float[Tensor, "*shape"]


def transmitted(
    spectrum: Spectrum,
    areal: Mapping[str, Float[Tensor, "*shape"]],
    response: Float[Tensor, "e"] | None = None,
    squared_response: Float[Tensor, "e"] | None = None,
) -> Transmission:
    """Beer and Lambert's law summed over a spectrum.

    Args:
        areal: {material: areal density [g/cm2]}.
        response: mean signal of a photon at each energy of the spectrum; by default its energy (all of it absorbed, an
            energy-integrating detector).
        squared_response: mean of the squared signal of a photon; by default the square of `response`. With an absorbed
            share a and a Swank factor s it is a E^2 / s.
    Returns: S = sum f r exp(-p) / sum f r, and Q = sum f r2 exp(-p) sum f / (sum f r)^2, with fluence f and p = sum of
        areal
        density times mass attenuation over materials: N photons on a pixel in the open field give S a variance of Q / N
        (compound Poisson). Differentiable in `areal`; once.
    Raises: SettingError where there is no material, or a response does not fit the spectrum.
    """
    if not areal:
        raise SettingError("A beam needs the areal density of one material at least; there is none here.")
    r = spectrum.energies if response is None else response.to(torch.float64)
    r2 = r**2 if squared_response is None else squared_response.to(torch.float64)
    for name, numbers in (("response", r), ("squared_response", r2)):
        if numbers.shape != spectrum.energies.shape or not torch.isfinite(numbers).all() or not numbers.min() >= 0:
            raise SettingError(
                f"{name} must be a number from zero up for each of the {len(spectrum.energies)} energies of "
                f"{spectrum.name}; it has shape {list(numbers.shape)}."
            )
    f = spectrum.fluence
    whole = (f * r).sum()
    if not whole > 0:
        raise SettingError(
            f"The detector sees nothing of {spectrum.name}: its response is zero at every energy there is."
        )
    weights = torch.stack([f * r / whole, f * r2 * f.sum() / whole**2], dim=1)
    mass = torch.stack([mass_attenuation(name, spectrum.energies) for name in areal])
    layers = torch.stack(torch.broadcast_tensors(*areal.values()), dim=-1)
    moments = _Moments.apply(layers.reshape(-1, len(areal)), mass, weights).reshape(*layers.shape[:-1], 2)
    return Transmission(moments[..., 0], moments[..., 1])


class _Moments(torch.autograd.Function):
    """sum_e w_e exp(-sum_m a_m mu_me) for two sets of weights; its Jacobian in the same pass, so no energy is kept."""

    @staticmethod
    def forward(
        ctx: Any, areal: Float[Tensor, "n m"], mass: Float[Tensor, "m e"], weights: Float[Tensor, "e 2"]
    ) -> Float[Tensor, "n 2"]:
        mass, weights = mass.to(areal), weights.to(areal)
        areal = areal.contiguous()
        moments = areal.new_empty(len(areal), 2)
        jacobian = areal.new_empty(len(areal), 2 * len(mass)) if ctx.needs_input_grad[0] else None
        slopes = -(weights[:, :, None] * mass.T[:, None, :]).reshape(len(weights), -1)
        for start in range(0, len(areal), PIXELS_AT_ONCE):
            part = slice(start, start + PIXELS_AT_ONCE)
            passed = torch.mm(areal[part], mass).neg_().exp_()
            torch.mm(passed, weights, out=moments[part])
            if jacobian is not None:
                torch.mm(passed, slopes, out=jacobian[part])
        if jacobian is not None:
            ctx.save_for_backward(jacobian)
        return moments

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "n 2"]) -> tuple[Tensor | None, None, None]:
        (jacobian,) = ctx.saved_tensors
        return torch.einsum("nc,ncm->nm", g, jacobian.reshape(len(g), 2, -1)), None, None


def _stored(
    hu: Shaped[Tensor, "k j i"], settings: Decomposition, contrast: Bool[Tensor, "k j i"] | None
) -> dict[str, tuple[Tensor, float]]:
    """{material: (density as int16, the step [g/cm3] it counts in)} of all that occur, slice by slice for memory."""
    steps = _steps(settings, hu.amax().item())
    whole = _table_look_up(hu, settings, steps) if hu.dtype == torch.int16 else _worked_out(settings, steps)
    stored: dict[str, Tensor] = {}
    for k, layer in enumerate(hu):
        for name, counts in whole(layer, None if contrast is None else contrast[k]).items():
            if counts.any():
                if name not in stored:
                    stored[name] = torch.zeros(hu.shape, dtype=torch.int16, device=hu.device)
                stored[name][k] = counts
    if not stored:  # air alone
        stored["soft-tissue"] = torch.zeros(hu.shape, dtype=torch.int16, device=hu.device)
    return {name: (counts, steps.get(name, 1.0)) for name, counts in stored.items()}


Counting = Callable[[Tensor, Tensor | None], dict[str, Tensor]]


def _steps(settings: Decomposition, top: float) -> dict[str, float]:
    """{material: step [g/cm3]}, so that the highest density up to `top` HU is the highest int16."""
    top = max(top, HU_AIR)
    rungs = torch.from_numpy(ladder_of(settings).rungs)
    hu = torch.cat([rungs[rungs < top], torch.tensor([top], dtype=torch.float64)])
    kinds = [decompose(hu, settings, torch.full(hu.shape, kind)) for kind in (False, True)]
    return {name: float(max(d[name].max() for d in kinds if name in d)) / MOST or 1.0 for d in kinds for name in d}


def _worked_out(settings: Decomposition, steps: dict[str, float]) -> Counting:
    def whole(layer: Tensor, contrast: Tensor | None) -> dict[str, Tensor]:
        densities = decompose(layer, settings, contrast)
        return {name: (d / steps.get(name, 1.0)).round().to(torch.int16) for name, d in densities.items()}

    return whole


def _table_look_up(hu: Shaped[Tensor, "k j i"], settings: Decomposition, steps: dict[str, float]) -> Counting:
    """Every HU that can occur worked out once: eight times faster than each voxel for itself."""
    every = torch.arange(int(HU_AIR), max(int(hu.amax()), int(HU_AIR)) + 1, dtype=torch.float64, device=hu.device)
    kinds = [_worked_out(settings, steps)(every, torch.full_like(every, kind, dtype=torch.bool)) for kind in (0, 1)]
    nothing = torch.zeros(len(every), dtype=torch.int16, device=hu.device)
    tables = {n: torch.cat([kind.get(n, nothing) for kind in kinds]) for n in {**kinds[0], **kinds[1]}}
    bare = list(kinds[0])

    def whole(layer: Tensor, contrast: Tensor | None) -> dict[str, Tensor]:
        row = layer.to(torch.int32).clamp(min=int(HU_AIR)) - int(HU_AIR)
        if contrast is None or not contrast.any():
            return {name: tables[name][row] for name in bare}
        row = row + len(every) * contrast
        return {name: table[row] for name, table in tables.items()}

    return whole
