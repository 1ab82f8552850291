import math
from dataclasses import replace

import pytest
import torch

from diffrender.errors import SettingError
from diffrender.physics.detector import absorbed, exposure, modulation, noise, responses
from diffrender.physics.settings import Detector, Physics
from diffrender.physics.spectra import monochromatic, tube_spectrum

SHARP = Detector(half_modulation=None, swank=1.0, gain=0.0)
STEPS = (0.2, 0.3)


def read(physics, size=(300, 280), signal=1.0, second=1.0, photons=4000.0, energy=30.0, steps=STEPS):
    flat = torch.full(size, float(signal), dtype=torch.float64)
    return noise(flat, flat * second / signal if signal else flat + second, photons, energy, steps, physics)


@pytest.mark.parametrize("photons", [500.0, 20_000.0])
def test_quantum_noise_is_that_of_a_compound_poisson_process(photons):
    made = read(Physics(detector=SHARP), signal=0.3, second=0.4, photons=photons)
    expected = 0.4 / (photons * STEPS[0] * STEPS[1])
    assert abs(made.var().item() / expected - 1) < 0.03  # of 84 000 variates: deviation 0.5 %
    assert abs(made.mean().item()) < 4 * math.sqrt(expected / made.numel())


def test_the_spread_of_energies_and_swanks_factor_are_in_the_second_moment():
    spectrum = tube_spectrum(100.0)
    energy, squared = responses(spectrum, Detector(swank=0.8))
    share = 1 - torch.exp(-0.2 * _csi(spectrum))
    assert torch.allclose(energy, share * spectrum.energies)
    assert torch.allclose(squared, share * spectrum.energies**2 / 0.8)
    every, its_square = responses(spectrum, None)
    assert torch.equal(every**2, its_square)


def test_what_is_absorbed_is_less_and_softer_above_the_edge():
    spectrum = tube_spectrum(120.0)
    seen = absorbed(spectrum, Detector())
    assert absorbed(spectrum, None) is spectrum
    assert 0.5 < (seen.fluence.sum() / spectrum.fluence.sum()).item() < 0.95
    assert seen.mean_energy < spectrum.mean_energy


def test_the_scintillator_blurs_noise_and_pixels_fold_it():
    steps = (0.15, 0.15)
    blurred = read(Physics(detector=replace(SHARP, half_modulation=1.29)), (512, 512), steps=steps)
    power = torch.fft.rfft2(blurred).abs() ** 2 / blurred.numel() * 0.15**2  # noise power [mm2]
    f = torch.fft.fftfreq(512, 0.15, dtype=torch.float64)[:, None]
    g = torch.fft.rfftfreq(512, 0.15, dtype=torch.float64)[None, :]
    radius = torch.sqrt(f**2 + g**2)
    slow = power[(radius > 0) & (radius < 0.2)].mean().item()
    assert abs(slow * 4000 - 1) < 0.08  # at low frequencies one over the photons per mm2, whatever blurs
    # Close to the pixels' limit of 3.33 / mm the light's MTF^2 is 0.020, a pixel's aperture leaves 0.45 of it, and what
    # folds back from beyond the limit adds some 0.007.
    fast = power[(f[:, 0].abs() > 3.0), :8].mean().item() * 4000
    assert 0.0125 < fast < 0.018
    coarse = read(Physics(detector=replace(SHARP, half_modulation=1.29)), steps=(3.0, 2.5))
    assert 0.85 < coarse.var().item() * 4000 * 7.5 < 1.0  # a pixel much larger than the blur counts whole photons


def test_reading_adds_noise_without_light():
    physics = Physics(detector=Detector(half_modulation=None, gain=20.0, pitch=0.1), electronic_noise=800.0)
    made = read(physics, signal=0.0, second=0.0)
    area = STEPS[0] * STEPS[1]
    expected = 800.0**2 * area / 0.1**2 / (20.0 * 30.0 * 4000.0 * area) ** 2
    assert abs(made.var().item() / expected - 1) < 0.03
    none = read(replace(physics, electronic_noise=0.0), signal=0.0, second=0.0)
    assert none.std() < 1e-8


def test_the_same_seed_gives_the_same_noise_whatever_the_threads():
    physics, before = Physics(seed=5), torch.get_num_threads()
    first = read(physics)
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        again = read(physics)
    finally:
        torch.set_num_threads(before)
    assert (first - again).abs().max() < 1e-12
    assert (read(replace(physics, seed=6)) - first).abs().max() > 0.01


def test_gradients_pass_through_noise():
    physics = Physics(seed=2, electronic_noise=50.0)
    signal = (0.1 + torch.rand(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).requires_grad_()
    second = (0.2 + signal.detach() ** 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, q: noise(s, q, 300.0, 25.0, STEPS, physics), (signal, second))


def test_scintillator_and_focal_spot_blur():
    f = torch.tensor([[0.0], [1.29], [0.5]], dtype=torch.float64)
    g = torch.tensor([[0.0]], dtype=torch.float64)
    assert modulation(Physics(detector=Detector(), focal_spot=0.0), 1.4)(f, g)[:2, 0].tolist() == [1.0, 0.5]
    spot = modulation(Physics(detector=None, focal_spot=2.0), 1.5)(f, g)
    assert abs(spot[2, 0].item() - math.sin(math.pi / 2) / (math.pi / 2)) < 1e-9  # 2 mm * 0.5 * 0.5 / mm: half a wave
    assert modulation(Physics(detector=None, focal_spot=2.0), 1.0) is None
    assert modulation(Physics.plain(), 2.0) is None


def test_dose_and_load_say_how_many_photons():
    spectrum = tube_spectrum(75.0, 3.0)
    assert abs(exposure(spectrum, Physics(dose=3.0), 1000.0) * spectrum.air_kerma - 3.0) < 1e-9
    assert exposure(spectrum, Physics(dose=None, mas=2.0), 2000.0) == 0.5  # twice as far, a quarter of it
    per_gray = monochromatic(60.0)
    photons = exposure(per_gray, Physics(dose=1.0), 1000.0) * per_gray.fluence.sum().item()
    # 60 keV: mu_en/rho of air 0.03041 cm2/g (NIST), so 1 uGy is 1 / (60 * 0.03041 * 1.602e-5) photons per mm2
    assert abs(photons / 34_210 - 1) < 0.01
    with pytest.raises(SettingError, match="needs a dose"):
        exposure(spectrum, Physics.plain(), 1000.0)


def _csi(spectrum):
    from diffrender.physics.materials import mass_attenuation

    return mass_attenuation("csi", spectrum.energies)
