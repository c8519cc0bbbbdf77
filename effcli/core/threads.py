"""How many CPU threads the work gets: measured on its own steps, and measured again when the machine gets busy.

PyTorch takes all cores. For tiny networks, and beside other busy processes, the threads then wait for each other
longer than they compute. Two things help: threads that wait go to sleep (:func:`wait_passively`), and a
:class:`ThreadTuner` compares numbers of threads on the steps of the loop itself; no step is computed for it alone, so
no randomness is consumed. Sums are added in another order with another number of threads: results differ in their
last bits.

This module imports nothing heavy: the command line needs it before PyTorch is loaded.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

log = logging.getLogger(__name__)

SLICE_S = 0.05
"""A measurement lasts at least this long, and at least one step."""

SHARE = 0.03
"""At most this share of the time is lost to steps with a number of threads that turns out to be slower ..."""

FREE_S = 0.2
"""... and this many seconds at the beginning."""

AGAIN_S = 5.0
"""The same number of threads is tried again after so many seconds of work, or when the pace of the steps changes."""

FASTER = 0.95
"""A number of threads is taken when its steps need less than this share of the time, twice in a row."""

CHANGED = 1.25
"""Steps that take this many times as long as before, or as little: the machine is busier or less busy."""

NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that fix the number of threads."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Variables that say how OpenMP's threads wait, and what they are set to."""

_AT_MOST = 2.0  # what a step with more threads is expected to take at most, of one with the present number


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP's threads sleep while they wait, instead of spinning for milliseconds on cores that others need.

    OpenMP reads these variables when it is loaded, so this comes before the import of PyTorch. GNU's runtime spins
    for 1000 rounds (some 0.05 ms, about what waking a thread costs) before it sleeps; Intel's and LLVM's sleep at once.
    A user who has set one of the variables has decided, and none is touched.
    """
    if not any(name in environment for name in WAITING):
        environment.update(WAITING)


def number_is_given(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has set the number of threads in the environment."""
    return any(name in environment for name in NUMBERS)


class _Inside:
    """Whether a step of any tuner is being computed: the number of threads belongs to the whole process."""

    is_inside = False

    def __enter__(self) -> None:
        self.is_inside = True

    def __exit__(self, *exception: object) -> None:
        self.is_inside = False


_INSIDE = _Inside()


