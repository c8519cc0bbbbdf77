"""The machine and the state of the code: what a measured figure depends on beside its recipe."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[2]


@functools.cache
def commit() -> str | None:
    """The commit of the checkout this package is imported from, ``-dirty`` with changes; None where it is installed."""
    if not (_CHECKOUT / ".git").exists():
        return None
    command = ["git", "-C", str(_CHECKOUT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@functools.cache
def describe_machine() -> dict[str, Any]:
    """Processor, the instructions that matter for speed, cores, memory (GiB), system and Python."""
    return {
        "processor": processor(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


@functools.cache
def processor() -> str:
    """Its name, as the system says it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Which of the instructions that decide the speed of bf16 and int8 it has."""
    flags = set(_cpu_info("flags").split())
    return [
        name
        for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
        if name in flags
    ]


def _cpu_info(key: str) -> str:
    """A value of Linux's ``/proc/cpuinfo``, of the first core; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # Windows, or a system that does not say
        return None
