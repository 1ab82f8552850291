import math

import torch

from diffrender.physics.blur import filtered, gaussian


def spot(size, at):
    image = torch.zeros(size, dtype=torch.float64)
    image[at] = 1.0
    return image


def test_a_gaussian_has_its_width_along_each_axis():
    made = gaussian(spot((81, 101), (38, 52)), (1.5, 0.8), sigma=6.0, normalised=False)
    rows = (torch.arange(81) - 38) * 1.5
    columns = (torch.arange(101) - 52) * 0.8
    assert abs(made.sum().item() - 1) < 1e-6
    # A pixel's own width adds its variance, step^2 / 12.
    assert abs((made.sum(1) * rows**2).sum().item() - 36 - 1.5**2 / 12) < 0.02
    assert abs((made.sum(0) * columns**2).sum().item() - 36 - 0.8**2 / 12) < 0.02


def test_nothing_comes_back_in_on_the_other_side():
    made = gaussian(spot((40, 50), (1, 2)), (1.0, 1.0), sigma=5.0, normalised=False)
    assert made.sum() < 0.5  # most of three quarters of it fell off the image
    assert made[-1].max() < 1e-12


def test_a_flat_image_stays_flat_when_normalised():
    flat = torch.full((30, 20), 3.0, dtype=torch.float64)
    assert (gaussian(flat, (1.0, 2.0), sigma=9.0) - 3).abs().max() < 1e-12


def test_a_transfer_function_scales_a_wave():
    steps, frequency = (0.5, 0.25), 0.125  # the wave runs along the rows' index and fits 4 times
    wave = torch.cos(2 * math.pi * frequency * torch.arange(64, dtype=torch.float64) * steps[0])[:, None].expand(64, 40)

    def transfer(f, g):
        return 1 / (1 + (f / 0.2) ** 2 + (g / 0.01) ** 2)

    expected = wave / (1 + (frequency / 0.2) ** 2)
    assert (filtered(wave, steps, transfer, "circular") - expected).abs().max() < 1e-9
    mirrored = filtered(wave + 5, steps, transfer)
    assert (mirrored[20:44] - expected[20:44] - 5).abs().max() < 0.02  # the mirror at the ends is no longer a cosine
    assert mirrored.shape == wave.shape
