"""Distances between sets of pictures: known answers for greys, spectra, patches, and FID, KID and IS on features."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffrender.errors import BackendError, ImageError
from diffrender.synth.fidelity import (
    fidelity_distances,
    frechet_distance,
    inception,
    inception_score,
    kernel_distance,
)
from diffrender.synth.realism import (
    histogram_distance,
    realism_distances,
    sliced_wasserstein,
    spectrum,
    spectrum_distance,
)


def noise(count: int = 6, size: tuple[int, int] = (40, 48), seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 1, *size), generator=torch.Generator().manual_seed(seed))


def blurred(pictures: torch.Tensor, side: int) -> torch.Tensor:
    return F.avg_pool2d(pictures, side, 1, side // 2, count_include_pad=False)


def test_greys_moved_by_a_tenth_are_a_tenth_apart():
    made = 0.2 + 0.5 * noise()
    # 64 bins: an edge falls within a bin, so a share of 1/64 of the truth
    assert histogram_distance(made + 0.1, made) == pytest.approx(0.1, abs=0.002)
    assert histogram_distance(made, made + 0.1) == pytest.approx(0.1, abs=0.002)
    assert histogram_distance(made[:3], made[:3].flip(3)) == 0.0


def test_the_spectrum_has_a_wave_in_its_ring():
    height, width = 40, 60
    rows = torch.arange(height)[:, None] / height
    columns = torch.arange(width) / width
    wave = torch.sin(2 * math.pi * (6 * rows + 12 * columns))  # periods of the picture's own sides
    found = spectrum(wave[None, None].expand(2, 1, -1, -1))
    ring = round(math.hypot(6, 12 * height / width))  # of the shorter side
    assert int(found.argmax()) + 1 == ring
    assert found[ring - 1] > 20 * found.median()
    assert len(found) == height // 2


def test_white_noise_has_power_one_in_every_ring():
    found = spectrum(noise(60))
    # 60 pictures: the smallest ring averages 480 numbers of an exponential distribution
    assert (found - 1.0).abs().max() < 0.2


def test_a_gain_moves_no_spectrum_and_a_blur_does():
    plain = noise()
    assert spectrum_distance(0.3 * plain + 0.2, plain) < 0.01
    distances = [spectrum_distance(blurred(plain, side), plain) for side in (3, 5, 9)]
    assert distances == sorted(distances)
    assert distances[0] > 3.0


def test_patches_of_a_set_are_at_no_distance_from_themselves_and_further_the_more_it_is_blurred():
    plain = noise(size=(64, 80))
    assert set(sliced_wasserstein(plain, plain)) == {64, 32, 16}
    assert max(sliced_wasserstein(plain, plain).values()) == 0.0
    distances = [sliced_wasserstein(blurred(plain, side), plain)[64] for side in (3, 5, 9)]
    assert distances == sorted(distances)
    twin = sliced_wasserstein(plain, noise(9, size=(64, 80), seed=5))[64]  # another number of the same kind
    assert twin < 0.1 * distances[0]


def test_a_shift_of_all_greys_is_seen_by_the_coarsest_level_alone():
    plain = noise(size=(64, 64))
    found = sliced_wasserstein(plain + 0.25, plain)
    assert found[64] < 1.0
    # patches all 0.25 brighter, projected on directions of length 1: 0.25 |sum of a direction|, on average
    # 0.25 sqrt(2 / pi) for 49 numbers of a random unit vector; 128 directions scatter by a fifteenth
    assert found[16] == pytest.approx(1000 * 0.25 * math.sqrt(2 / math.pi), rel=0.2)


def test_all_distances_have_names_and_a_seed():
    first = realism_distances(noise(), noise(seed=1), seed=3)
    assert set(first) == {"histogram", "spectrum", "patches"}
    assert realism_distances(noise(), noise(seed=1), seed=3) == first
    assert realism_distances(noise(), noise(seed=1), seed=4)["patches"] != first["patches"]
    assert realism_distances(list(noise()), noise(seed=1), seed=3) == first


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (noise(1), "two sets of 2 or more"),
        ([], "two sets of 2 or more"),
        (noise(size=(12, 40)), "16 px a side"),
        (noise() * float("nan"), "NaN or infinite"),
        (noise(size=(40, 40)), "bring them to one size"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(made, words):
    with pytest.raises(ImageError, match=words):
        realism_distances(made, noise())


def exactly(mean: torch.Tensor, covariance: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Rows whose mean and covariance are these to rounding."""
    rows = torch.randn((count, len(mean)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows - rows.mean(0)
    whitened = rows @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows.T))).T
    return whitened @ torch.linalg.cholesky(covariance).T + mean


