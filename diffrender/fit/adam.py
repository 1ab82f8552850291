"""Adam, for costs whose Gauss-Newton Hessian misleads; slower than Levenberg-Marquardt by a factor of five and more."""

from collections.abc import Generator

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.fit.levenberg import Evaluate, Solution, Step

RATE = 0.2  # of a step, in units of `spread`
MEMORY = (0.9, 0.99)  # of gradient and of its square


def descend(
    evaluate: Evaluate, x0: Float[Tensor, "n"], spread: Float[Tensor, "n"], steps: int, tolerance: float
) -> Generator[Step, None, Solution]:
    """Lower a cost along its gradient, in numbers made alike by `spread`, with a rate that falls to nothing.

    Args:
        evaluate, steps, tolerance: as in `levenberg.minimise`.
        spread: how far each number may be off.
    Source: Kingma & Ba (2015), with a linear decay.
    """
    x = best = x0.detach().to(torch.float64).clone()
    here = least = evaluate(x, True)
    first, second, history = torch.zeros_like(x), torch.zeros_like(x), [here.cost]
    quiet = 0
    for number in range(1, steps + 1):
        assert here.gradient is not None
        slope = here.gradient * spread
        first = MEMORY[0] * first + (1 - MEMORY[0]) * slope
        second = MEMORY[1] * second + (1 - MEMORY[1]) * slope.square()
        mean, size = first / (1 - MEMORY[0] ** number), (second / (1 - MEMORY[1] ** number)).sqrt()
        x = x - RATE * (1 - (number - 1) / steps) * spread * mean / size.clamp(min=1e-12)
        here = evaluate(x, True)
        accepted = here.cost < least.cost
        quiet = 0 if here.cost < least.cost - tolerance else quiet + 1
        if accepted:
            best, least = x, here
            history.append(here.cost)
        yield Step(number, best, least.cost, accepted, 0.0)
        if quiet >= 20:
            return Solution(best, least, "converged", tuple(history))
    return Solution(best, least, "step limit", tuple(history))
