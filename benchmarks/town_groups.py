"""What each group of variations of the synthetic town is worth on a real road: short trainings without one group each.

    python benchmarks/town_groups.py --data KITTI [--drives 24] [--depth-steps 250] [--steps 250] [--json FILE]

KITTI is a folder of KITTI Tracking with LiDAR; none of it is learned from. Every training is the recipe `street` with
fewer drives and steps, from equal seeds; what differs are the drives. Runs are kept in -o, so that an interrupted
benchmark goes on where it stopped. A quarter of an hour per training on one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from effcli.core.evidence.records import write_record
from effcli.detect_stream.data.town.switches import GROUPS

EFFCLI = [sys.executable, "-m", "effcli", "detect-stream"]


def effcli(*arguments: str) -> None:
    """Run a command of the project; its errors end the benchmark."""
    subprocess.run([*EFFCLI, *arguments], check=True)


def trained(preset: str, options: argparse.Namespace) -> Path:
    """The run of a training on drives of a preset; it goes on, or is left alone, where it is there."""
    run: Path = options.output / preset
    if (run / "result.json").is_file():
        return run
    settings = {
        "data.source": f"synthetic:{options.drives}:{preset}",
        "eval.data": "synthetic:1:town",
        "train.depth_steps": options.depth_steps,
        "train.steps": options.steps,
        "train.batch_size": 2,
    }
    changes = [part for key, value in settings.items() for part in ("-s", f"{key}={value}")]
    resume = ["--resume"] if run.is_dir() else []
    effcli("train", "-r", "street", *changes, "--threads", "1", "-o", str(run), *resume)
    return run


def measured(run: Path, options: argparse.Namespace) -> dict[str, float]:
    """Depth and boxes on the real road."""
    file = run.with_suffix(".eval.json")
    if not file.is_file():
        flags = ["eval", "--depth", "--simulate-latency", "60", "--threads", "1", "--json"]
        command = [*EFFCLI, *flags, "--weights", str(run), "--data", str(options.data)]
        file.write_text(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    metrics: dict[str, Any] = json.loads(file.read_text())["metrics"]
    return {
        "depth, median error, m": metrics["depth"]["median_error_m"],
        "wrong by more than 1 m, %": metrics["depth"]["above_1m_percent"],
        "AP at 2 m, cars": metrics["ap"]["car"],
        "AP at 2 m, cyclists": metrics["ap"]["cyclist"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--drives", type=int, default=24)
    parser.add_argument("--depth-steps", type=int, default=250)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/town-groups"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = {}
    for preset in ("town", *(f"town-{group}" for group in GROUPS), "street"):
        name = {"town": "all groups", "street": "the old street"}.get(preset, f"without {preset[5:]}")
        rows[name] = measured(trained(preset, options), options)
        print(f"{name:20s}", *(f"{what} {value:.2f} " for what, value in rows[name].items()), flush=True)
    write_record(options.json, rows, sys.argv)


if __name__ == "__main__":
    main()
