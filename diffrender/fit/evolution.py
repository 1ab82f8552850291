"""CMA-ES, for starts from which no slope leads to the goal. Needs the package `cma` (BSD licence)."""

from collections.abc import Callable, Generator

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import BackendError
from diffrender.fit.levenberg import Normal, Solution, Step

STARTED = 0.5  # first standard deviation of the samples, in units of `spread`
STILL = 1e-2  # samples closer together than this, in units of `spread`, are where slopes lead on


def minimise_widely(
    cost: Callable[[Float[Tensor, "n"]], float],
    x0: Float[Tensor, "n"],
    spread: Float[Tensor, "n"],
    evaluations: int = 1500,
    seed: int = 0,
) -> Generator[Step, None, Solution]:
    """Lower a cost by sampling around the best places so far.

    Args:
        cost: the value at a place; needs no slope.
        x0: where to begin.
        spread: how far each number may be off, about two standard deviations.
        evaluations: most calls of `cost`.
        seed: of the samples.
    Yields: a `Step` per generation.
    Raises: BackendError where `cma` is not installed.
    Source: Hansen & Ostermeier, Evol. Comput. 9 (2001) 159, doi:10.1162/106365601750190398.
    """
    strategy = _library().CMAEvolutionStrategy(
        [0.0] * len(x0),
        STARTED,
        # cma takes seed 0 as "any", and the clock is no seed
        {"seed": seed + 1, "maxfevals": evaluations, "tolx": STILL, "verbose": -9, "verb_log": 0},
    )
    best, history, number = (x0.to(torch.float64).clone(), cost(x0)), [], 0
    history.append(best[1])
    while not strategy.stop():
        samples = strategy.ask()
        places = [x0 + spread * torch.as_tensor(sample, dtype=torch.float64) for sample in samples]
        costs = [cost(place) for place in places]
        strategy.tell(samples, costs)
        number += 1
        first = min(range(len(costs)), key=costs.__getitem__)
        accepted = costs[first] < best[1]
        if accepted:
            best = (places[first], costs[first])
            history.append(best[1])
        yield Step(number, best[0], best[1], accepted, float(strategy.sigma))
    outcome = "step limit" if "maxfevals" in (strategy.stop() or {}) else "converged"
    return Solution(best[0], Normal(best[1]), outcome, tuple(history))


def _library():
    try:
        import cma
    except ImportError:
        raise BackendError(
            "A wide search by evolution needs the package cma, which is not installed. Type `pip install cma`, or take "
            "the optimiser levenberg with several starts."
        ) from None
    return cma
