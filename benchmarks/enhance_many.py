"""`effcli enhance` over many small pictures, killed again and again: is each made once, how fast, in how much memory.

    python benchmarks/enhance_many.py [--json FILE] [--pictures 10000] [--kills 10] [--size 64x48] [--weights FILE]

The command runs with ``--resume`` and one thread. It is killed (SIGKILL) at evenly spaced numbers of outputs in the
first half of the batch, and started again; the last run does the rest. An output that is there at a kill must be the
same file, unchanged, at the end. Speed and memory are those of the last run, from its first output on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Killed:
    """What became of a batch.

    Attributes:
        pictures: in the batch.
        kills: how often the command was killed.
        made: outputs that are whole pictures of the right size.
        written_twice: outputs that were there at a kill and are other files at the end.
        left_over: other files in the output folder.
        images_per_s: of the last run.
        first_rss_mb, last_rss_mb: memory of the last run, at its first outputs and at its last.
    """

    pictures: int
    kills: int
    made: int
    written_twice: int
    left_over: int
    images_per_s: float | None
    first_rss_mb: float | None
    last_rss_mb: float | None


def make_pictures(folder: Path, n: int, size: tuple[int, int]) -> None:
    draws = np.random.default_rng(0)
    folder.mkdir()
    for number in range(n):
        values = draws.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png", compress_level=1)


def outputs(folder: Path) -> dict[str, tuple[int, int]]:
    """The finished outputs: name -> inode and time of the last change."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if not entry.name.startswith(".")]
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}


def rss_mb(pid: int) -> float | None:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text.split("VmRSS:")[1].split()[0]) / 1024 if "VmRSS:" in text else None


def count(folder: Path) -> int:
    return sum(not one.name.startswith(".") for one in folder.iterdir()) if folder.is_dir() else 0


class Command(Protocol):
    """A running command; what `subprocess.Popen` has."""

    pid: int

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


def launch(arguments: list[str], folder: Path) -> Command:
    """Start ``effcli ARGUMENTS`` in a folder."""
    command = [sys.executable, "-m", "effcli", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def killed_runs(
    folder: Path,
    n: int,
    kills: int,
    size: tuple[int, int],
    *options: str,
    start: Callable[[list[str], Path], Command] = launch,
) -> Killed:
    """Make ``n`` pictures in ``folder``, enhance them with ``kills`` kills, and look at what is there."""
    out = folder / "out"
    make_pictures(folder / "in", n, size)
    arguments = ["enhance", "in", "-o", "out", "--resume", "--threads", "1", "-q", *options]
    seen: dict[str, set[tuple[int, int]]] = {}
    for number in range(1, kills + 1):
        run = start(arguments, folder)
        while run.poll() is None and count(out) < n * number // (2 * kills):
            time.sleep(_LOOK_EVERY_S)
        if (code := run.poll()) is not None:
            raise SystemExit(f"run {number} ended with {code} before it was killed")
        run.kill()
        run.wait()
        for name, stamp in outputs(out).items():
            seen.setdefault(name, set()).add(stamp)
    samples = _last_run(start(arguments, folder), out)
    ended = outputs(out)
    for name, stamp in ended.items():
        seen.setdefault(name, set()).add(stamp)
    whole = [name for name in ended if (folder / "in" / name).exists() and _size(out / name) == size]
    (first_s, first_n, first_rss), (last_s, last_n, last_rss) = samples[0], samples[-1]
    return Killed(
        pictures=n,
        kills=kills,
        made=len(whole),
        written_twice=sum(len(stamps) > 1 for stamps in seen.values()),
        left_over=sum(1 for _ in out.iterdir()) - len(whole),
        images_per_s=round((last_n - first_n) / (last_s - first_s), 2) if last_n > first_n else None,
        first_rss_mb=first_rss and round(first_rss, 1),
        last_rss_mb=last_rss and round(last_rss, 1),
    )


def _last_run(run: Command, out: Path) -> list[tuple[float, int, float | None]]:
    """Wait for its end; time, outputs and memory, from its tenth output on."""
    at_start = count(out)
    samples = []
    while run.poll() is None:
        sample = (time.perf_counter(), count(out), rss_mb(run.pid))
        if sample[1] >= at_start + 10 and sample[2] is not None:
            samples.append(sample)
        time.sleep(_LOOK_EVERY_S)
    if code := run.wait():
        raise SystemExit(f"the last run ended with {code}")
    return samples or [(0.0, 0, None)]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except OSError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", default="64x48")
    parser.add_argument("--weights", default="builtin:walmafa")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        result = killed_runs(
            Path(folder), given.pictures, given.kills, (width, height), "--weights", given.weights
        )
    for name, value in asdict(result).items():
        print(f"{name:<16} {value}")
    if given.json:
        given.json.write_text(json.dumps(asdict(result)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
