"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST, _SMALL = 2**31 - 1, 2**30, 2**20


def keep_freed_memory() -> None:
    """Keep freed memory in the process, for a loop that takes as much again in every turn.

    glibc gives the memory of large tensors back at once, and the kernel clears it page by page when it is taken again.
    The process may grow by what lies between kept pieces. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)


def return_freed_memory() -> None:
    """Give the memory of every tensor of a megabyte or more back to the system as soon as it is freed.

    For work that keeps small results of large temporary tensors: glibc would put what is kept into the holes that the
    temporary ones leave, and take new memory for the next of those. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _SMALL)
