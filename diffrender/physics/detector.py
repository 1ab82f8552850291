"""A flat panel that integrates energy: what it absorbs, how it blurs, and its noise."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import SettingError
from diffrender.physics.blur import filtered
from diffrender.physics.materials import mass_attenuation
from diffrender.physics.settings import Detector, Physics
from diffrender.physics.spectra import Spectrum

TINY = 1e-20  # below any variance: the square root's slope stays finite where nothing arrives
ALIASES = 3  # orders of folding that noise is summed over


def absorbed(spectrum: Spectrum, detector: Detector | None) -> Spectrum:
    """The spectrum of what a detector absorbs; all of it without a detector."""
    if detector is None:
        return spectrum
    name = f"{spectrum.name}, absorbed in {detector.scintillator}"
    return replace(spectrum, fluence=spectrum.fluence * _absorption(spectrum, detector), name=name)


def responses(spectrum: Spectrum, detector: Detector | None) -> tuple[Float[Tensor, "e"], Float[Tensor, "e"]]:
    """What a photon of each energy makes on average [keV], and the mean of its square, with Swank's factor [keV^2]."""
    share, swank = (1.0, 1.0) if detector is None else (_absorption(spectrum, detector), detector.swank)
    return share * spectrum.energies, share * spectrum.energies**2 / swank


def _absorption(spectrum: Spectrum, detector: Detector) -> Float[Tensor, "e"]:
    return 1 - torch.exp(-mass_attenuation(detector.scintillator, spectrum.energies) * detector.mass_thickness)


def exposure(spectrum: Spectrum, physics: Physics, source_to_detector: float) -> float:
    """Times the spectrum's fluence: photons per mm2 in the open beam, where it meets the detector at a right angle.

    Raises: SettingError where neither a dose nor mas is given.
    """
    if physics.mas is not None:
        return physics.mas * (1000.0 / source_to_detector) ** 2
    if physics.dose is None:
        raise SettingError("Noise needs a dose [uGy at the detector, open beam] or mas; or set noise=False.")
    return physics.dose / spectrum.air_kerma


def modulation(physics: Physics, magnification: float) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The transfer function of scintillator and focal spot; None where neither blurs.

    The scintillator's is 1 / (1 + (f / f_half)^2); the focal spot is a square of even brightness, magnified by
    `magnification` - 1.
    """
    side = physics.focal_spot * max(magnification - 1, 0.0)
    half = None if physics.detector is None else physics.detector.half_modulation
    if half is None and side == 0:
        return None

    def transfer(f: Tensor, g: Tensor) -> Tensor:
        spot = torch.sinc(side * f) * torch.sinc(side * g)
        return spot if half is None else spot / (1 + (f**2 + g**2) / half**2)

    return transfer


def noise(
    signal: Float[Tensor, "h w"],
    second: Float[Tensor, "h w"],
    photons: float,
    energy: float,
    steps: tuple[float, float],
    physics: Physics,
) -> Float[Tensor, "h w"]:
    """What the detector reads above or below the signal expected.

    Args:
        signal: expected, relative to the open field.
        second: its variance times the photons that fall on a pixel in the open field; see `Transmission`.
        photons: that fall on the detector in the open field [1/mm2].
        energy: that each of them leaves there on average [keV].
        steps: the pixels' (row, column) [mm].
    Returns: Gaussian noise with the variance of the compound Poisson process, one variate per pixel and `physics.seed`
        scaled by a function of signal and second moment, so that gradients pass. Quantum noise is blurred by the
        scintillator and folded at the pixels' rate; what is read adds white noise, and the Poisson noise of electrons.
    Source: Swank, J. Appl. Phys. 44 (1973) 4199, doi:10.1063/1.1662918, for the factor in `second`.
    """
    detector, area = physics.detector, steps[0] * steps[1]
    random = torch.Generator().manual_seed(physics.seed)
    first, other = (torch.randn(signal.shape, generator=random).to(signal) for _ in range(2))
    if detector is not None and detector.half_modulation is not None:
        colour = _noise_colour(tuple(signal.shape), steps, detector.half_modulation)
        first = filtered(first, steps, lambda f, g: colour, "circular")
    made = (second.clamp(min=0) / (photons * area) + TINY).sqrt() * first
    if detector is not None and detector.gain > 0:
        electrons = detector.gain * energy * photons * area  # of the open field in a pixel
        read = physics.electronic_noise**2 * area / detector.pitch**2
        made = made + (signal.clamp(min=0) / electrons + read / electrons**2 + TINY).sqrt() * other
    return made


@lru_cache(maxsize=8)
def _noise_colour(
    shape: tuple[int, int], steps: tuple[float, float], half: float
) -> Float[Tensor, "rows half_columns"]:
    """The amplitude spectrum that white noise of the pixels gets from the scintillator, folded at their rate.

    The spectrum of noise is MTF^2 of the light, times that of a pixel's aperture, summed over all frequencies that fold
    onto one; apertures alone sum to 1.
    """
    f = torch.fft.fftfreq(shape[0], steps[0], dtype=torch.float64)[:, None]
    g = torch.fft.rfftfreq(shape[1], steps[1], dtype=torch.float64)[None, :]
    power, apertures = torch.zeros(()), torch.zeros(())
    orders = range(-ALIASES, ALIASES + 1)
    for n in orders:
        for m in orders:
            u, v = f + n / steps[0], g + m / steps[1]
            aperture = (torch.sinc(u * steps[0]) * torch.sinc(v * steps[1])) ** 2
            power = power + aperture / (1 + (u**2 + v**2) / half**2) ** 2
            apertures = apertures + aperture
    return torch.sqrt(power / apertures)
