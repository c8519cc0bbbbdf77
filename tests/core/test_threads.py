"""The tuner on machines made of fake clocks: what a step takes depends on the number of threads and on the load."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from effcli.core.run import open_run
from effcli.core.runtime import Runtime, create_runtime
from effcli.core.threads import (
    AGAIN_S,
    FREE_S,
    SHARE,
    SLICE_S,
    ThreadTuner,
    ThreadTuners,
    number_is_given,
    wait_passively,
)
from tests.core.toy_task import ToyRecipe, train

Seconds = Callable[[int], float]
"""Of a step with so many threads."""


@dataclass
class Machine:
    """A clock that a step moves on."""

    now_s: float = 0.0
    cpu_s: float = 0.0
    threads: int = 0
    set_to: list[int] = field(default_factory=list)

    def set_threads(self, threads: int) -> None:
        self.threads = threads
        self.set_to.append(threads)

    def tuner(self, *counts: int) -> ThreadTuner:
        return ThreadTuner(
            "loop", counts, self.set_threads, clock=lambda: self.now_s, cpu_clock=lambda: self.cpu_s
        )

    def run(self, tuner: ThreadTuner, steps: int, seconds: Seconds, cpu: Seconds, work: float = 1.0) -> float:
        """Seconds of so many steps of the loop."""
        began = self.now_s
        for _ in range(steps):
            with tuner.step(work):
                self.now_s += work * seconds(self.threads)
                self.cpu_s += work * cpu(self.threads)
            self.now_s += 0.001  # between steps, which is not counted
        return self.now_s - began - 0.001 * steps


def divides(seconds: float) -> Seconds:
    """Work that is shared out perfectly."""
    return lambda threads: seconds / threads


def same(seconds: float) -> Seconds:
    return lambda threads: seconds


def waits(seconds: float, factor: float) -> Seconds:
    """Work of tiny networks or beside busy neighbours: more than one thread wait for each other."""
    return lambda threads: seconds if threads == 1 else factor * seconds


@pytest.mark.parametrize("seconds", [0.0001, 0.002, 0.03, 0.5, 20.0])
@pytest.mark.parametrize("factor", [1.2, 3.0, 40.0])
def test_one_thread_where_threads_wait(seconds: float, factor: float) -> None:
    machine = Machine()
    tuner = machine.tuner(1, 2)
    machine.run(tuner, round(0.6 * factor / seconds) + 12, waits(seconds, factor), same(seconds))
    assert tuner.chosen == 1
    n = min(round(100 / seconds), 50_000) + 100
    spent = machine.run(tuner, n, waits(seconds, factor), same(seconds))
    assert spent < 1.08 * n * seconds
    assert tuner.steps[2] > 0


@pytest.mark.parametrize("most", [2, 4, 16])
@pytest.mark.parametrize("seconds", [0.001, 0.05, 2.0, 30.0])
def test_all_threads_where_the_work_is_shared_out(seconds: float, most: int) -> None:
    machine = Machine()
    tuner = machine.tuner(1, most)
    spent = machine.run(tuner, 2000, divides(seconds), same(seconds))
    assert tuner.chosen == most
    assert spent <= 2000 * seconds / most * (1 + 2 * SHARE) + FREE_S
    short = machine.tuner(1, most)
    machine.run(short, 8, divides(seconds), same(seconds))
    if seconds > 1:
        assert short.steps == {most: 8}, "a few long steps are not spent on trying"


def test_load_comes_and_goes() -> None:
    machine = Machine()
    tuner = machine.tuner(1, 2)
    idle, busy = divides(0.1), waits(0.1, 3.0)
    machine.run(tuner, 400, idle, same(0.1))
    assert tuner.chosen == 2
    spent = machine.run(tuner, 400, busy, same(0.1))
    assert tuner.chosen == 1
    assert spent < 1.1 * 400 * 0.1
    machine.run(tuner, 100, idle, same(0.1))
    assert tuner.chosen == 2
    assert machine.run(tuner, 400, idle, same(0.1)) < 1.1 * 400 * 0.05


def test_what_trying_costs_is_bounded_however_the_load_changes() -> None:
    """Two threads are five times slower whenever they are tried; the steps' pace changes all the time."""
    machine = Machine()
    tuner = machine.tuner(1, 2)
    paces = np.random.default_rng(0).uniform(0.5, 2.0, 200).repeat(25)
    lost = 0.0
    for pace in paces:
        before = tuner.steps[2]
        spent = machine.run(tuner, 1, waits(0.1 * pace, 5.0), same(0.02))
        lost += spent - 0.1 * pace if tuner.steps[2] > before else 0.0
    total = 0.1 * paces.sum()
    assert lost < SHARE * total + FREE_S + 5 * 0.1 * 2 * 5