class ThreadTuner:
    """Chooses the number of threads of one loop while it runs::

        for batch in batches:
            with tuner.step():
                compute(batch)

    It begins with the most threads. Steps are timed in slices of at least ``SLICE_S``; now and then a slice runs with
    another number, which is taken when it is faster twice in a row. Before that, the loss is estimated (one thread
    needs about the CPU time that all threads together need now), and the slice waits until the loop has run long
    enough for the loss to be less than ``SHARE`` of it; losses are counted as they turn out. The first step with a
    number is not timed: it may compile kernels. A step inside a step of another tuner belongs to that one.

    Args:
        loop: its name, for the log.
        counts: the numbers of threads to choose from; of a single one nothing is measured.
        set_threads: sets the number of threads of the calling thread.
        clock: seconds.
        cpu_clock: seconds of CPU time, of all threads of this process.

    Attributes:
        chosen: the number of threads that was the fastest when they were compared.
        steps: steps done with each number of threads.
    """

    def __init__(
        self,
        loop: str,
        counts: Iterable[int],
        set_threads: Callable[[int], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._loop = loop
        self.counts = sorted(set(counts))
        self._count = self.chosen = self.counts[-1]
        self.steps: Counter[int] = Counter()
        self._set_threads, self._clock, self._cpu_clock = set_threads, clock, cpu_clock
        self._slice = _Slice()
        self._cost: dict[int, float] = {}  # seconds per unit of work, as last measured
        self._recent: deque[float] = deque(maxlen=3)  # the same of the last slices with the chosen number
        self._pace: float | None = None  # cost of the chosen number when the others were to be tried
        self._tried_s: dict[int, float] = {}
        self._winner: int | None = None  # the number that was faster than the chosen one, once
        self._elapsed_s = self._lost_s = 0.0
        self._warm: set[int] = set()
        self._is_first_choice = True

    @contextmanager
    def step(self, work: float = 1.0) -> Iterator[None]:
        """Compute one step inside of this.

        Args:
            work: its amount in any unit, where steps differ, such as the pixels of a picture; positive.
        """
        if len(self.counts) == 1 or _INSIDE.is_inside:
            yield
            return
        self._set_threads(self._count)
        began, cpu_began = self._clock(), self._cpu_clock()
        with _INSIDE:
            yield
        self._add(_Slice(self._clock() - began, self._cpu_clock() - cpu_began, work, 1))

    def warm_up(self, step: Callable[[], object], times: int) -> None:
        """Call a step that may be repeated ``times`` times with each number, and begin with the fastest."""
        for count in reversed(self.counts):
            if len(self.counts) > 1:
                self._set_threads(count)
            seconds = []
            for _ in range(times):
                began = self._clock()
                with _INSIDE:
                    step()
                seconds.append(self._clock() - began)
            self._cost[count] = median(seconds[times // 2 :])
        self._warm.update(self.counts)
        self._choose(min(self.counts, key=self._cost.__getitem__))
        self._tried_s = dict.fromkeys(self.counts, self._elapsed_s)

    def _add(self, step: _Slice) -> None:
        self.steps[self._count] += 1
        self._elapsed_s += step.seconds
        if self._count != self.chosen:
            self._lost_s += max(0.0, step.seconds - self._cost[self.chosen] * step.work)
        if self._count not in self._warm:
            self._warm.add(self._count)
            return
        self._slice = self._slice.and_then(step)
        if self._slice.seconds < SLICE_S:
            return
        done, self._slice = self._slice, _Slice()
        if self._count == self.chosen:
            self._see_chosen(done)
        else:
            self._see_other(done)

    def _see_chosen(self, done: _Slice) -> None:
        self._recent.append(done.seconds / done.work)
        cost = self._cost[self.chosen] = median(self._recent)
        if self._pace is None:
            self._pace = cost
        elif not 1 / CHANGED < cost / self._pace < CHANGED:
            self._pace = cost
            self._tried_s.clear()
        self._count = self._due(done) or self.chosen

    def _see_other(self, done: _Slice) -> None:
        other, self._count = self._count, self.chosen
        self._cost[other] = done.seconds / done.work
        self._tried_s[other] = self._elapsed_s
        if self._cost[other] >= FASTER * self._cost[self.chosen]:
            self._winner = None
        elif self._winner == other:
            self._choose(other)
        else:
            self._winner = other

    def _due(self, done: _Slice) -> int | None:
        """The number to try in the next slice, if any."""
        if self._winner is not None:
            return self._winner
        never = -math.inf
        others = [count for count in self.counts if count != self.chosen]
        other = min(others, key=lambda count: self._tried_s.get(count, never))
        if self._elapsed_s - self._tried_s.get(other, never) < AGAIN_S:
            return None
        allowed_s = FREE_S + SHARE * self._elapsed_s - self._lost_s
        return other if self._expected_loss_s(other, done) <= allowed_s else None

    def _expected_loss_s(self, other: int, done: _Slice) -> float:
        """Seconds that a slice with another number takes longer than the chosen number would for the same steps."""
        own = self._cost[self.chosen]
        bound = done.cpu_s / done.work if other < self.chosen else _AT_MOST * own
        cost = min(bound, self._cost.get(other, bound))
        step_work = done.work / done.n_steps
        n_steps = max(1.0, SLICE_S / max(cost * step_work, 1e-9)) + (other not in self._warm)
        return (cost - own) * step_work * n_steps

    def _choose(self, count: int) -> None:
        if count != self.chosen:
            ratio = self._cost[self.chosen] / self._cost[count]
            said = "%s: %d instead of %d threads, %.1fx faster"
            level = logging.INFO if self._is_first_choice else logging.DEBUG
            log.log(level, said, self._loop, count, self.chosen, ratio)
            self._is_first_choice = False
        self._tried_s[self.chosen] = self._elapsed_s
        self._count = self.chosen = count
        self._recent.clear()
        self._recent.append(self._cost[count])
        self._pace = self._winner = None


@dataclass(frozen=True)
class _Slice:
    """Steps that are timed together."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    work: float = 0.0
    n_steps: int = 0

    def and_then(self, other: _Slice) -> _Slice:
        """Both as one."""
        return _Slice(
            self.seconds + other.seconds,
            self.cpu_s + other.cpu_s,
            self.work + other.work,
            self.n_steps + other.n_steps,
        )


class ThreadTuners:
    """The tuners of all loops of a process, by their names.

    Args:
        most: the most threads; where the number is fixed, that number.
        set_threads: as for :class:`ThreadTuner`.
        is_fixed: nothing is measured or set.
    """

    def __init__(self, most: int, set_threads: Callable[[int], None], *, is_fixed: bool) -> None:
        self.most, self.is_fixed = most, is_fixed or most == 1
        self._set_threads = set_threads
        self._tuners: dict[str, ThreadTuner] = {}

    def of(self, loop: str, beside: int = 0) -> ThreadTuner:
        """The tuner of a loop: one thread, all, or all but those that work ``beside`` it (readers, workers)."""
        if loop not in self._tuners:
            counts = {self.most} if self.is_fixed else {1, max(1, self.most - beside), self.most}
            self._tuners[loop] = ThreadTuner(loop, counts, self._set_threads)
            if not self.is_fixed:
                log.info("%s: %s threads, whichever is faster", loop, " or ".join(map(str, sorted(counts))))
        return self._tuners[loop]

    def describe(self) -> dict[str, dict[str, int]]:
        """Loop -> number of threads -> steps that were done with it; empty where the number is fixed."""
        if self.is_fixed:
            return {}
        return {
            loop: {str(count): n for count, n in tuner.steps.most_common()}
            for loop, tuner in self._tuners.items()
            if tuner.steps
        }
