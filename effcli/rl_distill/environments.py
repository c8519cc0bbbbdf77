"""Copies of an environment that step together, whatever package it comes from.

All of them reset in the step after an episode's end (gymnasium's NEXT_STEP): the observation that comes with the end is
the last one of the episode, and the action of the step after it is ignored.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.errors import UsageError

_PACKAGES = {"MinAtar": ("minatar.gym", "pip install 'effcli[minatar]'")}
_ATARI = "ALE"
SMALLEST_FRAME = 36
"""Observations ``[C, H, W]`` of at least this many pixels a side are frames over time."""


@dataclass(frozen=True)
class Step:
    """What one step of all copies gives.

    Attributes:
        observations: ``[E, ...]``; where an episode ends, its last one.
        rewards: of the game, float32 ``[E]``.
        terminated: the episode ended by itself, bool ``[E]``.
        truncated: it was cut off, bool ``[E]``.
        valid: whether the action counted: not where a copy was reset instead, bool ``[E]``.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


class EnvironmentFailure(Exception):  # noqa: N818  it is not ours
    """What an environment raised while it stepped."""


class Environments:
    """Copies of one environment.

    Args:
        env: of gymnasium's vector interface, which resets in the step after an end.

    Attributes:
        n_actions: how many there are.
        shape: of an observation.
        dtype: of an observation.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self.n_actions = int(env.single_action_space.n)
        self.shape: tuple[int, ...] = tuple(env.single_observation_space.shape)
        self.dtype: np.dtype[Any] = env.single_observation_space.dtype
        self._first_action = (
            int(env.single_action_space.start) if hasattr(env.single_action_space, "start") else 0
        )
        self._was_done = np.zeros(env.num_envs, dtype=bool)

    def __len__(self) -> int:
        return int(self._env.num_envs)

    def reset(self, seed: int) -> np.ndarray:
        """Begin episodes; copies get consecutive seeds."""
        observations, _ = self._env.reset(seed=seed)
        self._was_done = np.zeros(len(self), dtype=bool)
        return np.array(observations)

    def step(self, actions: np.ndarray) -> Step:
        """One action each.

        Raises:
            EnvironmentFailure: the environment's own code failed.
        """
        try:
            observations, rewards, terminated, truncated, _ = self._env.step(actions + self._first_action)
        except Exception as error:
            raise EnvironmentFailure(f"{type(error).__name__}: {error}") from error
        valid = ~self._was_done
        terminated, truncated = np.asarray(terminated, bool) & valid, np.asarray(truncated, bool) & valid
        self._was_done = terminated | truncated
        kept_rewards = np.where(valid, np.asarray(rewards, np.float32), np.float32(0))
        return Step(np.array(observations), kept_rewards, terminated, truncated, valid)

    def picture(self, observations: np.ndarray) -> np.ndarray:
        """What the first copy looks like, uint8 ``[H, W, 3]``: frames and grids by themselves, others as drawn."""
        first = observations[0]
        if first.ndim == 3 and min(first.shape[1:]) >= SMALLEST_FRAME:
            return np.repeat(first[-1][:, :, None], 3, 2).astype(np.uint8)
        if first.ndim == 3:
            return _coloured(first)
        drawn: np.ndarray = np.asarray(self._env.render()[0], np.uint8)
        return drawn

    def close(self) -> None:
        """Free what they hold."""
        self._env.close()


def _coloured(grid: np.ndarray) -> np.ndarray:
    """Planes ``[H, W, C]`` as colours, later planes over earlier ones, eight pixels a place."""
    hues = np.linspace(0, 2 * np.pi, grid.shape[-1], endpoint=False)
    palette = 128 + 127 * np.stack([np.cos(hues), np.cos(hues - 2.1), np.cos(hues + 2.1)], 1)
    picture = np.zeros((*grid.shape[:2], 3), np.uint8)
    for plane, colour in enumerate(palette.astype(np.uint8)):
        picture[grid[..., plane] > 0] = colour
    return picture.repeat(8, 0).repeat(8, 1)


def make_environments(name: str, copies: int, *, workers: int = 0, drawn: bool = False) -> Environments:
    """Make copies of an environment.

    Args:
        name: a gymnasium id; ``MinAtar/NAME-v1``; ``ALE/NAME-v5``, which becomes ale-py's own vectorised one, with raw
            rewards, whole games and no sticky actions; or ``module:function`` that makes a gymnasium environment.
        copies: how many.
        workers: 0 steps copies one after another, or all at once where the environment can; else in a process each, or
            in so many threads for Atari.
        drawn: whether :meth:`Environments.picture` will be asked for.

    Raises:
        UsageError: there is no such environment, its actions are not numbers of a list, or its package is missing.
    """
    import gymnasium

    try:
        if name.startswith(f"{_ATARI}/"):
            return Environments(_atari(name, copies, workers))
        _register(name)
        if ":" in name:
            make = _function(name)
            vector = gymnasium.vector.AsyncVectorEnv if workers else gymnasium.vector.SyncVectorEnv
            env: Any = vector([make] * copies)
        else:
            spec = gymnasium.spec(name)
            mode = "vector_entry_point" if spec.vector_entry_point and not drawn else "sync"
            mode = "async" if workers else mode
            more: dict[str, Any] = {"render_mode": "rgb_array"} if drawn else {}
            if drawn:
                os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
            env = gymnasium.make_vec(name, num_envs=copies, vectorization_mode=mode, **more)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"needs a package: {' '.join(str(error).split())}", place=name) from None
    except gymnasium.error.UnregisteredEnv as error:
        raise _unknown(name, error) from None
    except gymnasium.error.Error as error:
        raise UsageError(" ".join(str(error).split()), place=name) from None
    if not isinstance(env.single_action_space, gymnasium.spaces.Discrete):
        raise UsageError(
            f"has actions of the kind {type(env.single_action_space).__name__}; only lists of actions (Discrete) can "
            "be learnt here",
            place=name,
        )
    if not isinstance(env.single_observation_space, gymnasium.spaces.Box):
        raise UsageError(
            f"has observations of the kind {type(env.single_observation_space).__name__}; only arrays (Box) can be "
            "seen",
            place=name,
        )
    return Environments(env)


def _atari(name: str, copies: int, workers: int) -> Any:
    from ale_py.vector_env import AtariVectorEnv

    game = name.split("/")[1].rsplit("-v", 1)[0]
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in game).lstrip("_")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of an unknown game, and fails then
            return AtariVectorEnv(
                snake, copies, num_threads=workers, reward_clipping=False, episodic_life=False
            )
    except Exception as error:
        raise UsageError(f"cannot be made: {' '.join(str(error).split())[:160]}", place=name) from None


def _register(name: str) -> None:
    """Packages whose environments are known only when they are asked."""
    import gymnasium

    package = name.split("/")[0]
    if package not in _PACKAGES or name in gymnasium.registry:
        return
    module, line = _PACKAGES[package]
    try:
        importlib.import_module(module).register_envs()
    except ImportError:
        raise UsageError(f"needs the package {package}", place=name, hint=line) from None


def _function(name: str) -> Any:
    """What ``module:function`` names; the module may lie in the current folder."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot be imported: {error}", place=name) from None


def _unknown(name: str, error: Exception) -> UsageError:
    from difflib import get_close_matches

    import gymnasium

    near = get_close_matches(name, gymnasium.registry, n=1)
    hint = (
        f"did you mean {near[0]!r}?"
        if near
        else "give a gymnasium id, MinAtar/NAME-v1, ALE/NAME-v5 or module:function"
    )
    return UsageError(f"no such environment: {' '.join(str(error).split())[:120]}", place=name, hint=hint)