def test_outliers_among_the_steps_change_nothing() -> None:
    """An evaluation inside a step now and then is not a busy machine."""
    machine = Machine()
    tuner = machine.tuner(1, 2)
    for turn in range(400):
        long = 10 if turn % 20 == 19 else 1
        machine.run(tuner, 1, divides(0.1 * long), same(0.1 * long))
    assert tuner.chosen == 2
    assert tuner.steps[1] < 40


def test_steps_of_different_sizes_are_compared_by_their_work() -> None:
    machine = Machine()
    tuner = machine.tuner(1, 2)
    sizes = np.random.default_rng(0).integers(1, 30, 400)
    for size in sizes:
        machine.run(tuner, 1, waits(0.02, 1.5), same(0.02), work=float(size))
    assert tuner.chosen == 1
    assert tuner.steps[2] < 40


def test_the_number_in_between_is_tried_too() -> None:
    """Four cores, one of which a reader has: three threads are the fastest."""
    machine = Machine()
    tuner = ThreadTuners(4, machine.set_threads, is_fixed=False).of("loop", beside=1)
    assert tuner.counts == [1, 3, 4]
    own = machine.tuner(*tuner.counts)
    machine.run(own, 3000, lambda threads: {1: 0.3, 3: 0.1, 4: 0.13}[threads], same(0.3))
    assert own.steps[3] > 2500


def test_the_first_step_with_a_number_is_not_timed() -> None:
    """It may compile: here it takes a hundred times as long."""
    machine = Machine()
    tuner = machine.tuner(1, 2)
    seen: set[int] = set()

    def compiles(threads: int) -> float:
        factor = 1 if threads in seen else 100
        seen.add(threads)
        return factor * (0.01 if threads == 1 else 0.03)

    machine.run(tuner, 300, compiles, same(0.01))
    assert tuner.chosen == 1


def test_the_number_is_set_before_each_step_also_after_another_loop() -> None:
    machine = Machine()
    one, two = machine.tuner(1, 2), machine.tuner(1, 2)
    machine.run(one, 300, waits(0.01, 3.0), same(0.01))
    assert machine.threads == 1
    machine.run(two, 1, divides(0.01), same(0.01))
    assert machine.threads == 2
    machine.run(one, 1, waits(0.01, 3.0), same(0.01))
    assert machine.threads == 1


def test_a_step_inside_a_step_belongs_to_the_outer_loop() -> None:
    machine = Machine()
    outer, inner = machine.tuner(1, 2), machine.tuner(1, 4)
    with outer.step(), inner.step():
        assert machine.set_to == [2]
    with pytest.raises(ZeroDivisionError), outer.step():
        _ = 1 / 0
    with inner.step():
        assert machine.set_to == [2, 2, 4]
    assert (outer.steps, inner.steps) == ({2: 1}, {4: 1})


def test_a_single_number_measures_and_sets_nothing() -> None:
    def never() -> float:
        raise AssertionError

    machine = Machine()
    tuner = ThreadTuner("loop", [3], machine.set_threads, clock=never, cpu_clock=never)
    with tuner.step():
        pass
    assert (tuner.chosen, machine.set_to, tuner.steps) == (3, [], {})
    fixed = ThreadTuners(4, machine.set_threads, is_fixed=True)
    assert fixed.of("loop", beside=2).counts == [4]
    assert ThreadTuners(1, machine.set_threads, is_fixed=False).is_fixed
    assert fixed.describe() == {}


@pytest.mark.parametrize(("factor", "chosen"), [(0.5, 2), (3.0, 1)])
def test_warming_up_decides_before_the_first_step(factor: float, chosen: int) -> None:
    machine, calls = Machine(), []
    tuner = machine.tuner(1, 2)

    def compute() -> None:
        with tuner.step():  # as a step is written; here it is not one
            calls.append(machine.threads)
        first = calls.count(machine.threads) == 1
        machine.now_s += 10.0 if first else waits(0.1, factor)(machine.threads)

    tuner.warm_up(compute, 5)
    assert calls == 5 * [2] + 5 * [1]
    assert (tuner.chosen, tuner.steps) == (chosen, {})
    machine.run(tuner, round(AGAIN_S / 0.1 / 2), waits(0.1, factor), same(0.1))
    assert tuner.steps.keys() == {chosen}


