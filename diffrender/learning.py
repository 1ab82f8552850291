"""What every training needs: draws that follow from a seed, sums in a fixed order, and memory that is full."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffrender.io.files import available_memory

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def drawn(seed: int, *what: int | str) -> torch.Generator:
    """A generator for one purpose of one step: so a resume needs no random state, and no draw disturbs another."""
    digest = hashlib.sha256("/".join(map(str, (seed, *what))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@contextmanager
def seeded(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Layers that draw for themselves, as dropout does, draw by the step's number; torch's state stays as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        start = drawn(seed, "layers", number).initial_seed()
        torch.default_generator.manual_seed(start)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(start)
        yield


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """On a CPU sums have a fixed order: scattering into a table is a race between threads otherwise."""
    if device.type != "cpu":
        yield
        return
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and changes nothing that is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def free_memory(device: torch.device) -> float:
    """That can still be taken [bytes]."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether this is torch's, or Python's, way of saying that memory is full."""
    return isinstance(problem, MemoryError) or any(words in str(problem).lower() for words in OUT_OF_MEMORY)


def gigabytes(size: float) -> str:
    """For people."""
    return f"{size / 2**30:.2g} GiB" if size < 10 * 2**30 else f"{size / 2**30:.0f} GiB"
