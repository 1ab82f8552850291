import pytest
import torch

from diffrender.camera import c_arm
from diffrender.physics.detector import absorbed
from diffrender.physics.scatter import grid_transmission, kernels_of, scattered
from diffrender.physics.settings import Detector, Grid
from diffrender.physics.spectra import monochromatic, tube_spectrum

SEEN = absorbed(tube_spectrum(80.0, 3.0), Detector())


def ratio(thickness, field=(300.0, 300.0), gap=20.0, seen=SEEN, size=(48, 48)):
    """Scattered to primary signal in the middle behind a slab of water, and the whole picture of it."""
    camera = c_arm((0.0, 0.0, 0.0), pixel_size=(field[0] / size[0], field[1] / size[1]), image_size=size)
    primary = torch.full(size, 0.3, dtype=torch.float64)
    made = scattered(primary, torch.full(size, float(thickness), dtype=torch.float64), camera, kernels_of(seen, gap))
    return made[size[0] // 2, size[1] // 2].item() / 0.3, made / 0.3


def test_scatter_grows_with_thickness_and_field_and_falls_with_the_air_gap():
    thick = [ratio(t)[0] for t in (0, 50, 100, 200, 300)]
    assert thick[0] == 0
    assert thick == sorted(thick)
    wide = [ratio(200, (side, side))[0] for side in (50.0, 100.0, 200.0, 400.0)]
    assert wide == sorted(wide)
    gaps = [ratio(200, gap=gap)[0] for gap in (0, 40, 150, 300)]
    assert gaps == sorted(gaps, reverse=True)
    # 250 mm of water, a field of 300 mm: "SPR can reach 4.5" is what textbooks say of the abdomen
    assert 3.5 < ratio(250)[0] < 5.5


def test_a_wide_oblong_field_gets_what_the_kernels_hold():
    kernels = kernels_of(SEEN, 30.0)
    whole = kernels.of(torch.full((1, 1), 140.0, dtype=torch.float64)).sum().item()
    found, picture = ratio(140, (4000.0, 3000.0), gap=30.0, size=(40, 64))
    assert abs(found / whole - 1) < 1e-3
    # At an edge half of it is missing; the middle of the last pixel lies 23 mm further in.
    assert 0.5 < picture[20, 0].item() / whole < 0.75


def test_a_narrow_beam_keeps_its_scatter_where_it_is():
    camera = c_arm((0.0, 0.0, 0.0), pixel_size=(10.0, 8.0), image_size=(60, 50))
    primary = torch.zeros(60, 50, dtype=torch.float64)
    primary[20, 33] = 1.0
    made = scattered(primary, torch.full((60, 50), 200.0, dtype=torch.float64), camera, kernels_of(SEEN, 100.0))
    peak = divmod(made.argmax().item(), 50)
    assert peak == (20, 33)
    assert made.min() >= 0


def test_the_table_of_one_energy_is_met_at_its_nodes():
    kernels = kernels_of(monochromatic(60.0), 100.0)
    assert kernels.thicknesses.tolist()[:4] == [0, 10, 30, 60]
    at = kernels.of(torch.tensor([[100.0]], dtype=torch.float64)).sum().item()
    assert abs(at / 1.661 - 1) < 1e-3  # what the script that made the table prints for 60 keV, 100 mm, gap 100 mm
    between = kernels_of(monochromatic(65.0), 100.0).of(torch.tensor([[100.0]], dtype=torch.float64)).sum().item()
    after = kernels_of(monochromatic(70.0), 100.0).of(torch.tensor([[100.0]], dtype=torch.float64)).sum().item()
    assert min(at, after) <= between <= max(at, after)


def test_grids_pass_less_scatter_than_primary_and_less_with_their_ratio():
    shares = [grid_transmission(Grid(ratio), SEEN) for ratio in (5, 8, 10.5, 15)]
    assert all(scatter < 0.5 * primary for primary, scatter in shares)
    for n in (0, 1):
        assert [s[n] for s in shares] == sorted((s[n] for s in shares), reverse=True)
    assert grid_transmission(Grid(12, primary=0.6, scatter=0.1), SEEN) == (0.6, 0.1)


def test_scatter_is_differentiable_in_primary_and_thickness():
    camera = c_arm((0.0, 0.0, 0.0), pixel_size=(20.0, 25.0), image_size=(7, 6))
    generator = torch.Generator().manual_seed(3)
    primary = torch.rand(7, 6, generator=generator, dtype=torch.float64).requires_grad_()
    water = (15 + 200 * torch.rand(7, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    kernels = kernels_of(SEEN, 70.0)
    assert torch.autograd.gradcheck(lambda p, w: scattered(p, w, camera, kernels), (primary, water))


@pytest.mark.parametrize("gap", [0.0, 5000.0])
def test_gaps_beyond_the_table_take_its_last_value(gap):
    assert torch.isfinite(kernels_of(SEEN, gap).amplitudes).all()
    assert (kernels_of(SEEN, gap).amplitudes >= 0).all()
