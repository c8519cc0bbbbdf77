"""Copies of an environment that step together, whatever they do after the end of an episode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import RunError, UsageError
from effcli.data.picture_folders import say_once
from effcli.rl_distill.environments.actions import Actions, actions_of
from effcli.rl_distill.environments.observations import MASK, observed_of, with_axis
from effcli.rl_distill.environments.state import restore_state, state_of


@dataclass(frozen=True)
class Step:
    """The result of one step of all E copies.

    Attributes:
        observations: ``[E, ...]``; where an episode ends, its last one.
        rewards: of the environment, never clipped, float32 ``[E]``.
        terminated: the episode reached a terminal state, bool ``[E]``.
        truncated: the episode was cut off, for example by a time limit, bool ``[E]``.
        valid: False where the copy was reset and ignored the action, bool ``[E]``.
        following: what the copies show next, ``[E, ...]``; None where that is ``observations``. They differ where an
            episode ended and the copy was reset in the same step.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    following: np.ndarray | None = None

    @property
    def done(self) -> np.ndarray:
        """Where an episode ended, bool ``[E]``."""
        ended: np.ndarray = self.terminated | self.truncated
        return ended

    @property
    def shown(self) -> np.ndarray:
        """What the next action follows from, ``[E, ...]``."""
        return self.observations if self.following is None else self.following


@dataclass(frozen=True)
class CopyShare:
    """Which of all copies those of this process are; several processes share them out evenly.

    Attributes:
        first: index of its first among all.
        n_own: how many it has.
        n_all: how many there are.
        total: adds up a tensor over the processes, in place.
    """

    first: int
    n_own: int
    n_all: int
    total: Callable[[Tensor], Tensor]

    def of(self, x: Tensor) -> Tensor:
        """This process's part of what is given for all copies, ``[n, E, ...]``."""
        return x[:, self.first : self.first + self.n_own]


class EnvironmentFailure(Exception):  # noqa: N818  not an error of effcli
    """An environment raised an exception in a step, or returned what it must not."""


@contextlib.contextmanager
def failures_named(place: str) -> Iterator[None]:
    """Failures of an environment as errors of the run or verb.

    Raises:
        RunError: an environment failed.
    """
    try:
        yield
    except EnvironmentFailure as error:
        raise RunError(f"the environment failed: {error}", place=place) from error


_REASONS = {
    "not enough values to unpack (expected 5": "step() does not return 5 values (observation, reward, terminated, "
    "truncated, info), as gymnasium asks for; is it an environment of the older gym?",
    "too many values to unpack (expected 2": "reset() does not return 2 values (observation, info), as gymnasium asks "
    "for; is it an environment of the older gym?",
    "setting an array element with a sequence": "a reward, terminated or truncated is not one number",
}


def reason_of(error: Exception) -> str:
    """What an exception in an environment means."""
    text = f"{type(error).__name__}: {error}"
    return next((meaning for start, meaning in _REASONS.items() if str(error).startswith(start)), text)


