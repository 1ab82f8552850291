"""What compiled code says on the console by itself, kept off it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_one_at_a_time = threading.Lock()


@contextmanager
def without_native_output() -> Iterator[None]:
    """Send file descriptor 2 nowhere meanwhile: warp on a missing GPU, ITK's MetaIO on a damaged file.

    Neither heeds its own log level; our errors say in words what there is to say. Python's own messages are lost too
    while it lasts, so keep it short. One thread at a time, since the descriptor is the whole process's.
    """
    with _one_at_a_time:
        try:
            kept = os.dup(2)
        except OSError:  # no stderr at all, as in a windowed program
            yield
            return
        try:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
