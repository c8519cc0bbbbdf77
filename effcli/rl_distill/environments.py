"""Copies of an environment that step together: gymnasium's, MinAtar's and Atari's behind one interface.

A copy resets in the step after its episode ends (gymnasium's NEXT_STEP autoreset): the observation returned with the
end is the last one of the episode, and the action of the following step is ignored.
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

from effcli.core.errors import InputError, UsageError

_PACKAGES = {"MinAtar": ("minatar.gym", "pip install 'effcli[minatar]'")}
_ATARI = "ALE"
SMALLEST_FRAME = 36
"""Observations ``[C, H, W]`` with sides of at least this many pixels are frames stacked over time."""


@dataclass(frozen=True)
class Step:
    """The result of one step of all E copies.

    Attributes:
        observations: ``[E, ...]``; where an episode ends, its last one.
        rewards: of the environment, never clipped, float32 ``[E]``.
        terminated: the episode reached a terminal state, bool ``[E]``.
        truncated: the episode was cut off, for example by a time limit, bool ``[E]``.
        valid: False where the copy was reset and ignored the action, bool ``[E]``.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


class EnvironmentFailure(Exception):  # noqa: N818  not an error of effcli
    """An environment raised an exception in a step."""


class Environments:
    """Copies of one environment.

    Args:
        env: a gymnasium vector environment that resets in the step after an episode's end.

    Attributes:
        n_actions: number of actions.
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
        """Start new episodes; the copies get consecutive seeds."""
        observations, _ = self._env.reset(seed=seed)
        self._was_done = np.zeros(len(self), dtype=bool)
        return np.array(observations)

    def step(self, actions: np.ndarray) -> Step:
        """Take one action in each copy.

        Raises:
            EnvironmentFailure: the environment's own code raised an exception.
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
        """The first copy as a picture, uint8 ``[H, W, 3]``: its frames or grid, or rendered by the environment."""
        first = observations[0]
        if first.ndim == 3 and min(first.shape[1:]) >= SMALLEST_FRAME:
            return np.repeat(first[-1][:, :, None], 3, 2).astype(np.uint8)
        if first.ndim == 3:
            return _coloured(first)
        rendered: np.ndarray = np.asarray(self._env.render()[0], np.uint8)
        return rendered

    def close(self) -> None:
        """Close the environments."""
        self._env.close()


def _coloured(grid: np.ndarray) -> np.ndarray:
    """Planes ``[H, W, C]`` as colours, later planes over earlier ones, eight pixels per cell."""
    hues = np.linspace(0, 2 * np.pi, grid.shape[-1], endpoint=False)
    palette = 128 + 127 * np.stack([np.cos(hues), np.cos(hues - 2.1), np.cos(hues + 2.1)], 1)
    picture = np.zeros((*grid.shape[:2], 3), np.uint8)
    for plane, colour in enumerate(palette.astype(np.uint8)):
        picture[grid[..., plane] > 0] = colour
    return picture.repeat(8, 0).repeat(8, 1)


def make_environments(name: str, copies: int, *, workers: int = 0, render: bool = False) -> Environments:
    """Make copies of an environment.

    Args:
        name: a gymnasium id; ``MinAtar/NAME-v1``; ``ALE/NAME-v5``, which is ale-py's own vectorised environment with
            raw rewards, whole games and no sticky actions; or ``module:function`` that makes a gymnasium environment.
        copies: number of copies, 1 or more.
        workers: 0 steps the copies in turn, or all at once where the environment is vectorised; more steps each copy in
            a process of its own, or all of them in this many threads for Atari.
        render: whether :meth:`Environments.picture` will be called.

    Raises:
        UsageError: the environment is unknown or its package is missing, its actions are not Discrete, or its
            observations not a Box.
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
            mode = "vector_entry_point" if spec.vector_entry_point and not render else "sync"
            mode = "async" if workers else mode
            more: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
            if render:
                os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame renders without a screen
                os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame would greet on stdout
            env = gymnasium.make_vec(name, num_envs=copies, vectorization_mode=mode, **more)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(
            f"needs a package that is not installed: {' '.join(str(error).split())}", place=name
        ) from None
    except gymnasium.error.UnregisteredEnv as error:
        raise _unknown(name, error) from None
    except gymnasium.error.Error as error:
        raise UsageError(" ".join(str(error).split()), place=name) from None
    _check_spaces(env, name)
    return Environments(env)


def check_registered(name: str, place: str) -> None:
    """Refuse an environment that a file names unless it is the id of one: a file imports and runs nothing else.

    Args:
        name: of the environment, as the file says it.
        place: the file.

    Raises:
        InputError: it is ``module:function`` or ``package:id``.
    """
    if ":" in name:
        raise InputError(
            f"names Python code as its environment, {name!r}, which is not run because a file says so",
            place=place,
            hint=f"if you trust this code, add --env {name}",
        )


def _check_spaces(env: Any, name: str) -> None:
    from gymnasium.spaces import Box, Discrete

    actions, observations = env.single_action_space, env.single_observation_space
    if not isinstance(actions, Discrete):
        kind = type(actions).__name__
        what = "continuous action space" if isinstance(actions, Box) else "action space"
        raise UsageError(f"{what} ({kind}); supported: Discrete", place=name)
    if not isinstance(observations, Box):
        kind = type(observations).__name__
        raise UsageError(f"observation space {kind}; supported: Box (arrays of numbers)", place=name)


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
    """Import the package that registers the environment, where gymnasium does not know it yet."""
    import gymnasium

    package = name.split("/")[0]
    if package not in _PACKAGES or name in gymnasium.registry:
        return
    module, line = _PACKAGES[package]
    try:
        importlib.import_module(module).register_envs()
    except ImportError:
        raise UsageError(
            f"needs the package {package}, which is not installed", place=name, hint=line
        ) from None


def _function(name: str) -> Any:
    """The function ``module:function``; the module may be in the current folder."""
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
        else "name a gymnasium id, MinAtar/NAME-v1, ALE/NAME-v5 or module:function"
    )
    return UsageError(f"no such environment: {' '.join(str(error).split())[:120]}", place=name, hint=hint)