class Environments:
    """Copies of one environment.

    By ``metadata["autoreset_mode"]`` of gymnasium a copy resets in the step after an episode's end, in which the action
    is ignored (``NEXT_STEP``, also where nothing is said); in the same step, the last observation being in ``info``
    (``SAME_STEP``); or is reset here (``DISABLED``).

    Args:
        env: a gymnasium vector environment.
        name: of the environment, for messages.
        stacked: it stacks frames over time, as ``[K, H, W]``.
        bounds: how continuous actions are kept within theirs.
        hidden: names of parts that policies do not see.

    Attributes:
        observed: what observations are.
        actions: which there are.

    Raises:
        UsageError: no policy reads the observations or decides on the actions.
        EnvironmentFailure: the first observations are not what their space says.
    """

    def __init__(
        self,
        env: Any,
        name: str,
        *,
        stacked: bool = False,
        bounds: Literal["clip", "squash"] = "clip",
        hidden: Sequence[str] = (),
    ) -> None:
        self._env, self.name = env, name
        self.actions: Actions = actions_of(env.single_action_space, name, bounds)
        raw, info = env.reset(seed=0)
        n_masked = self._n_masked(info)
        observed = observed_of(env.single_observation_space, name, n_masked, stacked=stacked)
        self.observed = observed.without(hidden, name)
        if self.observed.mask is not None:
            self._check_mask(self.observed.parts[-1].n_values)
        mode = env.metadata.get("autoreset_mode") if isinstance(env.metadata, dict) else None
        self._mode = str(getattr(mode, "value", mode or "NextStep")).replace("_", "").lower()
        if self._mode not in ("nextstep", "samestep", "disabled"):
            raise UsageError(f"unknown autoreset mode {self._mode!r}", place=name)
        self._was_done = np.zeros(env.num_envs, dtype=bool)
        self._packed(raw, info)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an observation."""
        return self.observed.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an observation."""
        return self.observed.dtype

    @property
    def n_actions(self) -> int:
        """Number of actions of Discrete; of others, of numbers of a decision."""
        return self.actions.n_decisions

    def __len__(self) -> int:
        return int(self._env.num_envs)

    def _n_masked(self, info: Any) -> int:
        """Number of actions that ``info`` of a first reset allows or not; 0 where it does not say."""
        mask = info.get(MASK) if isinstance(info, dict) else None
        return 0 if mask is None else int(np.prod(_rows(mask, len(self)).shape[1:]))

    def _check_mask(self, n: int) -> None:
        if self.actions.kind != "choices" or n != self.actions.n_decisions:
            raise UsageError(
                f"{MASK} has {n} values, for {self.actions.n_decisions} actions", place=self.name
            )

    def reset(self, seed: int) -> np.ndarray:
        """Start new episodes; the copies get consecutive seeds.

        Raises:
            EnvironmentFailure: the environment's own code raised an exception, or its observations are of other shapes
                than its space.
        """
        raw, info = self._reset(seed=seed)
        self._was_done = np.zeros(len(self), dtype=bool)
        packed = self._packed(raw, info)
        self._say_beyond_bounds(raw)
        return packed

    def _reset(self, **given: Any) -> tuple[Any, Any]:
        try:
            raw, info = self._env.reset(**given)
        except Exception as error:
            raise EnvironmentFailure(reason_of(error)) from error
        return raw, info

    def _packed(self, raw: Any, info: Any, n: int | None = None) -> np.ndarray:
        """Observations of ``n`` copies, or of all, as one array."""
        n = len(self) if n is None else n
        mask = info.get(MASK) if self.observed.mask is not None and isinstance(info, dict) else None
        try:
            packed = self.observed.pack(raw, n, None if mask is None else _rows(mask, n))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EnvironmentFailure(f"an observation is not what its space says: {error}") from error
        with np.errstate(over="ignore"):
            is_finite = packed.dtype.kind != "f" or np.isfinite(packed.astype(np.float32, copy=False)).all()
        if not is_finite:
            raise EnvironmentFailure("an observation holds NaN or infinite numbers, or ones beyond float32")
        return packed

    def _say_beyond_bounds(self, raw: Any) -> None:
        """Warn once of observations outside of the bounds of their space, by which they are scaled."""
        space = self._env.single_observation_space
        low, high = getattr(space, "low", None), getattr(space, "high", None)  # of Box
        if low is not None and isinstance(raw, np.ndarray) and raw.shape[1:] == space.shape:
            wrong = (raw < low) | (raw > high)
            if wrong.any():
                say_once(
                    f"{self.name}: observations are outside of the bounds of their space, such as "
                    f"{raw[wrong].ravel()[0]:g}; pictures are scaled by these bounds, so correct the space"
                )

    def step(self, actions: np.ndarray) -> Step:
        """Take one action in each copy.

        Raises:
            EnvironmentFailure: the environment's own code raised an exception, or its results have other shapes than
                they must have.
        """
        taken = self.actions.of_environment(actions)
        try:
            raw, rewards, terminated, truncated, info = self._env.step(taken)
        except Exception as error:
            raise EnvironmentFailure(reason_of(error)) from error
        with np.errstate(over="ignore"):
            rewards = np.asarray(rewards, np.float32)
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        for name, found in (("reward", rewards), ("terminated", terminated), ("truncated", truncated)):
            if found.shape != (len(self),):
                shape = list(found.shape[1:])
                raise EnvironmentFailure(f"{name} of shape {shape}; it is one number of each copy")
        if not np.isfinite(rewards[~self._was_done]).all():
            raise EnvironmentFailure("a reward is NaN or infinite")
        observations = self._packed(raw, info)
        if self._mode != "nextstep":
            return self._step_of_same(observations, rewards, terminated, truncated, info)
        valid = ~self._was_done
        terminated, truncated = terminated & valid, truncated & valid
        self._was_done = terminated | truncated
        return Step(observations, np.where(valid, rewards, np.float32(0)), terminated, truncated, valid)

    def _step_of_same(
        self, shown: np.ndarray, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, info: Any
    ) -> Step:
        """A step after which copies whose episode ended already show the next one."""
        done, valid = terminated | truncated, np.ones(len(self), bool)
        if not done.any():
            return Step(shown, rewards, terminated, truncated, valid)
        if self._mode == "disabled":
            raw, info = self._reset(options={"reset_mask": done})
            following = self._packed(raw, info)
            following[~done] = shown[~done]
            return Step(shown, rewards, terminated, truncated, valid, following)
        finals, last = info.get("final_obs", info.get("final_observation")), shown.copy()
        if finals is None:
            raise EnvironmentFailure(
                "resets in the same step without 'final_obs', the last observation, in info"
            )
        for copy in np.flatnonzero(done):
            one = Environments._batch_of_one(finals, int(copy))
            last[copy] = self._packed(one, {}, 1)[0]
        return Step(last, rewards, terminated, truncated, valid, shown)

    @staticmethod
    def _batch_of_one(finals: Any, copy: int) -> Any:
        """The last observation of one copy with a leading axis: vector environments give arrays, objects or dicts."""
        if isinstance(finals, dict):
            return {
                key: Environments._batch_of_one(one, copy) for key, one in finals.items() if key[:1] != "_"
            }
        if isinstance(finals, tuple):
            return tuple(Environments._batch_of_one(one, copy) for one in finals)
        return with_axis(finals[copy])

    def state_dict(self) -> dict[str, Any] | None:
        """Everything about the episodes in progress; None where the environment's state is not known."""
        state = state_of(self._env)
        return None if state is None else {"env": state, "was_done": torch.from_numpy(self._was_done.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore it; False where it does not fit, and :meth:`reset` is due."""
        self._was_done = state["was_done"].numpy().copy()
        return restore_state(self._env, state["env"])

    def rendered(self) -> np.ndarray:
        """The first copy as the environment draws it."""
        frames = self._env.render()
        picture: np.ndarray = np.asarray(frames[0] if isinstance(frames, tuple | list) else frames)
        return picture[0] if picture.ndim == 4 else picture

    def close(self) -> None:
        """Close the environments."""
        self._env.close()


def _rows(mask: Any, n: int) -> np.ndarray:
    """A mask of each copy, ``[n, A]``; zeros, which a copy has that says nothing, allow all."""
    rows = np.asarray(mask)
    rows = np.stack([np.ravel(one) for one in rows]) if rows.dtype == object else rows.reshape(n, -1)
    return np.where(rows.any(-1, keepdims=True), rows, 1)
