"""The replay memory of DQN: a ring buffer of transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.rl_distill.environments import SMALLEST_FRAME, Step


class Replay:
    """The last transitions of a policy.

    Each observation is stored once: the next one is the next row of the same copy. Frames stacked over time
    (``[K, H, W]`` of bytes) are stored singly and stacked again when they are sampled; at the start of an episode its
    first frame stands for those before it.

    Args:
        capacity: transitions of all copies together.
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
        """Number of stored transitions, including resets."""
        return min(self.n_added, self._rows - 1) * self._copies

    def begin(self, observations: np.ndarray) -> None:
        """Start new episodes in all copies; the observation before has no follower."""
        if self.n_added:
            self.valid[(self.n_added - 1) % self._rows] = False
        row = self.n_added % self._rows
        self._write(row, observations)
        self.age[row] = 0

    def add(self, actions: np.ndarray, rewards: np.ndarray, step: Step) -> None:
        """Store one transition per copy, from the newest observations.

        Args:
            actions: int64 ``[E]``.
            rewards: to learn from, ``[E]``.
            step: the result of the environments.
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

    def sample(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, ...]:
        """Sample transitions uniformly, with replacement.

        Returns:
            observations ``[n, ...]``, actions ``[n]``, rewards ``[n]``, next observations ``[n, ...]``, and terminated
            ``[n]`` as floats.
        """
        rows, copies = self._sampled_places(n, generator)
        following = (rows + 1) % self._rows
        content = (
            self._read(rows, copies),
            self.actions[rows, copies],
            self.rewards[rows, copies],
            self._read(following, copies),
            self.terminated[rows, copies].astype(np.float32),
        )
        return tuple(torch.from_numpy(part).to(device) for part in content)

    def _sampled_places(self, n: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Indices of rows and copies whose transitions are complete."""
        n_rows = min(self.n_added, self._rows - 1)
        oldest = self.n_added - n_rows
        found: list[np.ndarray] = []
        missing = n
        while missing > 0:
            numbers = torch.randint(n_rows * self._copies, (2 * missing + 8,), generator=generator).numpy()
            rows, copies = (oldest + numbers // self._copies) % self._rows, numbers % self._copies
            good = self.valid[rows, copies]
            if self._stack:  # the frames before it must still be stored
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
        """Everything stored."""
        names = ("observations", "actions", "rewards", "terminated", "valid", "age")
        return {
            **{name: torch.from_numpy(getattr(self, name).copy()) for name in names},
            "n_added": self.n_added,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.n_added = int(state["n_added"])
        for name, value in state.items():
            if name != "n_added":
                getattr(self, name)[:] = value.numpy()
