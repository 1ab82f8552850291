"""The table of renderers: names, seeds, and counts that take no memory."""

import pytest
import torch

import diffrender as dr
from diffrender.dvr.renderer import SLOTS, Renderer, RendererSettings
from diffrender.dvr.renderers import RENDERERS, count_parameters, recipe
from diffrender.errors import SettingError

NAMES = ["lookup", "lookup2d", "mlp", "clusters", "vnet4-4", "vnetl16-4", "vnetl16-17", "dvrnet", "rendernet"]
NAMES += ["hybrid", "vnet-unet", "unet-s"]


def test_the_table_is_complete_and_says_what_each_is():
    assert list(RENDERERS) == NAMES
    for name, one in RENDERERS.items():
        assert recipe(name) is one
        assert one.what.endswith(".")
        assert one.bakes in ("table", "voxels", None)
        assert one.rate > 0
        assert one.batch >= 1


@pytest.mark.parametrize("name", NAMES)
def test_each_is_made_with_its_slots(name):
    made = dr.renderer(name, RendererSettings(width=1 / 16, bins2=4, clusters=7))
    assert isinstance(made, Renderer)
    assert made.name == name
    assert all(isinstance(made.slot(slot), torch.nn.Module) for slot in SLOTS)
    with pytest.raises(SettingError, match="encoder, colour"):
        made.slot("hue")


@pytest.mark.parametrize("name", ["lookup", "mlp", "hybrid", "unet-s"])
def test_seeds_decide_and_torchs_own_state_stays(name):
    def weights(seed):
        made = dr.renderer(name, RendererSettings(start="scratch", seed=seed, width=0.25))
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    before = torch.random.get_rng_state()
    first = weights(3)
    assert bool((torch.random.get_rng_state() == before).all())
    torch.rand(5)
    assert bool((weights(3) == first).all())
    assert not bool((weights(4) == first).all())


def test_counts_are_those_of_the_papers_tables():
    assert count_parameters("lookup") == 1024
    assert count_parameters("mlp") == 28 * 2 + 28 * 29 + 4 * 29 == 984
    assert count_parameters("lookup2d", RendererSettings(bins=10, bins2=7)) == 280
    made = dr.renderer("hybrid", RendererSettings(width=0.5))
    assert count_parameters("hybrid", RendererSettings(width=0.5)) == sum(p.numel() for p in made.parameters())
    # weights stand in a model file once
    assert len({v.data_ptr() for v in made.state_dict().values()}) == len(made.state_dict())


def test_an_unknown_name_lists_the_names():
    for ask in (dr.renderer, count_parameters):
        with pytest.raises(SettingError, match=r"lookup, lookup2d, .*unet-s"):
            ask("unet")