def test_choices_are_logged_and_described(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    caplog.set_level(logging.INFO, "effcli")
    tuners = ThreadTuners(2, machine.set_threads, is_fixed=False)
    assert tuners.of("train") is tuners.of("train")
    assert caplog.messages == ["train: 1 or 2 threads, whichever is faster"]
    assert tuners.describe() == {}
    with tuners.of("train").step():
        pass
    assert tuners.describe() == {"train": {"2": 1}}
    machine.run(machine.tuner(1, 2), 100, waits(0.1, 3.0), same(0.1))
    assert caplog.messages[1] == "loop: 1 instead of 2 threads, 3.0x faster"


def test_a_slice_of_short_steps_lasts_long_enough() -> None:
    machine = Machine()
    tuner = machine.tuner(1, 2)
    machine.run(tuner, 1 + round(SLICE_S / 0.001), waits(0.001, 1.0), same(0.001))
    assert tuner.steps == {2: 1 + round(SLICE_S / 0.001)}


# --- the environment ------------------------------------------------------------------------------------


def test_waiting_is_passive_unless_the_user_says_how() -> None:
    environment = {"PATH": "x"}
    wait_passively(environment)
    assert environment == {
        "PATH": "x",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "1000",
        "KMP_BLOCKTIME": "0",
    }
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        environment = {name: "7"}
        wait_passively(environment)
        assert environment == {name: "7"}


def test_numbers_in_the_environment() -> None:
    assert number_is_given({"OMP_NUM_THREADS": "2"})
    assert number_is_given({"MKL_NUM_THREADS": "2"})
    assert not number_is_given({"OMP_WAIT_POLICY": "PASSIVE"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "given", "counts"),
    [("auto", None, [1, 3]), ("auto", "2", [2]), (2, None, [2]), (1, None, [1]), (None, None, [3])],
)
def test_what_turns_measuring_off(threads: str | int | None, given: str | None, counts: list[int]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if given is None else {"OMP_NUM_THREADS": given}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import torch\n"
            "from effcli.core.runtime import create_runtime\n"
            f"if {given!r} is None: torch.set_num_threads(3)\n"
            f"runtime = create_runtime(device='cpu', threads={threads!r})\n"
            "print(runtime.tuner('loop').counts, torch.get_num_threads())\n"
            "torch.set_num_threads(1)\n"
            f"again = create_runtime(device='cpu', threads={threads!r})\n"
            "print(again.tuner('loop').counts)",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.splitlines()
    assert first == f"{counts} {counts[-1]}"
    assert again == (f"{counts}" if threads is not None and given is None else "[1]")


def test_the_policy_is_set_before_pytorch_is_loaded() -> None:
    code = "import os, sys\nimport effcli.cli.main as m\nassert 'torch' not in sys.modules\nsys.argv = ['effcli']\n"
    code += "try: m.main()\nexcept SystemExit: pass\n"
    code += "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_W", "GOMP", "KMP"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "PASSIVE False", done.stderr


# --- the loop of a run ----------------------------------------------------------------------------------


def trained(path: Path, runtime: Runtime) -> dict[str, object]:
    with open_run(path, ToyRecipe(), runtime, verb="run", recipe_name="toy") as run:
        return train(run.recipe, run).to_json()  # type: ignore[arg-type]


def test_measuring_changes_nothing_but_the_number_of_threads(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are the same steps with the same random numbers; set to one thread they give the same bits."""
    monkeypatch.setattr("effcli.core.threads.SLICE_S", 0.0)
    monkeypatch.setattr("effcli.core.threads.FREE_S", 1e9)
    monkeypatch.setattr("effcli.core.threads.AGAIN_S", 0.0)
    asked: list[int] = []
    fixed = Runtime(torch.device("cpu"), "fp32", 0)
    tuned = Runtime(torch.device("cpu"), "fp32", 0, tuners=ThreadTuners(2, asked.append, is_fixed=False))
    before, after = trained(tmp_path / "fixed", fixed), trained(tmp_path / "tuned", tuned)
    assert before["metrics"] == after["metrics"]
    assert set(asked) == {1, 2}
    steps = after["environment"]["steps_by_threads"]
    assert sum(n for loop in ("train", "tune") for n in steps[loop].values()) == len(asked)
    assert "steps_by_threads" not in before["environment"]


def test_a_fixed_number_stays(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        result = trained(tmp_path / "two", create_runtime(device="cpu", precision="fp32", threads=2))
        assert torch.get_num_threads() == 2
        assert result["environment"]["threads"] == 2
    finally:
        torch.set_num_threads(before)
