"""A fit's steps in one thread of torch."""

from collections.abc import Generator
from typing import TypeVar

import torch

from diffrender.jobs import Progress

Result = TypeVar("Result")


def in_one_thread(steps: Generator[Progress, None, Result]) -> Generator[Progress, None, Result]:
    """The steps, each in one thread of torch: the arithmetic is small, two would wait for each other longer than they
    work, and sums would come out in another order."""
    while True:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        finally:
            torch.set_num_threads(threads)
        yield progress
