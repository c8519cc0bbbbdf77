"""The replay memory of DQN: a ring buffer of transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.rl_distill.environments.copies import CopyShare, Step


class Replay:
    """The last transitions of a policy, exactly as they were seen.

    Each observation is stored once: the next one is the next row of the same copy. Frames stacked over time
    (``[K, H, W]``) are stored singly and stacked again when they are sampled. A stack that does not continue the one
    before it, as at the start of an episode, is stored whole, and so is the last observation of an episode whose
    copy already shows the next one.

    Args:
        capacity: transitions of all copies together.
        copies: environments side by side.
        shape: of an observation.
        dtype: of an observation.
        stacked: observations are frames over time, the newest last.
    """

    def __init__(
        self,
        capacity: int,
        copies: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        stacked: bool = False,
    ) -> None:
        self._rows = max(2, -(-capacity // copies)) + 1  # one more: the newest row has no follower yet
        self._copies = copies
        self._stack = shape[0] if stacked else 0
        kept = shape[1:] if self._stack else shape
        self.observations = np.zeros((self._rows, copies, *kept), dtype)
        self.actions = np.zeros((self._rows, copies), np.int64)
        self.rewards = np.zeros((self._rows, copies), np.float32)
        self.terminated = np.zeros((self._rows, copies), bool)
        self.valid = np.zeros((self._rows, copies), bool)
        self.age = np.zeros((self._rows, copies), np.int32)  # steps since a stack was stored whole
        self.whole: dict[tuple[int, int], np.ndarray] = {}  # (row, copy) -> stack
        self.last: dict[
            tuple[int, int], np.ndarray
        ] = {}  # (row, copy) -> what followed, where the next row is not it
        self._shown = np.zeros((copies, *shape), dtype)
        self.n_added = 0

    def __len__(self) -> int:
        """Number of stored transitions, including resets."""
        return min(self.n_added, self._rows - 1) * self._copies

    def begin(self, observations: np.ndarray) -> None:
        """Start new episodes in all copies; the observation before has no follower."""
        if self.n_added:
            self.valid[(self.n_added - 1) % self._rows] = False
        row = self.n_added % self._rows
        self._write(row, observations, np.ones(self._copies, bool))

    def continue_from(self, observations: np.ndarray) -> None:
        """Go on after the newest observations, which are stored already."""
        self._shown = observations

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
        begins = ~step.valid if step.following is None else step.done
        self._write(following, step.shown, begins)
        if step.following is not None:
            for copy in np.flatnonzero(step.done):
                self.last[row, int(copy)] = step.observations[copy].copy()
        self.valid[following] = False
        self.n_added += 1

    def _write(self, row: int, observations: np.ndarray, begins: np.ndarray) -> None:
        """Store what all copies show; ``begins`` where it is the first of an episode."""
        if self.whole or self.last:
            for copy in range(self._copies):
                self.whole.pop((row, copy), None)
                self.last.pop((row, copy), None)
        if self._stack:
            axes = tuple(range(1, observations.ndim))
            begins = begins | (observations[:, :-1] != self._shown[:, 1:]).any(axes)
            for one in np.flatnonzero(begins).tolist():
                self.whole[row, one] = observations[one].copy()
            self._shown = observations
        before = self.age[(row - 1) % self._rows]
        self.age[row] = np.where(begins, 0, before + 1)
        self.observations[row] = observations[:, -1] if self._stack else observations

    def read(self, rows: np.ndarray, copies: np.ndarray, device: torch.device) -> tuple[Tensor, ...]:
        """The transitions at places.

        Args:
            rows, copies: indices ``[n]``, of :meth:`places`.
            device: of the result.

        Returns:
            observations ``[n, ...]``, actions ``[n]``, rewards ``[n]``, next observations ``[n, ...]``, and terminated
            ``[n]`` as floats.
        """
        content = (
            self._read(rows, copies),
            self.actions[rows, copies],
            self.rewards[rows, copies],
            self._following(rows, copies),
            self.terminated[rows, copies].astype(np.float32),
        )
        return tuple(torch.from_numpy(part).to(device) for part in content)

    def places(
        self, n: int, generator: torch.Generator, share: CopyShare | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample places of complete transitions uniformly, with replacement.

        Args:
            n: how many.
            generator: in the same state in all processes.
            share: which of all copies are stored here, None for all; the result are then those of n that are.

        Returns:
            indices of rows and copies.
        """
        own = share or CopyShare(0, self._copies, self._copies, lambda counts: counts)
        n_rows = min(self.n_added, self._rows - 1)
        oldest = self.n_added - n_rows
        found: list[np.ndarray] = []
        missing = n
        while missing > 0:
            numbers = torch.randint(n_rows * own.n_all, (2 * missing + 8,), generator=generator).numpy()
            behind, copies = numbers // own.n_all, numbers % own.n_all - own.first
            rows, is_own = (oldest + behind) % self._rows, (copies >= 0) & (copies < own.n_own)
            here = np.where(is_own, copies, 0)
            good = is_own & self.valid[rows, here]
            if self._stack:  # the frames before it must still be stored
                good &= behind >= np.minimum(self.age[rows, here], self._stack - 1)
            good = own.total(torch.from_numpy(good).int()).numpy() > 0  # each place is stored in one process
            found.append(np.stack([rows[good], copies[good]]))
            missing -= int(good.sum())
        rows, copies = np.concatenate(found, 1)[:, :n]
        is_own = (copies >= 0) & (copies < own.n_own)
        return rows[is_own], copies[is_own]

    def _following(self, rows: np.ndarray, copies: np.ndarray) -> np.ndarray:
        found = self._read((rows + 1) % self._rows, copies)
        for i, place in enumerate(zip(rows.tolist(), copies.tolist(), strict=True)):
            if place in self.last:
                found[i] = self.last[place]
        return found

    def _read(self, rows: np.ndarray, copies: np.ndarray) -> np.ndarray:
        if not self._stack:
            whole: np.ndarray = self.observations[rows, copies]
            return whole
        age, back = self.age[rows, copies], np.arange(self._stack - 1, -1, -1)
        steps = np.minimum(back[None], age[:, None])
        frames: np.ndarray = self.observations[(rows[:, None] - steps) % self._rows, copies[:, None]]
        for i in np.flatnonzero(age < self._stack - 1):  # its first frames are those of a stack stored whole
            place = int((rows[i] - age[i]) % self._rows), int(copies[i])
            if place in self.whole:
                frames[i, : self._stack - 1 - age[i]] = self.whole[place][age[i] : -1]
        return frames

    def state_dict(self) -> dict[str, Any]:
        """Everything stored."""
        names = ("observations", "actions", "rewards", "terminated", "valid", "age")
        return {
            **{name: torch.from_numpy(getattr(self, name).copy()) for name in names},
            "whole": _as_tensors(self.whole),
            "last": _as_tensors(self.last),
            "n_added": self.n_added,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; where one of version 0.1 stored no stack whole, its first frame stands for those before it."""
        self.n_added = int(state["n_added"])
        self.whole, self.last = (
            {} if name not in state else _as_arrays(state[name]) for name in ("whole", "last")
        )
        for name in ("observations", "actions", "rewards", "terminated", "valid", "age"):
            getattr(self, name)[:] = state[name].numpy()


def _as_tensors(stored: dict[tuple[int, int], np.ndarray]) -> tuple[Tensor, Tensor]:
    """Places ``[n, 2]`` and values ``[n, ...]``."""
    places = torch.tensor(list(stored), dtype=torch.int64).reshape(-1, 2)
    return places, torch.from_numpy(np.stack(list(stored.values()))) if stored else torch.zeros(0)


def _as_arrays(stored: tuple[Tensor, Tensor]) -> dict[tuple[int, int], np.ndarray]:
    places, values = stored
    return {(row, copy): value for (row, copy), value in zip(places.tolist(), values.numpy(), strict=True)}
