"""Selective scan backends side by side: milliseconds of forward, and of forward with backward.

    python benchmarks/selective_scan.py [--threads 1] [--repeats 9] [--json FILE]

Shapes are those of one 256 x 256 image in WalMaFa's four levels (d_inner x L, 32 states, one batch element), inputs
are drawn as at initialisation. Backends take turns within one run; the best time is printed (other processes can
only add to it), and how many times faster than the loop it is. The loop is timed twice at most.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from effcli.core.evidence.records import write_record
from effcli.nn.mamba import Mamba
from effcli.nn.selective_scan import selective_scan

SHAPES = ((256, 256), (128, 1024), (64, 4096), (32, 16384))
BACKENDS = ("loop", "chunked", "numba")
N_STATES = 32


def scan_inputs(d_inner: int, length: int) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias as a freshly initialised block would make them."""
    block = Mamba(d_inner // 2, N_STATES)
    u, z, delta = (torch.randn(1, length, d_inner) for _ in range(3))
    B, C = (torch.randn(1, length, N_STATES) for _ in range(2))
    A, D, bias = (x.detach() for x in (-block.A_log.exp(), block.D, block.dt_proj.bias))
    return [u, 0.3 * delta, A, B, C, D, z, bias]


def elapsed_ms(backend: str, inputs: list[Tensor], backward: bool) -> float:
    """Wall-clock milliseconds of one call."""
    leaves = [x.clone().requires_grad_(backward) for x in inputs]
    start = time.perf_counter()
    y = selective_scan(*leaves, backend=backend)
    if backward:
        torch.autograd.backward(y.sum())
    return 1e3 * (time.perf_counter() - start)


def measure(shape: tuple[int, int], backward: bool, repeats: int) -> dict[str, float]:
    """Best time of each backend; the backends take turns."""
    inputs = scan_inputs(*shape)
    times: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    elapsed_ms("numba", inputs, backward)  # compiles on the first use
    for repeat in range(repeats):
        for backend in BACKENDS:
            if backend != "loop" or repeat < 2:
                times[backend].append(elapsed_ms(backend, inputs, backward))
    return {backend: min(values) for backend, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'d_inner x L':>12} {'pass':>8} " + " ".join(f"{name + ' ms':>18}" for name in BACKENDS))
    for backward in (False, True):
        for shape in SHAPES:
            best = measure(shape, backward, options.repeats)
            ratios = {backend: best["loop"] / ms for backend, ms in best.items()}
            name = "fwd+bwd" if backward else "forward"
            cells = " ".join(f"{best[b]:>9.2f} ({ratios[b]:>5.1f}x)" for b in BACKENDS)
            print(f"{shape[0]:>4} x {shape[1]:>5} {name:>8} {cells}", flush=True)
            rows.append(
                {"d_inner": shape[0], "length": shape[1], "pass": name, "ms": best, "speedup": ratios}
            )
    write_record(options.json, rows, sys.argv)


if __name__ == "__main__":
    main()
