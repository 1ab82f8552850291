"""Levenberg and Marquardt's method: Gauss-Newton steps, shortened until the cost falls."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FIRST_DAMPING = 1e-3
MOST_DAMPING = 1e9
EASIER, HARDER = 1 / 5, 4.0


@dataclass(frozen=True, eq=False)
class Normal:
    """A cost and, where it was asked for, its gradient and Gauss-Newton Hessian; half the cost is the -log likelihood,
    so the gradient is J^T r and the Hessian J^T J of cost |r|^2."""

    cost: float
    gradient: Float[Tensor, "n"] | None = None
    hessian: Float[Tensor, "n n"] | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One try: where the best so far is, and whether this try became it."""

    number: int
    x: Float[Tensor, "n"]
    cost: float
    accepted: bool
    damping: float


@dataclass(frozen=True, eq=False)
class Solution:
    """Where it ended. `outcome`: "converged", "step limit", or "diverged" where the cost is no number."""

    x: Float[Tensor, "n"]
    normal: Normal
    outcome: str
    history: tuple[float, ...]


Evaluate = Callable[[Float[Tensor, "n"], bool], Normal]


def minimise(
    evaluate: Evaluate, x0: Float[Tensor, "n"], steps: int, tolerance: float
) -> Generator[Step, None, Solution]:
    """Lower a sum of squares from `x0`.

    Args:
        evaluate: (x, whether derivatives are wanted) to the cost there.
        steps: most tries.
        tolerance: it has converged where a whole step would lower the cost by less than this.
    Yields: every try, so that the caller owns the clock; asking for no more leaves the last `Step.x` as the result.
    Source: Marquardt, J. SIAM 11 (1963) 431, doi:10.1137/0111030; the damping is scaled by the Hessian's diagonal.
    """
    x, damping = x0.detach().to(torch.float64).clone(), FIRST_DAMPING
    here = evaluate(x, True)
    history = [here.cost]
    outcome = "step limit" if _finite(here) else "diverged"
    for number in range(1, steps + 1):
        if outcome == "diverged":
            break
        assert here.gradient is not None
        assert here.hessian is not None
        move = damped_step(here.hessian, here.gradient, damping)
        expected = -float(move @ here.gradient)  # of the cost |r|^2, for an undamped step
        there = evaluate(x + move, True)
        accepted = _finite(there) and there.cost < here.cost
        gained = here.cost - there.cost
        if accepted:
            x, here = x + move, there
            history.append(here.cost)
            damping = max(damping * EASIER, 1e-9)
        yield Step(number, x, here.cost, accepted, damping)
        if expected < tolerance or (accepted and gained < tolerance and damping <= 1):
            outcome = "converged"
            break
        if not accepted:
            damping *= HARDER
            if damping > MOST_DAMPING:
                outcome = "converged"  # no step, however short, lowers the cost
                break
    return Solution(x, here, outcome, tuple(history))


def damped_step(hessian: Float[Tensor, "n n"], gradient: Float[Tensor, "n"], damping: float) -> Float[Tensor, "n"]:
    """-(H + damping diag(H))^-1 g; directions that the cost does not see stay where they are."""
    scale = hessian.diagonal().clamp(min=1e-12 * float(hessian.diagonal().amax().clamp(min=1e-300))).sqrt()
    matrix = hessian / scale[:, None] / scale + damping * torch.eye(len(gradient), dtype=hessian.dtype)
    return -torch.linalg.lstsq(matrix, (gradient / scale)[:, None], driver="gelsd").solution[:, 0] / scale


def _finite(normal: Normal) -> bool:
    return bool(torch.isfinite(torch.tensor(normal.cost)))
