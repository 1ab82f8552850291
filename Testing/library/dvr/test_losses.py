"""Losses: SSIM against the formula written out, masks that leave out what they should, gradients."""

import dataclasses
import math

import pytest
import torch
from trainings import case

from diffrender.dvr.losses import (
    LossSettings,
    gradient_difference,
    loss_of,
    mean_square,
    psnr,
    scores_of,
    ssim,
    ssim_map,
)
from diffrender.errors import PathError, SettingError


def pictures(shape=(3, 31, 27), seed=1):
    random = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=random, dtype=torch.float64)
    return a, (0.6 * a + 0.4 * torch.rand(shape, generator=random, dtype=torch.float64))


def ssim_at(a, b, row, column):
    """Wang's index of the 11 x 11 window about one pixel of one channel, written out."""
    bell = [math.exp(-(n**2) / (2 * 1.5**2)) for n in range(-5, 6)]
    weights = {(i, j): bell[i + 5] * bell[j + 5] for i in range(-5, 6) for j in range(-5, 6)}
    total = sum(weights.values())
    x, y, xx, yy, xy = 0.0, 0.0, 0.0, 0.0, 0.0
    for (i, j), w in weights.items():
        p, q = float(a[row + i, column + j]), float(b[row + i, column + j])
        x, y, xx, yy, xy = x + w * p, y + w * q, xx + w * p * p, yy + w * q * q, xy + w * p * q
    x, y, xx, yy, xy = (s / total for s in (x, y, xx, yy, xy))
    c1, c2 = 0.0001, 0.0009
    return (2 * x * y + c1) * (2 * (xy - x * y) + c2) / ((x * x + y * y + c1) * (xx - x * x + yy - y * y + c2))


def test_ssim_is_the_published_index_where_windows_lie_whole():
    a, b = pictures()
    found = ssim_map(a, b)
    for channel, row, column in ((0, 5, 5), (1, 12, 20), (2, 25, 7)):
        expected = ssim_at(a[channel], b[channel], row, column)
        assert float(found[channel, row, column]) == pytest.approx(expected, abs=1e-9)  # float64; the same sums


def test_ssim_of_equal_pictures_is_one_and_of_opposite_ones_below_zero():
    a, _ = pictures()
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-12)
    assert float(ssim(a, 1 - a)) < 0


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 4, 3), (3, 9, 40)])
def test_images_smaller_than_a_window_have_an_ssim(shape):
    a, b = pictures(shape)
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-9)
    assert -1 <= float(ssim(a, b)) < 1


def test_what_the_mask_leaves_out_has_no_say():
    a, b = pictures()
    mask = torch.zeros(31, 27)
    mask[8:24, 3:19] = 1
    other = torch.where(mask > 0, a, torch.rand_like(a))
    for measure in (ssim, mean_square, gradient_difference):
        assert torch.equal(measure(a, b, mask), measure(other, b, mask)), measure.__name__
        assert not torch.equal(measure(a, b, mask), measure(a, b, torch.ones(31, 27))), measure.__name__
    assert psnr(a, b, mask > 0) == psnr(other, b, mask > 0)


def test_weights_are_shares_of_a_mean():
    a = torch.tensor([[[0.5, 0.0]]])
    b = torch.zeros(1, 1, 2)
    assert float(mean_square(a, b, torch.tensor([[3.0, 1.0]]))) == pytest.approx(0.25 * 3 / 4)
    assert float(mean_square(a, b, torch.zeros(1, 2))) == 0
    assert psnr(a, b, torch.tensor([[True, False]])) == pytest.approx(10 * math.log10(1 / 0.25))
    assert psnr(b, b) == 100


def test_the_loss_is_mse_and_ssim_and_alpha():
    target = case(1).targets[0]
    image = (0.8 * target.image + 0.05).double()
    target = dataclasses.replace(target, image=target.image.double())
    parts = LossSettings(mse=1.0, ssim=0.0, alpha=0.0), LossSettings(mse=0.0, ssim=1.0, alpha=0.0)
    mse, structure = (float(loss_of(image, target, part)) for part in parts)
    alpha = float(loss_of(image, target, LossSettings(mse=0.0, ssim=0.0, alpha=1.0)))
    assert mse == pytest.approx(float(mean_square(image[:3], target.image[:3], target.weight)))
    assert structure == pytest.approx(1 - float(ssim(image[:3], target.image[:3], target.weight)))
    assert alpha == pytest.approx(float(mean_square(image[3:], target.image[3:], target.alpha_weight)))
    assert float(loss_of(image, target)) == pytest.approx(mse + structure + alpha)
    assert float(loss_of(target.image, target)) == pytest.approx(0, abs=1e-9)


