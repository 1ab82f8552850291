"""Drawings: features computed once, previews, and renderers left as they were."""

import pytest
import torch
from torch import nn

import phantoms
from diffrender.dvr.draw import Drawing
from diffrender.dvr.renderer import Grid, RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.transfer import TransferFunction
from diffrender.rays.field import MarchSettings
from diffrender.views import eye
from diffrender.volume import Volume

LOOK = TransferFunction(((-1000.0, 0.2, 0.3, 0.5), (500.0, 1.0, 0.8, 0.6)), ((-600.0, 0.0), (400.0, 0.3)))
LATTICE = phantoms.oblique_lattice(spacing=(1.3, 1.9, 2.7), left_handed=True)
SHAPE = (20, 24, 28)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.times = 0

    def forward(self, volume):
        self.times += 1
        assert not self.training
        assert not torch.is_grad_enabled()
        return (Grid(volume.values[None], volume.world_from_voxel),)


@pytest.fixture
def drawing() -> Drawing:
    drawn = phantoms.drawn(phantoms.ellipsoid(phantoms.point_at(LATTICE, SHAPE)), LATTICE, SHAPE)
    made = renderer("lookup", RendererSettings(transfer=LOOK))
    made.encoder = Counting()
    return Drawing(made, Volume(drawn.values * 1300 - 1000, drawn.world_from_voxel))


def test_features_are_computed_once_until_the_weights_change(drawing):
    camera = eye(drawing.volume, (0.3, 0.8, 0.2), (40, 52))
    before = drawing.image(camera)
    assert torch.equal(before, drawing.image(eye(drawing.volume, (0.3, 0.8, 0.2), (40, 52))))
    drawing.image(eye(drawing.volume, (1.0, 0.0, 0.0), (40, 52)))
    assert drawing.renderer.encoder.times == 1
    opacity = drawing.renderer.opacity
    opacity.set(opacity(())[0].entries.detach() * 0.05)
    drawing.refresh()
    after = drawing.image(camera)
    assert drawing.renderer.encoder.times == 2
    assert after[3].sum() < 0.5 * before[3].sum()
    drawing.release()
    assert torch.equal(drawing.image(camera), after)


def test_pictures_are_the_renderers_own_and_without_gradient(drawing):
    camera = eye(drawing.volume, (0.3, 0.8, 0.2), (40, 52))
    drawing.renderer.train()
    drawing.renderer.decoder.eval()
    image = drawing.image(camera)
    assert not image.requires_grad
    assert drawing.renderer.encoder.training
    assert not drawing.renderer.decoder.training
    drawing.renderer.eval()
    with torch.no_grad():
        assert torch.equal(image, drawing.renderer(drawing.volume, camera))


def test_the_march_is_as_asked(drawing):
    camera, finely = eye(drawing.volume, (0.3, 0.8, 0.2), (40, 52)), MarchSettings(sampling_rate=3.0)
    fine = Drawing(drawing.renderer, drawing.volume, finely).image(camera)
    assert (fine - drawing.image(camera)).abs().max() > 0.005
    drawing.renderer.eval()
    with torch.no_grad():
        assert torch.equal(fine, drawing.renderer.show(drawing.fields, camera, finely))


def test_a_preview_is_the_picture_coarsely_in_its_place(drawing):
    camera = eye(drawing.volume, (0.3, 0.8, 0.2), (80, 104))
    coarse, fine = drawing.frames(camera)
    assert coarse.shape == fine.shape == (4, 80, 104)
    rows = torch.arange(80.0)[:, None] + 0.5
    columns = torch.arange(104.0) + 0.5
    for where in (rows, columns):
        # the middle of what is opaque: half a coarse pixel would be 2
        places = [float((image[3] * where).sum() / image[3].sum()) for image in (coarse, fine)]
        assert abs(places[0] - places[1]) < 0.5
    assert (coarse - fine).abs().mean() < 0.1 * fine.abs().mean()


def test_a_picture_may_be_larger_than_those_trained_with(drawing):
    small, large = (eye(drawing.volume, (0.3, 0.8, 0.2), (n, n)) for n in (20, 60))
    shrunk = torch.nn.functional.avg_pool2d(drawing.image(large)[None], 3)[0]
    # one ray against the mean of nine: they differ at the ellipsoid's rim
    assert (shrunk - drawing.image(small)).abs().mean() < 0.02
