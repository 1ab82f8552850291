"""Levenberg and Marquardt's method and Adam, on functions whose lowest place is known."""

import math

import pytest
import torch

from diffrender.fit.adam import descend
from diffrender.fit.levenberg import Normal, minimise


def ended(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def rosenbrock(x, wanted):
    """Its valley is bent: no straight step leads to (1, 1). -> |r|^2 with r = (10 (y - x^2), 1 - x)."""
    r = torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
    j = torch.tensor([[-20 * float(x[0]), 10.0], [-1.0, 0.0]], dtype=torch.float64)
    return Normal(float(r @ r), j.T @ r, j.T @ j)


START = torch.tensor([-1.2, 1.0], dtype=torch.float64)


def test_the_end_of_a_bent_valley_is_found():
    solution = ended(minimise(rosenbrock, START, 100, 1e-12))
    assert solution.outcome == "converged"
    assert torch.allclose(solution.x, torch.ones(2, dtype=torch.float64), atol=1e-5)
    assert list(solution.history) == sorted(solution.history, reverse=True)


def test_a_linear_problem_takes_a_few_steps():
    j = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)

    def line(x, wanted):
        r = j @ x - b
        return Normal(float(r @ r), j.T @ r, j.T @ j)

    solution = ended(minimise(line, torch.zeros(2, dtype=torch.float64), 20, 1e-10))
    assert len(solution.history) < 8
    assert torch.allclose(solution.x, torch.linalg.lstsq(j, b).solution, atol=1e-5)


def test_too_few_steps_are_said():
    assert ended(minimise(rosenbrock, START, 3, 1e-12)).outcome == "step limit"


def test_a_cost_that_is_no_number_is_said():
    solution = ended(minimise(lambda x, wanted: Normal(math.nan, x, torch.eye(2)), START, 10, 1e-3))
    assert solution.outcome == "diverged"


def test_numbers_that_the_cost_does_not_see_stay():
    def blind(x, wanted):
        r = x[:1] - 3
        j = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        return Normal(float(r @ r), j.T @ r, j.T @ j)

    solution = ended(minimise(blind, torch.tensor([0.0, 7.0], dtype=torch.float64), 20, 1e-9))
    assert solution.x.tolist() == pytest.approx([3.0, 7.0], abs=1e-3)


def test_adam_comes_near_too():
    solution = ended(descend(rosenbrock, START, torch.full((2,), 0.5, dtype=torch.float64), 400, 1e-9))
    assert solution.normal.cost < 0.5  # from 24.2, in the valley; along it Adam is slow
