"""HU to materials: the HU come back, each tissue is what it is called, and iodine lies in labelled organs alone."""

import pytest
import torch

from diffrender.errors import SettingError
from diffrender.physics.decompose import Decomposition, contrast_of, decompose
from diffrender.physics.materials import mass_attenuation
from diffrender.volume import Volume

HU = torch.arange(-1000, 9000, 7, dtype=torch.float64)


def attenuation(densities: dict[str, torch.Tensor], energy: float) -> torch.Tensor:
    """[1/cm]"""
    return torch.stack([d * mass_attenuation(name, energy).item() for name, d in densities.items()]).sum(0)


def at(hu: float, contrast: bool = False) -> dict[str, float]:
    densities = decompose(torch.tensor([hu], dtype=torch.float64), None, torch.tensor([contrast]))
    return {name: round(d.item(), 4) for name, d in densities.items()}


@pytest.mark.parametrize("energy", [60.0, 70.0, 83.0])
@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("metal", ["titanium", "steel"])
def test_attenuation_at_the_cts_energy_gives_the_hu_back(energy, contrast, metal):
    settings = Decomposition(energy=energy, metal_kind=metal)
    densities = decompose(HU, settings, torch.full(HU.shape, contrast))
    water = mass_attenuation("water", energy).item()
    back = 1000 * (attenuation(densities, energy) / water - 1)
    assert (back - HU).abs().max() < 1e-8  # HU; by construction, so float64's rounding alone


def test_each_tissue_is_what_it_is_called():
    assert set(at(-800)) == {"lung"}
    assert at(-800)["lung"] == pytest.approx(0.201, abs=1e-3)  # water has 0.2; lung tissue attenuates 0.5 % less
    assert set(at(-100)) == {"adipose"}
    assert at(-100)["adipose"] == pytest.approx(0.92, abs=0.01)
    assert set(at(60)) == {"soft-tissue"}
    assert at(60)["soft-tissue"] == pytest.approx(1.06, abs=0.01)
    assert set(at(10)) == {"adipose", "soft-tissue"}
    assert set(at(700)) == {"soft-tissue", "cortical-bone"}
    # 1.33 g/cm3: ICRU Report 46 has 1.33 for vertebrae and 1.46 for the femur, with HU of 400 to 700 for such bone
    assert sum(at(600).values()) == pytest.approx(1.36, abs=0.03)
    assert set(at(2000)) == {"cortical-bone"}
    assert set(at(2800)) == {"cortical-bone", "titanium"}
    assert set(at(3071)) == {"titanium"}


def test_metal_of_a_ct_that_ends_at_3071_can_be_given_its_full_density():
    hu = torch.tensor([2900.0, 3000.0, 3050.0, 3071.0, 9000.0], dtype=torch.float64)
    measured, full = (decompose(hu, Decomposition(full_metal=value))["titanium"] for value in (None, 3050.0))
    assert full[2:].tolist() == [4.54] * 3
    assert torch.equal(full[:2], measured[:2])
    assert measured[3].item() == pytest.approx(1.46, abs=0.02)  # 4.07 x 0.1929 cm2/g over 0.537 cm2/g


def test_air_is_nothing_and_still_an_image():
    below = decompose(torch.tensor([-2048, -1000], dtype=torch.int16))
    assert {name: d.tolist() for name, d in below.items()} == {"soft-tissue": [0.0, 0.0]}


def test_iodine_is_found_in_organs_with_contrast_medium_alone():
    assert "iodine" not in at(300)
    assert set(at(300, contrast=True)) == {"blood", "iodine"}
    # 1 mg/ml is 5.02 cm2/g over 0.1929 cm2/g, 26.0 HU at 70 keV; blood has 56 HU
    assert at(300, contrast=True)["iodine"] * 1000 == pytest.approx((300 - 56) / 26.0, rel=0.02)
    assert set(at(80, contrast=True)) == {"blood"}
    assert at(-100, contrast=True) == at(-100)  # fat around a vessel
    assert set(at(3500, contrast=True)) == {"titanium"}  # a pacemaker's lead


def test_what_nowhere_occurs_is_left_out_and_masks_are_voxel_by_voxel():
    hu = torch.tensor([[60, 300], [300, -800]], dtype=torch.int16)
    found = decompose(hu, None, torch.tensor([[False, True], [False, False]]))
    assert set(found) == {"soft-tissue", "blood", "iodine", "cortical-bone", "lung"}
    assert (found["iodine"] > 0).tolist() == [[False, True], [False, False]]
    assert (found["cortical-bone"] > 0).tolist() == [[False, False], [True, False]]
    assert found["lung"].dtype == torch.float32