def test_hidden_pixels_teach_alpha_and_no_colour():
    target = case(1).targets[0]
    nothing = torch.zeros_like(target.weight)
    hidden = dataclasses.replace(target, image=torch.zeros_like(target.image), weight=nothing)
    image = target.image.clone().requires_grad_()
    loss_of(image, hidden).backward()
    assert not image.grad[:3].any()
    assert (image.grad[3] > 0).any()
    assert scores_of(target.image, hidden).keys() == {"psnr"}


def test_gradients_meet_finite_differences():
    a, b = pictures((4, 13, 12))
    target = dataclasses.replace(case(1, image_size=(13, 12)).targets[0], image=b)
    settings = LossSettings(gradient=0.5)
    leaf = a.clone().requires_grad_()
    loss_of(leaf, target, settings).backward()
    for seed in range(3):
        way = torch.randn(a.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = (loss_of(a + sign * 1e-6 * way, target, settings) for sign in (1, -1))
        # central differences in float64: 1e-12 of truncation, 1e-10 of rounding
        assert float((leaf.grad * way).sum()) == pytest.approx(float(ahead - behind) / 2e-6, abs=1e-7)


def test_scores_tell_painted_pixels_apart():
    target = case(1).targets[0]
    image = target.image.clone()
    image[:3, target.weight >= 5] += 0.1
    scores = scores_of(image, target)
    assert scores["psnr-painted"] == pytest.approx(20, abs=1e-3)
    assert scores["psnr"] > scores["psnr-painted"]
    uniform = dataclasses.replace(target, weight=torch.ones_like(target.weight))
    assert scores_of(image, uniform).keys() == {"psnr", "ssim"}


def test_a_sharp_edge_moved_costs_gradient():
    a = torch.zeros(3, 16, 16)
    a[:, :, 8:] = 1
    assert float(gradient_difference(a, a)) == 0
    assert float(gradient_difference(a, a + 0.3)) == pytest.approx(0, abs=1e-6)  # brightness alone is no edge
    assert float(gradient_difference(a, a.roll(2, dims=2))) > 0.05


def test_a_perceptual_loss_needs_a_file_and_says_so(tmp_path):
    with pytest.raises(
        SettingError, match="weights of LPIPS, which do not come with DiffRender and are not downloaded"
    ):
        LossSettings(perceptual=0.1)
    target = case(1).targets[0]
    with pytest.raises(PathError, match=r"nowhere\.safetensors cannot be read: .*without them leave `perceptual` at 0"):
        loss_of(target.image, target, LossSettings(perceptual=0.1, perceptual_file=tmp_path / "nowhere.safetensors"))
    pickle = tmp_path / "lpips.pth"
    torch.save({"a": torch.zeros(1)}, pickle)
    with pytest.raises(PathError, match="can run code when opened; convert them"):
        loss_of(target.image, target, LossSettings(perceptual=0.1, perceptual_file=pickle))


def test_the_perceptual_loss_reads_its_weights_from_a_file(tmp_path):
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(2)
    layers = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    weights = {}
    for number, (n, (out, channels, size)) in enumerate(layers.items()):
        weights[f"features.{n}.weight"] = 0.05 * torch.randn(out, channels, size, size, generator=random)
        weights[f"features.{n}.bias"] = torch.zeros(out)
        weights[f"lin{number}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=random)
    save_file(weights, tmp_path / "lpips.safetensors")
    target = case(1).targets[0]
    only = LossSettings(0, 0, 0, 0, perceptual=1.0, perceptual_file=tmp_path / "lpips.safetensors")
    image = (target.image * 0.7).requires_grad_()
    loss = loss_of(image, target, only)
    loss.backward()
    assert float(loss_of(target.image, target, only)) == pytest.approx(0, abs=1e-9)
    assert float(loss.detach()) > 0
    assert image.grad[:3].any()


@pytest.mark.parametrize("wrong", [{"mse": -1.0}, {"mse": 0.0, "ssim": 0.0, "alpha": 0.0}, {"ssim": math.nan}])
def test_impossible_parts_of_a_loss_are_refused(wrong):
    with pytest.raises(SettingError, match="numbers from 0 on, one of them above 0"):
        LossSettings(**wrong)
