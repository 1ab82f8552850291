"""How materials attenuate: NIST's printed numbers, edges, mixtures, and what must be refused."""

import pytest
import torch

from diffrender.errors import SettingError
from diffrender.physics.materials import MATERIALS, Material, energy_absorption, mass_attenuation

# NISTIR 5632, tables 3 and 4: (material, keV) -> mu/rho [cm2/g].
ATTENUATION = {
    ("water", 10): 5.329,
    ("water", 20): 0.8096,
    ("water", 150): 0.1505,
    ("aluminium", 60): 0.2778,
    ("adipose", 60): 0.1974,
    ("soft-tissue", 60): 0.2048,
    ("cortical-bone", 60): 0.3148,
    ("iodine", 60): 7.579,
    ("titanium", 60): 0.7661,
    ("lead", 100): 5.549,
}
ABSORPTION = {("air", 20): 0.5389, ("air", 60): 0.03041, ("air", 100): 0.02325, ("water", 30): 0.1557}


@pytest.mark.parametrize(("material", "energy"), ATTENUATION)
def test_mass_attenuation_is_what_nist_prints(material, energy):
    # xraylib and NIST are 0.04 % apart, and NIST prints four digits (0.05 % for 0.1974).
    assert mass_attenuation(material, energy).item() == pytest.approx(ATTENUATION[material, energy], rel=1e-3)


@pytest.mark.parametrize(("material", "energy"), ABSORPTION)
def test_energy_absorption_is_what_nist_prints(material, energy):
    # Worked out from cross sections; 0.2 % off at most for light elements. xraylib's own table is 6 to 35 % off here.
    assert energy_absorption(material, energy).item() == pytest.approx(ABSORPTION[material, energy], rel=2.5e-3)


def test_between_the_rows_of_the_table_the_curve_goes_on():
    # xraylib 4.3.0, CS_Total_CP("H2O", E), at energies that are no rows of the table.
    for energy, expected in {12.34: 2.884581, 33.3: 0.32627, 47.77: 0.233675, 101.01: 0.170216}.items():
        assert mass_attenuation("water", energy).item() == pytest.approx(expected, rel=6e-4)


def test_iodine_is_opaque_above_its_edge_alone():
    below, above = mass_attenuation("iodine", [33.0, 33.3]).tolist()
    assert above / below == pytest.approx(5.35, rel=0.03)  # 6.55 to 35.8 at the edge itself, 33.17 keV
    assert mass_attenuation("csi", 33.3) > 2 * mass_attenuation("csi", 33.0)


def test_a_mixture_is_the_mean_of_its_elements_by_mass():
    energies = torch.tensor([17.0, 61.5, 140.0], dtype=torch.float64)
    hydrogen, oxygen = (mass_attenuation(Material(e, 1.0, {e: 1.0}, ""), energies) for e in "HO")
    mixed = 2 * 1.008 / 18.015 * hydrogen + 15.999 / 18.015 * oxygen
    torch.testing.assert_close(mass_attenuation("water", energies), mixed, rtol=2e-5, atol=0)


def test_every_material_is_whole_and_says_where_it_is_from():
    for material in MATERIALS.values():
        assert sum(material.composition.values()) == pytest.approx(1, abs=1e-12)
        assert material.density > 0
        assert len(material.source) > 5
        attenuation, absorption = (f(material, [10.0, 150.0]) for f in (mass_attenuation, energy_absorption))
        assert (attenuation > absorption).all()
        assert (absorption > 0).all()


def test_what_is_not_tabulated_is_refused():
    with pytest.raises(SettingError, match=r"no material 'bone'; there are air, .*cortical-bone"):
        mass_attenuation("bone", 60.0)
    for energy in (9.99, 150.01, float("nan")):
        with pytest.raises(SettingError, match="tabulated from 10 to 150 keV"):
            energy_absorption("water", [60.0, energy])
    with pytest.raises(SettingError, match="gold holds Au; the tables have H, C"):
        mass_attenuation(Material("gold", 19.3, {"Au": 1.0}, ""), 60.0)