def test_densities_are_continuous_never_negative_and_differentiable():
    for contrast in (False, True):
        mask = torch.full((), contrast).expand(40_001)
        fine = torch.linspace(-1100, 4900, 40_001, dtype=torch.float64)
        for density in decompose(fine, None, mask).values():
            assert density.min() >= 0
            assert density.diff().abs().max() < 3e-3  # 0.15 HU at most 0.01 g/cm3 per HU; a jump would be 0.1 or more
        hu = (HU[::50] + 0.3).requires_grad_()  # no rung within the step
        other = attenuation(decompose(hu, None, mask[: len(hu)]), 40.0)
        (gradient,) = torch.autograd.grad(other.sum(), hu)
        low, high = (attenuation(decompose(hu.detach() + h, None, mask[: len(hu)]), 40.0) for h in (-1e-3, 1e-3))
        torch.testing.assert_close(gradient, (high - low) / 2e-3, rtol=1e-6, atol=1e-9)
        assert (gradient > 0).all()  # more HU is never less matter, at another energy neither
    below = torch.tensor([-1200.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(decompose(below)["soft-tissue"].sum(), below)
    assert gradient.item() == 0


def test_organs_are_chosen_by_name():
    labels = torch.zeros(2, 3, 4, dtype=torch.uint8)
    labels[0, 1], labels[1, 2], labels[1, 0, 0] = 7, 9, 4
    names = {4: "Pulmonary Vein", 7: "rib_left_4", 9: "Aorta"}
    volume = Volume(torch.zeros(2, 3, 4), torch.eye(4), labels, names)
    assert torch.equal(contrast_of(volume), (labels == 9) | (labels == 4))
    layers = torch.stack([labels == n for n in names])
    assert torch.equal(contrast_of(Volume(torch.zeros(2, 3, 4), torch.eye(4), layers, names)), contrast_of(volume))
    assert contrast_of(volume, Decomposition(contrast_labels=())) is None
    assert contrast_of(Volume(torch.zeros(2, 3, 4), torch.eye(4), labels, {7: "rib_left_4"})) is None
    assert contrast_of(Volume(torch.zeros(2, 3, 4), torch.eye(4))) is None


@pytest.mark.parametrize(
    "settings",
    [
        Decomposition(lung=-100.0),
        Decomposition(fat=-50.0),
        Decomposition(bone=40.0),
        Decomposition(contrast=20.0),
        Decomposition(metal=(1200.0, 3000.0)),
        Decomposition(metal=(3000.0, 2500.0)),
        Decomposition(full_metal=2900.0),
        Decomposition(bone=float("nan")),
    ],
)
def test_rungs_that_do_not_rise_are_refused(settings):
    with pytest.raises(SettingError, match=r"rungs of a decomposition must rise, and these are -1000, "):
        decompose(torch.zeros(3), settings)


def test_an_unknown_metal_or_energy_is_refused():
    with pytest.raises(SettingError, match="no material 'gold'"):
        decompose(torch.zeros(3), Decomposition(metal_kind="gold"))
    with pytest.raises(SettingError, match="tabulated from 10"):
        decompose(torch.zeros(3), Decomposition(energy=511.0))


def test_lists_are_taken_for_tuples_and_one_pattern_is_refused():
    settings = Decomposition(metal=[2400, 3100], contrast_labels=["aorta"])
    assert settings == Decomposition(metal=(2400, 3100), contrast_labels=("aorta",))
    assert set(decompose(torch.tensor([3200.0]), settings)) == {"titanium"}
    with pytest.raises(SettingError, match=r"patterns, such as \('aorta',\), not one string"):
        Decomposition(contrast_labels="aorta")
    with pytest.raises(SettingError, match="metal is two HU"):
        Decomposition(metal=(2500.0,))


def test_half_precision_is_worked_out_in_single():
    half = decompose(torch.tensor([-800.0, 60.0, 3071.0], dtype=torch.float16))
    assert {d.dtype for d in half.values()} == {torch.float32}
    assert half["titanium"][2].item() == pytest.approx(1.46, abs=0.02)
