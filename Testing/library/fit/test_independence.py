"""How many independent numbers an image is worth, on Gaussian fields whose correlation is known."""

import pytest
import torch

from diffrender.fit.independence import independent_pixels

SIZE = (96, 130)


def field(length: float, seed: int) -> torch.Tensor:
    """White noise under a Gaussian of this deviation [px], cut from the middle so that nothing is periodic."""
    height, width = SIZE
    noise = torch.randn(2 * height, 2 * width, generator=torch.Generator().manual_seed(seed))
    rows, columns = torch.fft.fftfreq(2 * height)[:, None], torch.fft.fftfreq(2 * width)[None]
    passed = torch.exp(-2 * torch.pi**2 * length**2 * (rows.square() + columns.square()))
    return torch.fft.ifft2(torch.fft.fft2(noise) * passed).real[:height, :width]


def mean_count(length: float, mask: torch.Tensor | None = None) -> float:
    found = [field(length, n) * (1 if mask is None else mask) for n in range(10)]
    return sum(map(independent_pixels, found)) / len(found)


def test_white_noise_counts_all_its_pixels():
    assert mean_count(0.0) == pytest.approx(96 * 130, rel=0.03)


@pytest.mark.parametrize("length", [1.0, 2.0, 3.0])
def test_smooth_fields_count_as_their_correlation_says(length):
    # exp(-d^2 / 4 L^2), whose square adds up to 2 pi L^2; ten draws of some 200 numbers are known to 5 %
    assert mean_count(length) == pytest.approx(96 * 130 / (2 * torch.pi * length**2), rel=0.15)


def test_what_is_hidden_does_not_count():
    rows, columns = torch.arange(96)[:, None], torch.arange(130)[None]
    away = torch.hypot(rows - 40.0, columns - 75.0)
    ring = ((away < 38) & (away > 16)).float()
    assert mean_count(0.0, ring) == pytest.approx(float(ring.sum()), rel=0.03)
    assert mean_count(1.0, ring) == pytest.approx(float(ring.sum()) / (2 * torch.pi), rel=0.15)


def test_an_image_of_nothing_counts_nothing():
    assert independent_pixels(torch.zeros(9, 7)) == 0
