"""Learned accumulation: alpha compositing to start with, in bands, with gradients as if nothing were recomputed."""

import dataclasses

import pytest
import torch

from diffrender.dvr import gru
from diffrender.dvr.gru import Gru
from diffrender.rays.field import Field, MarchSettings, Table
from diffrender.rays.march import march
from phantoms import oblique_camera, oblique_lattice, point_at

SHAPE = (7, 8, 9)
TWIN = MarchSettings(backend="torch", sampling_rate=1.3)
WORLD = oblique_lattice((3.1, 4.0, 5.3), left_handed=True)
EYE = oblique_camera(point_at(WORLD, SHAPE), image_size=(13, 10), field=(42.0, 50.0))


def field(dtype=torch.float64) -> Field:
    numbers = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(4), dtype=dtype)
    numbers[3] *= 0.05
    return Field(numbers, torch.from_numpy(WORLD))


def learned() -> Gru:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = Gru(3).double()
        torch.nn.init.normal_(made.last.weight, std=2.0)
    return made


def test_untrained_it_is_alpha_compositing():
    for weighted in (True, False):
        settings = dataclasses.replace(TWIN, weighted=weighted)
        image = Gru(3)((field(torch.float32),), EYE, settings, None)[0]
        # the same samples, summed in single precision
        assert (image - march(field(torch.float32), EYE, settings)).abs().max() < 1e-5
    assert 0.3 < image[3].max() < 0.999


def test_of_a_table_too():
    entries = torch.tensor([[0.1, 0.9, 0.4, 0.0], [0.8, 0.2, 0.6, 0.08]])
    numbers = Field(field(torch.float32).values[0], torch.from_numpy(WORLD), Table(entries, ((0.1, 0.9),)))
    image = Gru(3)((numbers,), EYE, TWIN, None)[0]
    assert (image - march(numbers, EYE, TWIN)).abs().max() < 1e-5


def test_what_it_says_stays_a_picture():
    image = learned()((field(),), EYE, TWIN, None)[0]
    assert (image - march(field(), EYE, TWIN)).abs().max() > 0.02
    assert (image[:3] <= image[3:] + 1e-12).all()
    assert image.min() >= 0
    assert image[3].max() <= 1


def test_bands_make_one_image(monkeypatch):
    whole = learned()((field(),), EYE, TWIN, None)[0]
    monkeypatch.setattr(gru, "AT_ONCE", 500)
    assert len(gru._bands(field(), EYE, TWIN)) > 4
    assert torch.allclose(learned()((field(),), EYE, TWIN, None)[0], whole, atol=1e-12)


def test_what_is_walked_again_is_what_was_walked(monkeypatch):
    monkeypatch.setattr(gru, "AT_ONCE", 2000)
    found = []
    for kept in (False, True):
        if kept:
            monkeypatch.setattr(gru, "again", lambda wanted, function, *args: function(*args))
        made, through = learned(), field()
        through.values.requires_grad_()
        image = made((through,), EYE, TWIN, torch.Generator().manual_seed(8))[0]
        (image**2).sum().backward()
        found.append([image, through.values.grad, *(p.grad for p in made.parameters())])
    # the same sums in double precision
    for again, once in zip(*found, strict=True):
        assert torch.allclose(again, once, rtol=1e-9, atol=1e-12)
        assert once.abs().max() > 0


def test_jitter_belongs_to_its_generator():
    def image(seed):
        jitter = None if seed is None else torch.Generator().manual_seed(seed)
        return learned()((field(),), EYE, TWIN, jitter)[0]

    assert torch.equal(image(3), image(3))
    assert not torch.equal(image(3), image(4))
    assert not torch.equal(image(3), image(None))


def test_gradients_are_those_of_finite_differences():
    made, through = learned(), field()
    weight = torch.randn((4, *EYE.image_size), generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def loss(values):
        return (made((Field(values, torch.from_numpy(WORLD)),), EYE, TWIN, None)[0] * weight).sum()

    values = through.values.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(values), values)
    way = torch.randn(values.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    way[3] *= 0.01
    with torch.no_grad():
        expected = (loss(values + 1e-4 * way) - loss(values - 1e-4 * way)) / 2e-4
    assert float((g * way).sum()) == pytest.approx(float(expected), rel=1e-5)