def test_fid_is_the_distance_of_gaussians_whose_covariances_do_not_commute():
    a = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, 0.2], [0.0, 0.2, 0.5]], dtype=torch.float64)
    b = torch.tensor([[0.7, -0.3, 0.1], [-0.3, 1.5, 0.0], [0.1, 0.0, 3.0]], dtype=torch.float64)
    means = torch.tensor([[0.0, 1.0, 2.0], [0.5, 1.0, -1.0]], dtype=torch.float64)
    from scipy.linalg import sqrtm

    root = torch.as_tensor(sqrtm((a @ b).numpy()).real)
    truth = float((means[0] - means[1]).square().sum() + torch.trace(a + b - 2 * root))
    found = frechet_distance(exactly(means[0], a, 40, 1), exactly(means[1], b, 60, 2))
    assert found == pytest.approx(truth, rel=1e-9)
    assert frechet_distance(exactly(means[0], a, 40, 1), exactly(means[0], a, 50, 7)) == pytest.approx(0.0, abs=1e-9)


def test_fid_of_fewer_pictures_than_features_is_a_number():
    rows = torch.randn((5, 12), generator=torch.Generator().manual_seed(0))
    assert frechet_distance(rows, rows + 2.0) == pytest.approx(12 * 4.0, rel=1e-5)


def test_kid_is_unbiased_and_has_the_polynomial_kernels_mean():
    draw = torch.Generator().manual_seed(4)
    x, y, z = (torch.randn((3000, 1), generator=draw, dtype=torch.float64) for _ in range(3))
    same, spread = kernel_distance(x, y, subset=100)
    assert abs(same) < 3 * spread / math.sqrt(100) + 0.02
    # E k(x, y) = sum over m of binom(3, m) E x^m E y^m with one feature; moments of N(0, 1) and of N(1, 1)
    ours, theirs = (1, 0, 1, 0), (1, 1, 2, 4)
    weights = (1, 3, 3, 1)
    truth = sum(w * (a - b) ** 2 for w, a, b in zip(weights, ours, theirs, strict=True))
    found, _ = kernel_distance(x, z + 1.0, subset=300)
    assert found == pytest.approx(truth, rel=0.15)  # the third moment of 3000 numbers scatters by a tenth


def test_the_inception_score_counts_kinds_that_are_told_apart():
    sure = 60.0 * F.one_hot(torch.arange(200) % 8, 11).float()
    assert inception_score(sure, splits=5)[0] == pytest.approx(8.0, rel=1e-4)
    assert inception_score(torch.ones(20, 11))[0] == pytest.approx(1.0)


class Network(nn.Module):
    """A small network of our own in InceptionV3's place: means, spreads and edges of nine parts of a picture."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert pictures.shape[1] == 3
        assert pictures.max() > 1.0  # 0 to 255
        greys = pictures[:, :1] / 255
        edges = (greys[..., 1:] - greys[..., :-1]).abs()
        parts = [F.adaptive_avg_pool2d(part, 3).flatten(1) for part in (greys, greys.square(), edges)]
        features = torch.cat(parts, 1)
        return features, 50 * features[:, :9]


def test_distances_of_a_feature_network_grow_with_what_it_sees():
    real = noise(40, (24, 30))
    near, far = (fidelity_distances(made, real, Network()) for made in (noise(40, (24, 30), 1), blurred(real, 3)))
    assert set(near) == {"is", "is_std", "fid", "kid", "kid_std"}
    assert near["fid"] < 0.1 * far["fid"]
    assert abs(near["kid"]) < 0.1 * far["kid"]


def test_without_torch_fidelity_it_is_said_what_needs_none(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(BackendError, match="realism_distances"):
        inception()
