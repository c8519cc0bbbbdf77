"""Speed and memory of `effcli enhance`: ratios inside one run. Nothing else should be running.

    python benchmarks/enhance.py [--json FILE] [--sizes 256x256 400x608] [--repeats 3]

The whole network at the published size, with the released behaviour (Mamba on the details, tokens by reshape). The
peer has the same weights, unfused, with the plain loop as its scan. Times are medians over repeats in which the three
take turns; memory is the peak of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.nn import selective_scan as scan_module


def released_network() -> WalMaFa:
    torch.manual_seed(0)
    return WalMaFa(WalMaFaConfig(mamba_band="high", token_order="reshape", head="picture")).eval()


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def forms() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The three that are compared, by name, with the same weights."""
    network = released_network()
    fused = network.fuse()

    def peer(x: torch.Tensor) -> torch.Tensor:
        with mock.patch.object(scan_module, "available_backends", lambda device: ("loop",)):
            return network(x)

    def bf16(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return fused(x).float()

    return {"peer": peer, "fp32": fused, "bf16": bf16}


def measure_network(height: int, width: int, repeats: int) -> dict[str, object]:
    """Seconds, errors and peak memory of the three forms at one size."""
    calls = forms()
    x = torch.rand(1, 3, height, width)
    with torch.inference_mode():
        outputs = {name: call(x) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                times[name].append(seconds(partial(call, x)))
    medians = {name: statistics.median(values) for name, values in times.items()}
    exact, fast, half = outputs.values()
    noise = (half - fast).square().mean().item() / float(fast.var())
    return {
        "size": f"{height}x{width}",
        **{f"{name}_s": round(value, 3) for name, value in medians.items()},
        "fp32_ratio": round(medians["peer"] / medians["fp32"], 2),
        "bf16_ratio": round(medians["peer"] / medians["bf16"], 2),
        "fp32_max_error": (exact - fast).abs().max().item(),
        "bf16_db_below_signal": round(-10 * math.log10(noise), 1),
        **{f"{name}_peak_gib": round(measure_memory(name, height, width), 2) for name in calls},
    }


def measure_memory(form: str, height: int, width: int) -> float:
    """Peak GiB of a fresh process that evaluates one form once; importing torch alone takes about 0.3."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_gib, (form, height, width, torch.get_num_threads()))


def _peak_gib(form: str, height: int, width: int, threads: int) -> float:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        forms()[form](torch.rand(1, 3, height, width))
    status = Path(
        "/proc/self/status"
    ).read_text()  # not getrusage: its figure comes along from the parent process
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def measure_start() -> dict[str, float]:
    """Seconds of whole processes: help, a small picture, and what importing torch alone takes."""
    example = next(Path("examples").glob("*.png"), None) or next(Path("examples").glob("*.jpg"))
    commands = {
        "help_s": [sys.executable, "-m", "effcli", "--help"],
        "enhance_help_s": [sys.executable, "-m", "effcli", "enhance", "--help"],
        "import_torch_s": [sys.executable, "-c", "import torch"],
        "enhance_small_s": [
            sys.executable,
            "-m",
            "effcli",
            "enhance",
            str(example),
            "-o",
            "-",
            "--format",
            "png",
        ],
    }

    def run(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for command in commands.values():
        run(command)
    return {name: round(min(seconds(partial(run, c)) for _ in range(3)), 2) for name, c in commands.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sizes", nargs="*", default=["256x256", "400x608"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        rows.append(measure_network(height, width, options.repeats))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    start = measure_start()
    print("  ".join(f"{name} {value}" for name, value in start.items()))
    if options.json:
        content = {
            "threads": options.threads,
            "torch": str(torch.__version__),
            "network": rows,
            "start": start,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
