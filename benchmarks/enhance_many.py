"""`effcli enhance` over many small pictures, killed again and again: is each made once, how fast, in how much memory.

    python benchmarks/enhance_many.py [--json FILE] [--pictures 10000] [--kills 10] [--size 64x48] [OPTION ...]

Further options are those of the command, such as ``--weights FILE``; with ``--strength 0`` all but the network is run.

The command runs with ``--resume`` and one thread. It is killed (SIGKILL) at random moments in the first half of the
batch, and started again; the last run does the rest. An output must be a whole picture when it is first seen, at the
latest at the next kill, and the same file, unchanged, at the end. Speed and memory are given per thousand outputs; the
time that a run takes to its first output is left out, and so is that of another process on the same core in ``cpu_ms``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from effcli.core.evidence.records import write_record

_LOOK_EVERY_S = 0.05
_LATEST_S = 0.02
"""A kill comes up to this long after the output at which it is due."""
_SUFFIX = ".jpg"
_PRELOADED = ["effcli.cli.main", "effcli.core.evidence.result", "effcli.enhance.files.batch"]


@dataclass(frozen=True)
class Part:
    """What was seen while the outputs up to ``outputs`` were made, one part of the batch.

    Attributes:
        outputs: that are there at its end.
        images_per_s: by the clock; None where a part was made while nobody looked.
        cpu_ms: processor time per picture.
        rss_mb: memory at its end.
    """

    outputs: int
    images_per_s: float | None
    cpu_ms: float | None
    rss_mb: float


@dataclass(frozen=True)
class Killed:
    """What became of a batch.

    Attributes:
        pictures: in the batch.
        killed_at: how many outputs there were at each kill.
        unfinished: hidden files that the kills left, together; the next run takes them over.
        made: outputs that are whole pictures of the right size at the end.
        written_twice: outputs that were there at a kill and are other files at the end.
        half_written: outputs that were no whole pictures when they were first seen.
        left_over: other files in the output folder at the end.
        parts: speed and memory.
    """

    pictures: int
    killed_at: tuple[int, ...]
    unfinished: int
    made: int
    written_twice: int
    half_written: int
    left_over: int
    parts: tuple[Part, ...]


@dataclass
class Outputs:
    """The outputs of a batch, looked at now and then.

    Attributes:
        folder: that they are in.
        size: of a picture, (width, height).
        stamps: name -> inode and time of the last change, when it was first seen.
        written_twice, half_written: see :class:`Killed`.
    """

    folder: Path
    size: tuple[int, int]
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    written_twice: set[str] = field(default_factory=set)
    half_written: int = 0

    def count(self) -> int:
        return sum(not name.startswith(".") for name in names_in(self.folder))

    def look(self) -> None:
        """Compare what is there with what was seen before, and read what is new."""
        for entry in os.scandir(self.folder):
            if entry.name.startswith("."):
                continue
            status = entry.stat()
            stamp = status.st_ino, status.st_mtime_ns
            if self.stamps.setdefault(entry.name, stamp) != stamp:
                self.written_twice.add(entry.name)
            elif entry.name not in self._read:
                self._read.add(entry.name)
                self.half_written += not is_whole(Path(entry.path), self.size)

    _read: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Sample:
    """A run at one moment: outputs, seconds by the clock, seconds of its processor time, memory."""

    outputs: int
    clock_s: float
    cpu_s: float
    rss_mb: float


class Command:
    """A running ``effcli ARGUMENTS``, forked from a process that has imported what it needs: starts would take longer
    than the pictures."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        forked = multiprocessing.get_context("forkserver")
        self._process = forked.Process(target=_effcli, args=(arguments, str(folder)))
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


def _effcli(arguments: list[str], folder: str) -> None:
    os.chdir(folder)
    sys.argv = ["effcli", *arguments]
    from effcli.cli.main import main

    with Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stdout(nothing):
        main()


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []


