"""Threads: steps per second of every task on one thread, on all and with `--threads auto`, beside busy processes.

    python benchmarks/threads.py [--json FILE] [--seconds 20] [--repeats 3] [--tasks enhance,rl-distill] [--busy 0,1,2]

Each figure is that of a process of its own which runs a shipped recipe's training loop (of detect-stream also the
detector, frame after frame) for so many seconds, the time that `auto` spends on trying included; medians, taking turns.
Busy neighbours are endless loops of plain Python. `spinning` is all threads with OpenMP's own way of waiting, as before
`OMP_WAIT_POLICY=PASSIVE`. The goal: `auto` is never slower than the better of one thread and all by more than a tenth.
Nothing else should be running.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from effcli.core.evidence.records import write_record
from effcli.core.threads import NUMBERS, WAITING, wait_passively

SETTINGS = ("1", "all", "auto", "spinning")
WARM_UPS = 2
TASKS: dict[str, tuple[str, str, list[str]]] = {
    "enhance": ("enhance", "small", ["data.source=[builtin:scenes]", "eval.data=[]", "train.batch_size=2"]),
    "quantize": ("quantize", "default", ["calibration.n_images=4", "calibration.n_inputs=16"]),
    "distill": ("distill", "fashion-diffusion", ["data.source=builtin:fashion-images"]),
    "continual": ("continual", "er", ["data.train_per_class=200", "eval.per_class=8"]),
    "detect-stream": (
        "detect-stream",
        "default",
        ["data.source=synthetic:1", "eval.data=null", "train.batch_size=1"],
    ),
    "rl-distill": ("rl-distill", "default", []),
}
"""Name -> task, recipe, settings."""

FRAMES = "detect-stream run"


class EnoughError(Exception):
    """The loop has run for long enough."""


class Timer:
    """Counts steps for so many seconds, those that warm up left out."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._n, self._began = seconds, -WARM_UPS, 0.0
        self.rate = 0.0

    def tick(self) -> None:
        """A step begins."""
        now = time.perf_counter()
        if self._n == 0:
            self._began = now
        elif self._n > 0 and now - self._began >= self._seconds:
            self.rate = self._n / (now - self._began)
            raise EnoughError
        self._n += 1


def train(name: str, threads: Any, timer: Timer) -> None:
    from effcli.core.recipe import parse_set
    from effcli.core.registry import find_recipe, get_task
    from effcli.core.run import Run, open_run
    from effcli.core.runtime import create_runtime

    task, recipe_name, settings = TASKS[name]
    recipe = find_recipe(task, recipe_name, [parse_set(one) for one in settings])
    entry = get_task(task)
    steps_of = Run.steps

    def steps(*arguments: Any, **options: Any) -> Iterator[int]:
        for step in steps_of(*arguments, **options):
            timer.tick()
            yield step

    Run.steps = steps  # type: ignore[method-assign]
    runtime = create_runtime(device="cpu", precision=recipe.precision, threads=threads)
    plan = entry.plan_function(recipe)(recipe)
    with TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", recipe, runtime, verb="run", recipe_name=recipe_name)
        with run:
            entry.run_function(recipe)(recipe, plan.inputs, run)


def detect(threads: Any, timer: Timer) -> None:
    from effcli.core.runtime import create_runtime
    from effcli.detect_stream.data.drive_sets import drawn_sequences
    from effcli.detect_stream.data.synthetic_drives import Drive
    from effcli.detect_stream.network.box_decoding import Limits
    from effcli.detect_stream.sources.frame_source import SequenceSource
    from effcli.detect_stream.stream.clocks import warm_up
    from effcli.detect_stream.stream.stream_detector import StreamDetector
    from effcli.detect_stream.weights import load_detector

    runtime = create_runtime(device="cpu", precision="auto", threads=threads)
    source = SequenceSource(drawn_sequences([lambda: Drive(0, 8)], 1)[0])
    arrivals = list(source.frames())
    assert arrivals[0].frame is not None
    size = arrivals[0].frame.left.shape
    weights = load_detector("builtin:street-tiny")
    limits = Limits(score=0.1)
    machine = StreamDetector(weights, source.calibration, (size[0], size[1]), runtime, source.fps, limits)
    warm_up(machine, arrivals[0])
    frames = [machine.prepare(one) for one in arrivals]
    while True:
        for frame in frames:
            timer.tick()
            machine.detect(frame)


def work(name: str, setting: str, seconds: float) -> None:
    """Print the steps per second of one loop, in this process."""
    if setting != "spinning":
        wait_passively()
    timer = Timer(seconds)
    threads = {"1": 1, "auto": "auto"}.get(setting)
    with suppress(EnoughError):
        if name == FRAMES:
            detect(threads, timer)
        else:
            train(name, threads, timer)
    if not timer.rate:
        raise SystemExit(f"{name} ended within {seconds} s")
    print(timer.rate)


def rate_of(name: str, setting: str, seconds: float) -> float:
    """Steps per second of one loop, in a process of its own."""
    ours = {*NUMBERS, *(WAITING if setting == "spinning" else ())}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    command = [sys.executable, __file__, "--work", name, setting, "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return float(done.stdout.splitlines()[-1])


def spin() -> None:
    while True:
        pass


@contextmanager
def neighbours(n: int) -> Iterator[None]:
    """So many busy processes."""
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(n)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def measure(names: list[str], busy: list[int], seconds: float, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        for n_busy in busy:
            rates: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
            with neighbours(n_busy):
                for _ in range(repeats):
                    for setting in SETTINGS:
                        rates[setting].append(rate_of(name, setting, seconds))
            row = {setting: statistics.median(values) for setting, values in rates.items()}
            ratio = row["auto"] / max(row["1"], row["all"])
            rows.append({"task": name, "busy": n_busy, "steps_per_s": row, "auto_over_better": ratio})
            cells = "".join(f"{row[setting]:>10.3g}" for setting in SETTINGS)
            print(f"{name:<18}{n_busy:>5}{cells}{ratio:>14.2f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [*TASKS, FRAMES]
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(every), help="of: " + ", ".join(every))
    parser.add_argument("--busy", default="0,1,2", help="numbers of busy neighbours")
    parser.add_argument("--work", nargs=2, metavar=("TASK", "SETTING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, setting = options.work
        work(name, setting, options.seconds)
        return
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average {load:.1f} before; steps per second by threads, medians")
    print(f"{'task':<18}{'busy':>5}" + "".join(f"{one:>10}" for one in SETTINGS) + f"{'auto / better':>14}")
    busy = [int(one) for one in options.busy.split(",")]
    rows = measure(options.tasks.split(","), busy, options.seconds, options.repeats)
    write_record(options.json, {"load_before": load, "rows": rows}, sys.argv)


if __name__ == "__main__":
    main()
