"""Returns of episodes as they end, learning curves, and confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from effcli.rl_distill.environments.copies import Step

LONG = 20
"""A game that has taken this many times the mean length of those that ended may never end."""


class Returns:
    """The undiscounted, unclipped returns of one policy's episodes.

    Args:
        copies: environments side by side.

    Attributes:
        ends: environment steps of the policy when each episode ended.
        values: the return of each episode.
        n_steps: environment steps so far, without resets.
        running: returns so far of the episodes in progress.
        running_steps: their steps so far.
    """

    def __init__(self, copies: int) -> None:
        self.running, self.running_steps = np.zeros(copies), np.zeros(copies, int)
        self.ends: list[int] = []
        self.values: list[float] = []
        self.n_steps = 0
        self._shared = (0, 0)

    def add(self, step: Step) -> None:
        """Count one step of all copies."""
        self.running += step.rewards
        self.running_steps += step.valid
        self.n_steps += int(step.valid.sum())
        for copy in np.flatnonzero(step.done):
            self.ends.append(self.n_steps)
            self.values.append(float(self.running[copy]))
            self.running[copy], self.running_steps[copy] = 0.0, 0

    def take_new(self) -> tuple[int, list[float]]:
        """Steps and returns of episodes since the last call, which other processes are to know."""
        steps, values = self.n_steps - self._shared[0], self.values[self._shared[1] :]
        self._shared = (self.n_steps, len(self.values))
        return steps, values

    def add_others(self, new: Sequence[tuple[int, list[float]]], own: int) -> None:
        """Count in what all processes found since the last call, in their order, so that all count the same.

        Args:
            new: from :meth:`take_new` of each.
            own: index of this process.
        """
        n_before = len(self.values) - len(new[own][1])
        self.n_steps += sum(steps for i, (steps, _) in enumerate(new) if i != own)
        del self.values[n_before:], self.ends[n_before:]
        for _, values in new:
            self.values += values
        self.ends += [self.n_steps] * (len(self.values) - n_before)
        self._shared = (self.n_steps, len(self.values))

    def restart(self) -> None:
        """Discard the episodes in progress."""
        self.running[:], self.running_steps[:] = 0.0, 0

    def recent(self, window: int) -> float | None:
        """The mean return of the last ``window`` episodes; None before the first."""
        return float(np.mean(self.values[-window:])) if self.values else None

    @property
    def n_unfinished(self) -> int:
        """How many games in progress have taken ``LONG`` times the mean length of those that ended: may never end."""
        return int(self._is_unfinished().sum())

    def recent_or_so_far(self, window: int) -> float | None:
        """As :meth:`recent`, but games that may never end count, too, with their return so far."""
        values = [*self.values[-window:], *self.running[self._is_unfinished()].tolist()]
        return float(np.mean(values)) if values else None

    def _is_unfinished(self) -> np.ndarray:
        n_ended = len(self.values)
        typical = (self.n_steps - int(self.running_steps.sum())) / n_ended if n_ended else 0.0
        is_long: np.ndarray = self.running_steps > LONG * max(typical, 1.0)
        return is_long

    def state_dict(self) -> dict[str, Any]:
        """Everything counted so far."""
        return {
            "ends": list(self.ends),
            "values": list(self.values),
            "n_steps": self.n_steps,
            "running": self.running.tolist(),
            "running_steps": self.running_steps.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; :meth:`restart` is due where new episodes begin."""
        self.ends, self.values = list(state["ends"]), list(state["values"])
        self.n_steps = int(state["n_steps"])
        self._shared = (self.n_steps, len(self.values))
        self.restart()
        if "running" in state:  # not in version 0.1
            self.running[:], self.running_steps[:] = state["running"], state["running_steps"]


def curve(
    ends: Sequence[int], values: Sequence[float], total_steps: int, window: int, n_points: int = 50
) -> np.ndarray:
    """The mean return of the last ``window`` episodes at ``n_points`` equally spaced steps, ``[n_points]``.

    Before the first episode ends it is the return of that episode; NaN without any.
    """
    if not values:
        return np.full(n_points, np.nan)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    done = np.searchsorted(
        np.asarray(ends), np.linspace(total_steps / n_points, total_steps, n_points), "right"
    )
    last = np.maximum(done, 1)
    first = np.maximum(last - window, 0)
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return means


def area_under(points: np.ndarray) -> float:
    """The mean height of a curve with equally spaced points."""
    return float(points.mean())


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, n: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean; a single value gives itself twice."""
    data = np.asarray(values, float)
    indices = np.random.default_rng(seed).integers(0, len(data), (n, len(data)))
    means = data[indices].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
