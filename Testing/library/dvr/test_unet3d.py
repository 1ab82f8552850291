"""unet-s: the coarse lattice that its U-Net sees, and the way back to the volume's."""

import numpy as np
import pytest
import torch

from diffrender.dvr import unet3d
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.unet3d import FAST, POSITION, SOFTLY, SmallUNet, _Conv, working_factors
from diffrender.volume import Volume
from phantoms import oblique_lattice


class _FirstFour(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:4]


def test_the_working_lattice_has_much_the_same_size_and_cubic_voxels_whatever_the_volume():
    assert working_factors((122, 101, 112), (3.0, 3.0, 3.0)) == (3, 3, 3)
    assert working_factors((512, 512, 400), (0.7, 0.7, 0.8)) == (13, 13, 11)
    assert working_factors((60, 512, 512), (5.0, 0.7, 0.7)) == (2, 12, 12)
    assert working_factors((20, 30, 25), (0.01, 0.01, 0.01)) == (1, 1, 1)
    assert working_factors((5, 7, 9), (40.0, 0.5, 0.5)) == (1, 1, 1)


@pytest.mark.parametrize("left_handed", [False, True])
def test_working_voxels_lie_where_their_blocks_are(monkeypatch, left_handed: bool):
    # the features are the positions that the network is told; brought back to the volume they are each voxel's own
    monkeypatch.setattr(unet3d, "WORKING", 900)
    shape = (21, 26, 33)
    world = torch.from_numpy(oblique_lattice((2.1, 3.0, 4.2), left_handed=left_handed))
    volume = Volume(torch.zeros(shape), world)
    assert working_factors(volume.shape, volume.spacing) == (2, 3, 4)
    made = SmallUNet(RendererSettings(start="scratch", width=1 / 8))
    monkeypatch.setattr(made, "_unet", lambda x: x[:, 6:9])
    made.head = _FirstFour()
    found = made(volume)[0].values[1:4].movedim(0, -1) * (POSITION / SOFTLY)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)[..., ::-1].copy()
    expected = torch.from_numpy(index).double() @ world[:3, :3].T + world[:3, 3] - volume.centre
    inner = (slice(2, -2), slice(2, -2), slice(2, -2))  # beyond the outermost blocks' middles positions are held
    # [mm]; positions are kept in single precision
    assert (found - expected)[inner].abs().max() < 1e-3


def test_what_it_is_told_of_hu_lies_on_the_same_lattice(monkeypatch):
    monkeypatch.setattr(unet3d, "WORKING", 900)
    values = torch.zeros((21, 26, 33))
    values[8:12, 9:15, 12:24] = 2000.0  # whole blocks of 2 x 3 x 4... and nothing but them
    volume = Volume(values, torch.from_numpy(oblique_lattice((2.1, 3.0, 4.2))))
    made = SmallUNet(RendererSettings(start="scratch", width=1 / 8))
    seen = {}
    monkeypatch.setattr(made, "_unet", lambda x: seen.setdefault("x", x))
    made.head = _FirstFour()
    made(volume)
    bone = seen["x"][0, 0] > 1
    assert bone.sum() == 2 * 2 * 3
    assert bone[4:6, 3:5, 3:6].all()


def test_the_quick_convolution_is_a_convolution():
    layer = _Conv(3, 5, 3, padding=1)
    generator = torch.Generator().manual_seed(2)
    found = []
    x = torch.randn((1, 3, 6, 9, 4), generator=generator)
    assert x[..., 0].numel() <= FAST
    outside = torch.randn((1, 5, 6, 9, 4), generator=generator)
    for made in (layer, torch.nn.functional.conv3d):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        image = layer(leaf) if made is layer else made(leaf, layer.weight, layer.bias, padding=1)
        image.backward(outside)
        found.append((image.detach(), leaf.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    # the same sums in another order
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found, strict=True))


def test_only_what_the_transfer_function_shows_is_changed_and_what_lies_beside_it():
    values = torch.full((9, 12, 11), -1000.0)
    values[3, 7, 2:5] = 900.0
    volume = Volume(values, torch.from_numpy(oblique_lattice((2.1, 3.0, 4.2))))
    made = SmallUNet(RendererSettings(width=1 / 8))
    with torch.no_grad():
        made.head.last.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        (grid,) = made(volume)
    inside = torch.zeros(values.shape, dtype=torch.bool)
    inside[2:5, 6:9, 1:6] = True
    for channel, expected in enumerate((1.0, 2.0, 3.0)):
        assert torch.allclose(grid.values[1 + channel], inside * SOFTLY * expected)
    assert torch.allclose(grid.values[4], torch.where(inside, torch.tensor(4 * SOFTLY).exp(), 1.0))
    assert torch.equal(grid.values[0], values)
