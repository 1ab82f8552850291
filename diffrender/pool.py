"""Pieces of work in processes of this machine: one that is lost has its piece done by another."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from diffrender.errors import DiffRenderError, notify

LOSSES = 3  # of one piece, after which it is the piece that ends its processes
AHEAD = 2  # pieces handed out for each process, so that none waits

Piece = TypeVar("Piece")
Done = TypeVar("Done")


def in_pool(
    work: Callable[[Piece], Done], pieces: Sequence[Piece], workers: int
) -> Generator[tuple[Piece, Done], None, None]:
    """Each piece with what `work` made of it, as they end.

    Args:
        work: a function of a module; it and the pieces are pickled. Its error ends all of it.
        workers: processes, each with one thread of torch. In a script of your own the call stands below
            `if __name__ == "__main__":`, as for any process pool of Python.
    Closing the generator waits for the pieces in hand alone. Processes end with this one, however it ends.
    Raises: DiffRenderError where a piece has ended `LOSSES` processes.
    """
    waiting, lost = list(reversed(pieces)), [0] * len(pieces)
    number = {id(piece): n for n, piece in enumerate(pieces)}
    while waiting:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin_worker)
        running: dict[Future[Done], Piece] = {}
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * workers:
                    piece = waiting.pop()
                    running[pool.submit(work, piece)] = piece
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    done = future.result()
                    yield running.pop(future), done
        except BrokenProcessPool:
            # Which of the processes ended is not told: every piece in hand is under suspicion, and is done again.
            for piece in running.values():
                lost[number[id(piece)]] += 1
                waiting.append(piece)
            if max(lost) >= LOSSES:
                raise DiffRenderError(
                    f"A process has ended {LOSSES} times at the same piece of work, without a word: as a rule the "
                    "system ends one that takes too much memory. Take fewer workers, smaller images or a smaller CT."
                ) from None
            notify("A process has ended unexpectedly. What it had in hand is done again by another.")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def begin_worker() -> None:
    """A process of the pool: one thread of torch, and an end together with its parent's."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them all; the parent stops them, between two pieces
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # its queue would wait forever: every process of the pool holds both ends
