"""Environments whose every step is known beforehand."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Corridor(gymnasium.Env[np.ndarray, int]):
    """Walk right (action 1) over ``length`` places; a step costs 0.1, the end gives 1; cut off after ``limit`` steps.

    Args:
        length: places.
        limit: most steps.
        reward: for arriving.
    """

    def __init__(self, length: int = 4, limit: int = 12, reward: float = 1.0) -> None:
        self.length, self.limit, self.reward = length, limit, reward
        self.observation_space = gymnasium.spaces.Box(0, 1, (length,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.n = 0, 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = max(0, self.place + (1 if action == 1 else -1))
        self.n += 1
        arrived = self.place >= self.length - 1
        reward = self.reward if arrived else -0.1
        return self._seen(), reward, arrived, not arrived and self.n >= self.limit, {}

    def _seen(self) -> np.ndarray:
        seen = np.zeros(self.length, np.float32)
        seen[min(self.place, self.length - 1)] = 1
        return seen


class Frames(gymnasium.Env[np.ndarray, int]):
    """Stacks of four frames of 36 x 36 bytes, whose value counts the steps of all episodes; seven steps an episode."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 36, 36), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)  # type: ignore[assignment]
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count += 1
        self.frames, self.n = [self.count % 256] * 4, 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.n += 1
        self.frames = [*self.frames[1:], self.count % 256]
        return self._seen(), 5.0 * action, self.n == 7, False, {}

    def _seen(self) -> np.ndarray:
        return np.stack([np.full((36, 36), value, np.uint8) for value in self.frames])


CORRIDOR = "tests.rl_distill.small_envs:Corridor"
FRAMES = "tests.rl_distill.small_envs:Frames"
