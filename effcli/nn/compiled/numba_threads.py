"""Compiling numba kernels with a cache on disk, and running them on as many threads as PyTorch uses.

This module imports numba; import it only from code that runs a compiled kernel.
"""

# numba's decorators have no types worth checking.
# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import numba
import torch
from numba.core import config
from numba.np.ufunc.parallel import threading_layer


@cache
def _start_pool() -> None:
    """Start numba's threads; their OpenMP is PyTorch's, whose number of threads would change with the start.

    Not before the first kernel: a process that is forked after the start may not run any.
    """
    n_threads = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(n_threads)


def compile_cached(kernel: Callable[..., None], signature: Any, *, parallel: bool) -> Callable[..., None]:
    """Compile a function for one signature, or take it from numba's cache on disk when it is there."""
    if parallel:
        _start_pool()
    compile_kernel = partial(numba.njit, signature, nogil=True, parallel=parallel)
    try:
        compiled: Callable[..., None] = compile_kernel(cache=True)(kernel)
    except (RuntimeError, OSError):  # nowhere to write the cache, or no space left
        compiled = compile_kernel()(kernel)
    return compiled


_one_at_a_time = threading.Lock()


def _layer_guard() -> AbstractContextManager[Any]:
    """numba's own thread pool aborts the process when two Python threads enter it; OpenMP and TBB do not."""
    return nullcontext() if threading_layer() in ("omp", "tbb") else _one_at_a_time


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Let parallel kernels use ``n_threads`` threads at most (OpenMP's where it is installed)."""
    _start_pool()
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(n_threads, config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
    try:
        with _layer_guard():
            yield
    finally:
        numba.set_num_threads(before)


def in_shares(n_units: int, n_threads: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` for even shares of 0..n_units, each in a thread of its own.

    For kernels compiled without ``parallel``, which halves the time of compiling; they run without the GIL. Of a single
    thread it is the calling one, which is safe in a forked process too.
    """
    n_shares = max(1, min(n_threads, n_units))
    if n_shares == 1:
        work(0, n_units)
        return
    ends = [n_units * share // n_shares for share in range(n_shares + 1)]
    with ThreadPoolExecutor(n_shares) as pool:
        list(pool.map(work, ends[:-1], ends[1:]))
