"""Rewards in units of the spread of discounted returns (as the VecNormalize of Stable-Baselines3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from effcli.rl_distill.environments.copies import Step

LARGEST = 10.0


class RewardScale:
    """Divides rewards by the running standard deviation of the discounted return so far of each copy.

    Args:
        copies: environments side by side.
        gamma: discount, 0..1.
    """

    def __init__(self, copies: int, gamma: float) -> None:
        self._gamma, self._running = gamma, np.zeros(copies)
        self.count, self.mean, self.variance = 1e-4, 0.0, 1.0

    def scaled(self, rewards: np.ndarray, step: Step) -> np.ndarray:
        """Count the rewards ``[E]`` of a step in and scale them, float32 ``[E]``, cut off at 10."""
        self._running = self._running * self._gamma + rewards
        seen = self._running[step.valid]
        if len(seen):
            share = len(seen) / (self.count + len(seen))
            apart = float(seen.mean()) - self.mean
            spread = float(seen.var()) * share + self.variance * (1 - share)
            self.variance = spread + apart**2 * share * (1 - share)
            self.mean, self.count = self.mean + apart * share, self.count + len(seen)
        self._running[step.done | ~step.valid] = 0.0
        scaled: np.ndarray = np.clip(rewards / np.sqrt(self.variance + 1e-8), -LARGEST, LARGEST)
        small: np.ndarray = scaled.astype(np.float32)
        return small

    def restart(self) -> None:
        """Discard the episodes in progress."""
        self._running[:] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The statistics."""
        return {
            "count": self.count,
            "mean": self.mean,
            "variance": self.variance,
            "running": self._running.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them; :meth:`restart` is due where new episodes begin."""
        self.count, self.mean, self.variance = (float(state[name]) for name in ("count", "mean", "variance"))
        self._running[:] = state["running"]
