"""How good a model is said to be, of models whose quality is known."""

from dataclasses import replace

import numpy as np
import pytest
import surfaces
import torch

import phantoms
from diffrender.fit.building import PLAIN, model_of
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.quality import compactness, generalisation, sample, specificity
from diffrender.fit.training import prepare
from diffrender.mesh import Mesh

MESH = surfaces.of_ellipsoid(
    phantoms.Ellipsoid(np.array([12.0, -7.0, 30.0]), (40.0, 28.0, 33.0), phantoms.rotation(31, -14, 52)), 2
)
WAY = torch.sin(MESH.vertices * 0.1)


@pytest.fixture(scope="module")
def training():
    random = np.random.default_rng(3)
    return prepare([Mesh(MESH.vertices + 4 * random.standard_normal() * WAY, MESH.faces) for _ in range(12)])


def test_compactness_counts_what_no_mode_explains():
    model = default_pelvis()
    shares = compactness(model)
    variances = model.modes.double().square().sum((1, 2))
    rest = 3 * model.unexplained.double().square().sum()
    assert shares[-1] == pytest.approx(float(variances.sum() / (variances.sum() + rest)))
    assert (shares.diff() > 0).all()
    assert compactness(replace(model, unexplained=0 * model.unexplained))[-1] == pytest.approx(1.0)


def test_one_way_to_differ_needs_one_mode(training):
    found = list(generalisation(training, PLAIN, (0, 1), subjects=[0, 5]))
    assert [(one.subject, one.modes) for one in found] == [(0, 0), (0, 1), (5, 0), (5, 1)]
    for none, one in (found[:2], found[2:]):
        assert none.point > 4 * one.point  # what is left bends with the turns that rigid fits of the shapes make
        assert none.hausdorff >= none.hausdorff95 > one.hausdorff95
        assert np.isnan(one.landmark)


def test_subjects_leave_together(training):
    alone = next(generalisation(training, PLAIN, (0,), subjects=[3]))
    both = next(generalisation(training, PLAIN, (0,), subjects=[3], together=[[3, 4, 7]]))
    without = prepare([Mesh(torch.from_numpy(training.shapes[n]), MESH.faces) for n in range(12) if n not in (4, 7)])
    assert both.point == pytest.approx(next(generalisation(without, PLAIN, (0,), subjects=[3])).point, rel=1e-3)
    assert abs(both.point - alone.point) > 1e-3


def test_samples_have_the_models_mean_and_spread():
    model = default_pelvis()
    drawn = sample(model, torch.Generator().manual_seed(2), 600)
    # Of 600: a twentieth of a standard deviation, here up to 10 mm.
    assert (drawn.mean(0) - model.mean).norm(dim=1).max() < 2.5
    expected = model.modes.square().sum(0).sqrt()
    assert ((drawn.std(0) - expected).abs() < 0.15 * expected + 0.1).all()
    again = sample(model, torch.Generator().manual_seed(2), 600)
    assert torch.equal(drawn, again)


def test_random_instances_of_few_subjects_lie_between_them(training):
    model = model_of(training, PLAIN)
    near = specificity(model, training, torch.Generator().manual_seed(1), 30)
    # Twelve subjects along one line of 4 mm deviation: a new one is a fraction of that from the next.
    assert 0.1 < near < 2.0
    wide = replace(model, modes=model.modes * 4)
    assert specificity(wide, training, torch.Generator().manual_seed(1), 30) > 2 * near
