"""NVIDIA warp, when it is there: started quietly, asked what it can do, and given threads on the CPU."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from diffrender.errors import BackendError, SettingError, notify
from diffrender.quiet import without_native_output

BACKENDS = ("auto", "torch", "warp")
LARGEST = 2**31 - 1  # warp indexes arrays with 32 bits
_broken: list[str] = []  # why a kernel did not compile here: said once, then the torch twin serves


@cache
def start() -> Any:
    """warp, initialised without its banner; None where it is not installed or does not load."""
    if importlib.util.find_spec("warp") is None:
        return None
    try:
        import warp as wp

        if hasattr(wp.config, "log_level") and hasattr(wp, "LOG_ERROR"):
            wp.config.log_level = wp.LOG_ERROR
        wp.config.quiet = True
        try:
            with without_native_output():
                wp.init()
        except OSError as problem:  # its cache cannot be written: a read-only home, say
            _keep_kernels_for_this_run(wp, problem)
    except Exception as problem:  # an import of native code fails in many ways; "auto" never fails for lack of warp
        _give_up(f"warp-lang is installed and does not load ({type(problem).__name__}: {problem}).")
        return None
    return wp


def _keep_kernels_for_this_run(wp: Any, problem: OSError) -> None:
    folder = tempfile.mkdtemp(prefix="diffrender-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    wp.config.kernel_cache_dir = folder
    with without_native_output():
        wp.init()
    notify(
        f"Warp's cache cannot be written ({problem}), so the kernels are compiled anew in every run. Set "
        "WARP_CACHE_PATH to a folder that can be written, and they are kept."
    )


def engine_of(backend: str, twin: ModuleType, fused: ModuleType, *what: Any) -> ModuleType:
    """What casts the rays: `twin`, or `fused` where its `why_not(*what)` has no objection.

    Raises: SettingError for another backend; BackendError where "warp" was asked for and cannot serve.
    """
    if backend not in BACKENDS:
        raise SettingError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}.")
    if backend == "torch":
        return twin
    problem = fused.why_not(*what)
    if problem is None:
        return fused
    if backend == "warp":
        raise BackendError(
            f"The warp backend was asked for and cannot run: {problem} backend='auto' goes on without it."
        )
    return twin


def why_not(volume: Tensor) -> str | None:
    """Why warp cannot serve this volume, as one sentence with what to do; None where it can."""
    wp = start()
    if _broken:
        return _broken[0]
    if wp is None:
        return "the package warp-lang is not installed; `pip install warp-lang` brings it."
    if volume.numel() > LARGEST:
        return f"it indexes up to {LARGEST} voxels and this volume has {volume.numel()}; use a coarser lattice."
    if volume.device.type == "cuda" and not wp.is_cuda_available():
        return "it finds no CUDA driver that it can use; update the driver."
    if volume.device.type not in ("cpu", "cuda"):
        return f"it does not run on {volume.device.type}."
    return None


_loaded: set[tuple[str, str]] = set()


def load(what: str, module: Callable[[], Any], device: torch.device) -> str | None:
    """Compile a warp module, or take it from warp's cache, before threads launch its kernels.

    Returns: None, or why it cannot be used, as one sentence; a compiler fails in many ways, and "auto" must not.
    """
    if (what, str(device)) in _loaded:
        return None
    wp = start()
    try:
        if not in_cache(module()):
            notify(
                f"Compiling {what} for {device}: once, about half a minute on a laptop; "
                f"the result is kept in {wp.config.kernel_cache_dir}."
            )
        if not module().load(wp.device_from_torch(device)):
            raise RuntimeError("the compiler reported an error")
    except Exception as problem:
        _give_up(f"{what} did not compile here ({type(problem).__name__}: {problem}).")
        return _broken[0]
    _loaded.add((what, str(device)))
    return None


def _give_up(why: str) -> None:
    """Remember why warp does not serve here, and say it once: from now on the torch twin does."""
    _broken.append(why)
    notify(
        f"The fused kernels cannot be used on this machine: {why} Everything still works, slower, in plain torch. "
        "`diffrender doctor` says more."
    )


def in_cache(module: Any) -> bool:
    """Whether a warp module has been compiled before, by this version of warp for this source."""
    return (Path(start().config.kernel_cache_dir) / module.get_module_identifier()).is_dir()


def in_tiles(launch: Callable[[int, int], None], count: int, smallest: int = 2048) -> None:
    """Call launch(start, stop) for all of `count` rays, in tiles on as many threads as torch uses.

    A launch on the CPU runs on one thread and releases the interpreter's lock. More tiles than threads even out that
    rays through the middle are longer.
    """
    threads = torch.get_num_threads()
    if threads == 1 or count < 2 * smallest:
        launch(0, count)
        return
    tile = -(-max(smallest, -(-count // (8 * threads))) // 64) * 64  # whole packets of rays
    futures = [_pool(threads).submit(launch, n, min(n + tile, count)) for n in range(0, count, tile)]
    for future in futures:
        future.result()


def at_once(launches: list[Callable[[], None]]) -> None:
    """Run all launches, each on a thread of its own, and wait."""
    if len(launches) == 1:
        launches[0]()
        return
    for future in [_pool(torch.get_num_threads()).submit(launch) for launch in launches]:
        future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="diffrender-rays")


if hasattr(os, "register_at_fork"):  # the threads of a pool do not live on in a forked child
    os.register_at_fork(after_in_child=_pool.cache_clear)
