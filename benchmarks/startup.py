"""What asking costs: help pages, completion, `recipes ls` and `doctor`, beside `pip --help` in the same run.

python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from effcli.core.evidence.records import write_record

PEER = "pip --help"
COMPLETION = {"_EFFCLI_COMPLETE": "complete_bash", "COMP_WORDS": "effcli enhance --st", "COMP_CWORD": "2"}
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    PEER: (["pip", "--help"], {}),
    "effcli --version": (["effcli", "--version"], {}),
    "effcli --help": (["effcli", "--help"], {}),
    "effcli enhance --help": (["effcli", "enhance", "--help"], {}),
    "effcli quantize run --help": (["effcli", "quantize", "run", "--help"], {}),
    "completion of effcli enhance --st": (["effcli"], COMPLETION),
    "effcli recipes ls": (["effcli", "recipes", "ls"], {}),
    "effcli recipes show enhance": (["effcli", "recipes", "show", "enhance"], {}),
    "effcli recipes show quantize": (["effcli", "recipes", "show", "quantize"], {}),
    "effcli doctor": (["effcli", "doctor"], {}),
}


def seconds_of(words: list[str], extra: dict[str, str]) -> float:
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    started = time.perf_counter()
    subprocess.run(command, env={**os.environ, **extra}, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.repeats + 1):  # the first of each warms the disk's cache
        for name, (words, extra) in COMMANDS.items():
            times[name].append(seconds_of(words, extra))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(f"{'command':<36} {'median s':>9} {'over pip --help':>16}")
    for name, median in medians.items():
        print(f"{name:<36} {median:>9.2f} {median / medians[PEER]:>16.2f}")
    rows = {name: {"median_s": value, "ratio": value / medians[PEER]} for name, value in medians.items()}
    write_record(options.json, rows, sys.argv)


if __name__ == "__main__":
    main()
