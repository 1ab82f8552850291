"""The same pieces of work on a Ray cluster."""

import os
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from diffrender.errors import BackendError, DiffRenderError

ANSWERS_WITHIN = 10.0  # s
RETRIES = 20  # of one piece whose node was lost

Piece = TypeVar("Piece")
Done = TypeVar("Done")


def reached(address: str) -> None:
    """See that somebody answers at `address`: "auto", "host:port" or "ray://host:port".

    Raises: BackendError without the package ray, or where nobody answers within ten seconds.
    """
    try:
        import ray  # noqa: F401  only whether it is there
    except ImportError:
        raise BackendError("A cluster needs the package ray. Install it: pip install 'diffrender[cluster]'.") from None
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise BackendError(f'{address!r} is no address of a Ray cluster: it is "auto", HOST:PORT or ray://HOST:PORT.')
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN / 2).close()
    except OSError as problem:
        raise _no_answer(address, str(problem)) from None


def in_cluster(
    address: str,
) -> Callable[[Callable[[Piece], Done], Sequence[Piece], int], Generator[tuple[Piece, Done], None, None]]:
    """What `in_pool` is on one machine, on all nodes of the cluster at `address`.

    Each piece takes one processor. A piece whose node is lost is done again by another node. All nodes have this
    package installed, in the same version.
    """

    def work_in_cluster(
        work: Callable[[Piece], Done], pieces: Sequence[Piece], workers: int
    ) -> Generator[tuple[Piece, Done], None, None]:
        import ray

        began = not ray.is_initialized()
        if began:
            _connect(address)
        remote = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(_alone)
        running = {remote.remote(work, piece): piece for piece in pieces}
        try:
            while running:
                done, _ = ray.wait(list(running), num_returns=1)
                for one in done:
                    yield running.pop(one), _got(one)
        finally:
            for one in running:
                ray.cancel(one, force=False)
            if began:
                ray.shutdown()

    return work_in_cluster


def _alone(work: Callable[[Piece], Done], piece: Piece) -> Done:
    """On a node: in one thread of torch, so that results do not depend on the node."""
    import torch

    torch.set_num_threads(1)
    return work(piece)


def _got(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as problem:
        cause = problem.cause if isinstance(getattr(problem, "cause", None), DiffRenderError) else None
        raise cause or DiffRenderError(f"A node of the cluster failed: {problem}") from None
    except ray.exceptions.RayError as problem:
        raise DiffRenderError(f"The cluster could not finish a piece of work: {problem}") from None


def _connect(address: str) -> None:
    """`ray.init`, which by itself waits for minutes. Raises: BackendError."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    problems: list[BaseException] = []

    def connect() -> None:
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except BaseException as problem:
            problems.append(problem)

    trying = threading.Thread(target=connect, daemon=True)
    trying.start()
    trying.join(ANSWERS_WITHIN)
    if trying.is_alive():
        raise _no_answer(address, f"not within {ANSWERS_WITHIN:g} s")
    if problems:
        raise _no_answer(address, str(problems[0]).splitlines()[0]) from None


def _no_answer(address: str, reason: str) -> BackendError:
    return BackendError(
        f"No Ray cluster answers at {address} ({reason}). Start one with `ray start --head`, check the address and the "
        "firewall, or leave --ray out to work on this machine."
    )
