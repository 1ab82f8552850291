"""The normal distribution that is stated, where the images' cost is a bowl and where it is a narrow pit in a plain."""

import pytest
import torch

from diffrender.fit.certainty import _covariance
from diffrender.fit.problem import Problem

IMAGES = torch.diag(torch.tensor([400.0, 25.0, 4.0], dtype=torch.float64))
PRIOR = torch.eye(3, dtype=torch.float64)


class Pit(Problem):
    """A problem whose images' cost is |x|^2 in their Hessian, up to a height."""

    def __init__(self, height: float):
        for name, value in (
            ("precision", PRIOR),
            ("free", torch.ones(3, dtype=torch.bool)),
            ("held", torch.zeros(3, dtype=torch.float64)),
            ("height", height),
        ):
            object.__setattr__(self, name, value)

    def image_cost(self, x):
        rise = float(x @ IMAGES @ x)
        return [self.height * (1 - 2.718281828 ** (-rise / self.height))]  # pyright: ignore[reportAttributeAccessIssue]


def stated(height: float) -> torch.Tensor:
    return _covariance(Pit(height), torch.zeros(3, dtype=torch.float64), PRIOR + IMAGES)


def test_in_a_bowl_it_is_the_inverse_of_the_hessian():
    assert torch.allclose(stated(1e9), torch.linalg.inv(PRIOR + IMAGES), rtol=1e-4)


def test_in_a_narrow_pit_it_is_wider_and_never_wider_than_the_prior():
    bowl, pit, scratch = (stated(height).diagonal() for height in (1e9, 2.0, 0.05))
    assert (pit > 1.3 * bowl)[:2].all()
    assert (scratch > pit).all()
    assert (scratch <= 1.0).all()


def test_the_share_is_where_the_rise_that_is_drawn_is_the_rise_that_is_claimed():
    height = 2.0
    covariance = stated(height)
    share = float((torch.linalg.inv(covariance) - PRIOR)[0, 0] / IMAGES[0, 0])
    steps = torch.randn(4000, 3, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    claimed = torch.einsum("nk,kl,nl->n", steps, IMAGES, steps)
    rise = height * (1 - torch.exp(-claimed / height))
    # eight pairs of draws in three dimensions, and three rounds: a third off at most
    assert share == pytest.approx(float(rise.mean() / claimed.mean()), rel=0.35)