def make_pictures(folder: Path, n: int, size: tuple[int, int]) -> None:
    """Dark noise, as JPEG."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(n):
        values = rng.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}{_SUFFIX}", quality=90)


def is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a file is a picture of this size, to its last pixel."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.size == size
    except OSError:
        return False


def killed_runs(
    folder: Path,
    n: int,
    kills: int,
    size: tuple[int, int],
    *options: str,
    part: int = 1000,
) -> Killed:
    """Make ``n`` pictures in ``folder``, enhance them with ``kills`` kills, and look at what is there.

    Raises:
        SystemExit: a run ended before it was killed, or the last one failed.
    """
    out = Outputs(folder / "out", size)
    make_pictures(folder / "in", n, size)
    arguments = ["enhance", "in", "-o", "out", "--resume", "--threads", "1", "-q", *options]
    rng = np.random.default_rng(n)
    runs, killed_at, unfinished = [], [], 0
    for due in sorted(rng.choice(np.arange(1, max(n // 2, kills + 1)), kills, replace=False)):
        run = Command(arguments, folder)
        runs.append(watched(run, out, int(due)))
        time.sleep(rng.uniform(0, _LATEST_S))
        if (code := run.poll()) is not None:
            raise SystemExit(f"run {len(runs)} ended with {code} before it was killed")
        run.kill()
        run.wait()
        killed_at.append(out.count())
        unfinished += len(names_in(out.folder)) - killed_at[-1]
        out.look()
    last = Command(arguments, folder)
    runs.append(watched(last, out, n + 1))
    if code := last.wait():
        raise SystemExit(f"the last run ended with {code}")
    out.look()
    made = sum(is_whole(out.folder / f"{number}{_SUFFIX}", size) for number in range(n))
    return Killed(
        pictures=n,
        killed_at=tuple(killed_at),
        unfinished=unfinished,
        made=made,
        written_twice=len(out.written_twice),
        half_written=out.half_written,
        left_over=len(names_in(out.folder)) - made,
        parts=tuple(parts_of(runs, range(part, n + part, part))),
    )


def watched(run: Command, out: Outputs, until: int) -> list[Sample]:
    """Wait until there are so many outputs or the run has ended; samples from its first output on."""
    samples: list[Sample] = []
    at_start = out.count()
    while run.poll() is None:
        seen = sample(run.pid, out.count())
        if seen is not None and seen.outputs > at_start:
            samples.append(seen)
        if out.count() >= until:
            break
        time.sleep(_LOOK_EVERY_S)
    return samples


def sample(pid: int, n_outputs: int) -> Sample | None:
    """What a process has used; None where it has ended or the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        times = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    if "VmRSS:" not in text:
        return None
    cpu_s = sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK")
    return Sample(n_outputs, time.perf_counter(), cpu_s, int(text.split("VmRSS:")[1].split()[0]) / 1024)


def parts_of(runs: Iterable[list[Sample]], ends: Iterable[int]) -> list[Part]:
    """Speed and memory between two numbers of outputs, over all runs that made some of these."""
    steps = [step for samples in runs for step in pairwise(samples)]
    parts, begin = [], 0
    for end in ends:
        own = [(before, after) for before, after in steps if begin < after.outputs <= end]
        begin = end
        if not own:
            continue
        n, clock_s, cpu_s = (
            sum(getattr(after, name) - getattr(before, name) for before, after in own)
            for name in ("outputs", "clock_s", "cpu_s")
        )
        speed = round(n / clock_s, 2) if n and clock_s else None
        cpu_ms = round(1000 * cpu_s / n, 2) if n else None
        parts.append(Part(own[-1][1].outputs, speed, cpu_ms, round(own[-1][1].rss_mb, 1)))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", default="64x48")
    given, options = parser.parse_known_args()
    width, height = map(int, given.size.split("x"))
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        result = killed_runs(Path(folder), given.pictures, given.kills, (width, height), *options)
    for name, value in asdict(result).items():
        if name != "parts":
            print(f"{name:<16} {value}")
    print(f"{'outputs':>8} {'images/s':>9} {'ms of CPU':>10} {'MB':>8}")
    for one in result.parts:
        print(f"{one.outputs:>8} {one.images_per_s!s:>9} {one.cpu_ms!s:>10} {one.rss_mb:>8}")
    write_record(given.json, asdict(result), sys.argv)


if __name__ == "__main__":
    main()
