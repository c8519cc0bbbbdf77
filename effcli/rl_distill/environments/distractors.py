"""CartPole with distractors: beside its state, numbers that mean nothing and do not change during an episode.

They are those of a level. Every episode is of one of ``levels`` levels, of which ``first_level`` is the first. What
a policy makes of them where it learned says nothing of other levels.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space

ID = "effcli/CartPoleDistractors-v1"
N_STATE = 4


class DistractorLevels:
    """The distractors of some levels.

    Args:
        n: number of levels, 1 or more.
        first: number of the first, 0 or more; the number of a level is the seed of its distractors.
        distractors: numbers beside the state, 0 or more.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, n: int, first: int, distractors: int) -> None:
        if n < 1 or first < 0 or distractors < 0:
            raise ValueError("levels must be 1 or more, first_level and distractors 0 or more")
        self.n = n
        draws = [np.random.default_rng(first + i).uniform(-1, 1, distractors) for i in range(n)]
        self._all = np.array(draws, np.float32).reshape(n, distractors)

    def shown(self, states: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Observations ``[N, 4 + distractors]`` of states ``[N, 4]`` in levels ``[N]``, float32."""
        return np.concatenate([states, self._all[levels]], 1, dtype=np.float32)

    @property
    def space(self) -> Box:
        """Of an observation."""
        return Box(-np.inf, np.inf, (N_STATE + self._all.shape[1],), np.float32)


class DistractedCartPole(CartPoleEnv):
    """One CartPole with distractors.

    Args:
        levels: number of levels.
        first_level: number of the first.
        distractors: inputs beside the state.
        render_mode: as of CartPole.
    """

    def __init__(
        self, levels: int = 3, first_level: int = 0, distractors: int = 16, render_mode: str | None = None
    ) -> None:
        super().__init__(render_mode=render_mode)
        self._levels, self._level = DistractorLevels(levels, first_level, distractors), 0
        self.observation_space = self._levels.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in a level drawn anew."""
        state, info = super().reset(seed=seed, options=options)
        self._level = int(self.np_random.integers(self._levels.n))
        return self._shown(state), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take an action."""
        state, reward, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return self._shown(state), reward, terminated, truncated, info

    def _shown(self, state: np.ndarray) -> np.ndarray:
        shown: np.ndarray = self._levels.shown(state[None], np.array([self._level]))[0]
        return shown


class DistractedCartPoles(CartPoleVectorEnv):
    """Copies of :class:`DistractedCartPole` that step together.

    Args:
        num_envs: number of copies.
        levels: number of levels.
        first_level: number of the first.
        distractors: inputs beside the state.
        more: as of CartPole.
    """

    def __init__(
        self, num_envs: int = 1, levels: int = 3, first_level: int = 0, distractors: int = 16, **more: Any
    ) -> None:
        super().__init__(num_envs, **more)
        self._levels, self._level = (
            DistractorLevels(levels, first_level, distractors),
            np.zeros(num_envs, np.int64),
        )
        self.single_observation_space = self._levels.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes in levels drawn anew."""
        states, info = super().reset(seed=seed, options=options)
        self._level = self.np_random.integers(self._levels.n, size=self.num_envs)
        return self._levels.shown(states, self._level), info

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take an action in each copy; where an episode had ended, a new one begins in a level drawn anew."""
        begins = self.prev_done.copy()
        states, *rest = super().step(action)
        self._level[begins] = self.np_random.integers(self._levels.n, size=int(begins.sum()))
        return self._levels.shown(states, self._level), *rest  # type: ignore[return-value]


gymnasium.register(
    ID,
    entry_point=f"{__name__}:DistractedCartPole",
    vector_entry_point=f"{__name__}:DistractedCartPoles",
    max_episode_steps=500,
)
