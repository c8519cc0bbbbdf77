"""What DQN remembers: one array, written round and round."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.rl_distill.environments import SMALLEST_FRAME, Step


class Replay:
    """The last transitions of a policy.

    Observations are kept once: the one that follows is the next row of the same copy. Frames that are stacked over time
    (``[K, H, W]`` of bytes) are kept singly and stacked again when they are drawn, at an episode's start with its first
    frame in the place of those before it.

    Args:
        capacity: transitions, of all copies together.
        copies: environments side by side.
        shape: of an observation.
        dtype: of an observation.
    """

    def __init__(self, capacity: int, copies: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._rows = max(2, -(-capacity // copies)) + 1  # one more: the newest row has no follower yet
        self._copies = copies
        self._stack = (
            shape[0] if len(shape) == 3 and dtype == np.uint8 and min(shape[1:]) >= SMALLEST_FRAME else 0
        )
        kept = shape[1:] if self._stack else shape
        self.observations = np.zeros((self._rows, copies, *kept), dtype)
        self.actions = np.zeros((self._rows, copies), np.int64)
        self.rewards = np.zeros((self._rows, copies), np.float32)
        self.terminated = np.zeros((self._rows, copies), bool)
        self.valid = np.zeros((self._rows, copies), bool)
        self.age = np.zeros((self._rows, copies), np.int32)  # steps since the episode's first observation
        self.n_added = 0

    def __len__(self) -> int:
        """Transitions that can be drawn, resets among them."""
        return min(self.n_added, self._rows - 1) * self._copies

    def begin(self, observations: np.ndarray) -> None:
        """New episodes begin in all copies, and what was before them has no follower."""
        if self.n_added:
            self.valid[(self.n_added - 1) % self._rows] = False
        row = self.n_added % self._rows
        self._write(row, observations)
        self.age[row] = 0

    def add(self, actions: np.ndarray, rewards: np.ndarray, step: Step) -> None:
        """What was done in the newest observations, and what came of it.

        Args:
            actions: int64 ``[E]``.
            rewards: to learn from, ``[E]``.
            step: what the environments gave.
        """
        row, following = self.n_added % self._rows, (self.n_added + 1) % self._rows
        self.actions[row], self.rewards[row] = actions, rewards
        self.terminated[row], self.valid[row] = step.terminated, step.valid
        self._write(following, step.observations)
        self.valid[following] = False
        self.age[following] = np.where(step.valid, self.age[row] + 1, 0)
        self.n_added += 1

    def _write(self, row: int, observations: np.ndarray) -> None:
        self.observations[row] = observations[:, -1] if self._stack else observations

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, ...]:
        """Transitions drawn with equal chances, with replacement.

        Returns:
            Observations ``[n, ...]``, actions ``[n]``, rewards ``[n]``, following observations, and whether the episode
            ended by itself ``[n]`` as floats.
        """
        rows, copies = self._drawn(n, generator)
        following = (rows + 1) % self._rows
        content = (
            self._read(rows, copies),
            self.actions[rows, copies],
            self.rewards[rows, copies],
            self._read(following, copies),
            self.terminated[rows, copies].astype(np.float32),
        )
        return tuple(torch.from_numpy(part).to(device) for part in content)

    def _drawn(self, n: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of rows and copies whose transitions are whole."""
        n_rows = min(self.n_added, self._rows - 1)
        oldest = self.n_added - n_rows
        found: list[np.ndarray] = []
        missing = n
        while missing > 0:
            numbers = torch.randint(n_rows * self._copies, (2 * missing + 8,), generator=generator).numpy()
            rows, copies = (oldest + numbers // self._copies) % self._rows, numbers % self._copies
            good = self.valid[rows, copies]
            if self._stack:  # the frames before it must be there still
                behind = oldest + numbers // self._copies - oldest
                good &= behind >= np.minimum(self.age[rows, copies], self._stack - 1)
            found.append(np.stack([rows[good], copies[good]]))
            missing -= int(good.sum())
        both = np.concatenate(found, 1)[:, :n]
        return both[0], both[1]

    def _read(self, rows: np.ndarray, copies: np.ndarray) -> np.ndarray:
        if not self._stack:
            whole: np.ndarray = self.observations[rows, copies]
            return whole
        back = np.arange(self._stack - 1, -1, -1)
        steps = np.minimum(back[None], self.age[rows, copies][:, None])
        frames: np.ndarray = self.observations[(rows[:, None] - steps) % self._rows, copies[:, None]]
        return frames

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        names = ("observations", "actions", "rewards", "terminated", "valid", "age")
        return {
            **{name: torch.from_numpy(getattr(self, name).copy()) for name in names},
            "n_added": self.n_added,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.n_added = int(state["n_added"])
        for name, value in state.items():
            if name != "n_added":
                getattr(self, name)[:] = value.numpy()
