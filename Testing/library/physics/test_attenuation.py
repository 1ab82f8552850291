"""HU to attenuation: numbers from other tables than ours, and what must be refused."""

import pytest
import torch

from diffrender.errors import SettingError
from diffrender.physics.attenuation import HU_AIR, hu_to_attenuation, linear_map, water_attenuation

# xraylib 4.3.0, CS_Total_CP("H2O", E) [cm2/g], at energies between the nodes of our table.
XRAYLIB = {12.0: 3.12584, 25.0: 0.50821, 35.0: 0.30748, 70.0: 0.19288, 120.0: 0.16138}


def test_water_agrees_with_xraylib_between_the_nodes_of_the_table():
    for energy, expected in XRAYLIB.items():
        # A cubic spline through ten nodes is at most 0.25 % off; straight lines would be 4 % off at 25 keV.
        assert water_attenuation(energy) == pytest.approx(expected / 10, rel=2.5e-3)


def test_water_meets_the_table_at_both_ends():
    assert water_attenuation(10.0) == pytest.approx(0.5329, rel=1e-9)
    assert water_attenuation(150) == pytest.approx(0.01505, rel=1e-9)


@pytest.mark.parametrize("energy", [9.99, 150.1, -70.0, float("nan"), float("inf")])
def test_energies_outside_the_table_are_refused(energy):
    with pytest.raises(SettingError, match=r"keV; attenuation is tabulated from 10 to 150 keV"):
        hu_to_attenuation(torch.zeros(2), energy)


def test_air_is_nothing_water_is_water_and_bone_twice_as_dense():
    hu = torch.tensor([-2048.0, -1000.0, -500.0, 0.0, 1000.0], dtype=torch.float64)
    water = 0.02059  # NIST at 60 keV [1/mm]
    expected = torch.tensor([0.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64) * water
    torch.testing.assert_close(hu_to_attenuation(hu, 60.0), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "result"), [(torch.int16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_the_type_of_floating_values_stays(dtype, result):
    assert hu_to_attenuation(torch.tensor([[-30, 400]], dtype=dtype)).dtype == result


def test_the_linear_map_is_the_same_above_air():
    scale, offset = linear_map(85.0)
    hu = torch.tensor([-999.0, -77.0, 31.0, 2900.0], dtype=torch.float64)
    torch.testing.assert_close(hu * scale + offset, hu_to_attenuation(hu, 85.0), rtol=1e-12, atol=1e-15)
    assert HU_AIR * scale + offset == pytest.approx(0, abs=1e-12)


def test_gradients_flow_where_there_is_matter():
    hu = torch.tensor([-1200.0, -400.0, 60.0], dtype=torch.float64, requires_grad=True)
    hu_to_attenuation(hu, 100.0).sum().backward()
    assert hu.grad is not None
    torch.testing.assert_close(hu.grad, torch.tensor([0.0, 1.707e-5, 1.707e-5], dtype=torch.float64))
