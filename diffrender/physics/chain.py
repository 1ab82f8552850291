"""From matter to what is read: beam, field, scatter and grid, blur, noise, in the order in which they happen."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.physics.beam import transmitted
from diffrender.physics.blur import filtered
from diffrender.physics.detector import absorbed, exposure, modulation, noise, responses
from diffrender.physics.field import open_field, shutters
from diffrender.physics.scatter import SCATTERED_ENERGY, grid_transmission, kernels_of, scattered
from diffrender.physics.settings import Physics
from diffrender.physics.spectra import Spectrum, monochromatic, read_spectrum, tube_spectrum

DARKEST = 1e-6  # of the open field: what noise takes below is shown as this
FAINTEST = 1e-12  # primary signal: what less than that comes to is nothing
DIMMEST = 0.01  # of the central ray's open field: what is dimmer, beyond the anode's edge, is not made up for
THICKEST = 0.98  # of all rays that meet something: how thick the body is


def spectrum_of(physics: Physics) -> Spectrum:
    """The beam's spectrum before the patient. Raises: SettingError, PathError."""
    if physics.energy is not None:
        return monochromatic(physics.energy)
    if physics.spectrum_file is not None:
        return read_spectrum(physics.spectrum_file)
    return tube_spectrum(physics.kvp, physics.aluminium, physics.copper)


def detected(
    areal: dict[str, Float[Tensor, "h w"]],
    spectrum: Spectrum,
    camera: Camera,
    physics: Physics,
    middle: float | None = None,
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"] | None]:
    """What a detector reads behind matter.

    Args:
        areal: mass per area along each ray of every material [g/cm2].
        spectrum: before the patient, from `spectrum_of`.
        camera: what took it; pixel sizes and distances are its own.
        physics: what happens on the way.
        middle: of the patient, along the central ray from the source [mm], for focal blur and air gap; by default half
            the body's thickness before the detector.
    Returns: the signal relative to the open field, above 0, in the precision of `areal`, differentiable in it; and the
        pixels that shutters leave exposed, None without shutters. The open field is that of the same pixel, or, with a
        detector without `flat_field`, that of the ray which meets the detector at a right angle.
    """
    seen, (energy, squared) = absorbed(spectrum, physics.detector), responses(spectrum, physics.detector)
    areal = areal or {"air": torch.zeros(camera.image_size)}
    passed = transmitted(spectrum, areal, energy, squared)
    mass = torch.stack(list(areal.values())).sum(0)
    open_beam = open_field(camera, physics.inverse_square, physics.heel, seen).to(mass)
    exposed, beam = None, open_beam
    if physics.collimation is not None:
        share, exposed = shutters(camera, physics.collimation)
        beam = open_beam * share.to(mass)
    primary, second = passed.signal * beam, passed.second_moment * beam

    thickness = _thickness(mass)
    depth = camera.source_to_detector - thickness / 2 if middle is None else max(middle, 1.0)
    signal, grid = primary, (1.0, 1.0) if physics.grid is None else grid_transmission(physics.grid, seen)
    if physics.scatter is not None:
        gap = physics.scatter.air_gap
        gap = max(camera.source_to_detector - depth - thickness / 2, 0.0) if gap is None else gap
        added = scattered(primary, 10 * mass, camera, kernels_of(seen, gap))
        added = added * (physics.scatter.strength * grid[1] / grid[0])
        # Scattered photons have the energy of the primary around them, and lost some of it.
        second = second + SCATTERED_ENERGY * added * second / primary.clamp(min=FAINTEST)
        signal = signal + added
    transfer = modulation(physics, camera.source_to_detector / depth)
    if transfer is not None:
        signal = filtered(signal, camera.pixel_size, transfer)
    if physics.noise:
        fluence = spectrum.fluence
        photons = fluence.sum().item() * exposure(spectrum, physics, camera.source_to_detector) * grid[0]
        each = ((fluence * energy).sum() / fluence.sum()).item()
        signal = signal + noise(signal, second, photons, each, camera.pixel_size, physics)
    if physics.detector is None or physics.detector.flat_field:
        signal = signal / open_beam.clamp(min=DIMMEST)
    return signal.clamp(min=DARKEST), exposed


def _thickness(mass: Float[Tensor, "h w"]) -> float:
    """How thick a body of water of this mass per area would be [mm]."""
    met = mass.detach()[mass.detach() > 0.5]
    return 10 * torch.quantile(met.flatten()[:: 1 + met.numel() // 100_000], THICKEST).item() if met.numel() else 0.0
