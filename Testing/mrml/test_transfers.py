"""Volume properties in and out: what VTK would draw at each HU, and what cannot be carried is said."""

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.dvr.transfer import PRESETS, transfer_function
from diffrender.errors import Notice, SettingError

HU = np.linspace(-1200, 3200, 177)


def transfer():
    colours = [(-1000, 0.1, 0.2, 0.3), (75.5, 0.9, 0.25, 0.0), (400, 1.0, 1.0, 0.5)]
    return transfer_function(colours, [(-500, 0.0), (90, 0.125), (1500, 0.75)], 2.5, "mine")


def drawn_by_vtk(node) -> np.ndarray:
    """(red, green, blue, opacity) at HU."""
    drawn = node.GetVolumeProperty()
    opacity = drawn.GetScalarOpacity(0)
    return np.array([[*drawn.GetRGBTransferFunction(0).GetColor(x), opacity.GetValue(x)] for x in HU])


def cleared(node):
    """Its property without the points that a new one has."""
    drawn = node.GetVolumeProperty()
    drawn.GetRGBTransferFunction(0).RemoveAllPoints()
    drawn.GetScalarOpacity(0).RemoveAllPoints()
    return drawn


def ours(found) -> np.ndarray:
    """The same of our transfer function, by numpy."""
    colours, opacities = np.array(found.colours), np.array(found.opacities)
    columns = [np.interp(HU, colours[:, 0], colours[:, n]) for n in (1, 2, 3)]
    return np.stack([*columns, np.interp(HU, *opacities.T)], axis=1)


def test_there_and_back(scene):
    node = mrml.transfer_to_node(scene, transfer(), "mine")
    assert mrml.transfer_of(node) == transfer()
    np.testing.assert_allclose(drawn_by_vtk(node), ours(transfer()), atol=1e-9)
    drawn = node.GetVolumeProperty()
    assert drawn.GetScalarOpacityUnitDistance(0) == 2.5
    assert not drawn.GetShade()


def test_presets_go_out_and_a_node_is_filled_anew(scene):
    node = mrml.transfer_to_node(scene, transfer(), "mine")
    for preset in PRESETS.values():
        mrml.transfer_to_node(scene, preset, "", node)
        found = mrml.transfer_of(node)
        assert (found.colours, found.opacities) == (preset.colours, preset.opacities)


def test_bent_stretches_are_followed(slicer_):
    node = slicer_.add("VolumeProperty", "bent")
    drawn = cleared(node)
    drawn.GetRGBTransferFunction(0).AddRGBPoint(-1000, 0.1, 0.2, 0.3, 0.3, 0.4)
    drawn.GetRGBTransferFunction(0).AddRGBPoint(2000, 0.9, 0.25, 0.0)
    drawn.GetScalarOpacity(0).AddPoint(-1000, 0.0, 0.8, 0.3)
    drawn.GetScalarOpacity(0).AddPoint(2000, 0.5)
    # 64 points between two of a curve that rises by 0.8: straight pieces miss its steepest bends by a hundredth or two
    assert np.abs(ours(mrml.transfer_of(node)) - drawn_by_vtk(node)).max() < 0.02


def test_steps_stay_steps(slicer_):
    node = slicer_.add("VolumeProperty", "step")
    drawn = cleared(node)
    for function, values in ((drawn.GetRGBTransferFunction(0), None), (drawn.GetScalarOpacity(0), True)):
        for hu, level in ((-1000, 0.0), (100, 0.0), (100.0001, 0.5), (2000, 0.5)):
            function.AddPoint(hu, level) if values else function.AddRGBPoint(hu, level, level, level)
    np.testing.assert_allclose(ours(mrml.transfer_of(node)), drawn_by_vtk(node), atol=1e-6)


def test_shading_is_said_to_be_lost(scene):
    node = mrml.transfer_to_node(scene, transfer(), "mine")
    node.GetVolumeProperty().ShadeOn()
    with pytest.warns(Notice, match="'mine' asks for shading; we draw colour and opacity of HU alone"):
        mrml.transfer_of(node)


def test_too_few_points_are_refused(slicer_):
    node = slicer_.add("VolumeProperty", "empty")
    cleared(node).GetScalarOpacity(0).AddPoint(100, 0.5)
    with pytest.raises(SettingError, match="'empty' has 0 points of colour and 1 of opacity"):
        mrml.transfer_of(node)


def test_a_trained_table_goes_out_whole(scene):
    from diffrender.dvr.transfer import transfer_of_table

    entries = torch.rand(256, 4, generator=torch.Generator().manual_seed(5))
    table = transfer_of_table(entries, -1024.0, 3071.0, 1.5, "trained")
    assert mrml.transfer_of(mrml.transfer_to_node(scene, table, "trained")) == table
