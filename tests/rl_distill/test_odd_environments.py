"""Environments that do not do what gymnasium asks for: what is said or refused."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from effcli.data.picture_folders import say_once
from effcli.rl_distill.environments.copies import EnvironmentFailure, Environments
from effcli.rl_distill.environments.making import make_environments


class Own(gymnasium.Env[np.ndarray, Any]):
    """Three numbers; what a step returns can be changed."""

    def __init__(self, first: float = 0.0, later: float = 0.0, result: tuple[Any, ...] = ()) -> None:
        self.observation_space, self.action_space = Box(-1, 1, (3,)), Discrete(2)
        self.first, self.later, self.result = first, later, result

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return np.full(3, self.first, np.float32), {}

    def step(self, action: int) -> Any:
        return np.full(3, self.later, np.float32), *(self.result or (1.0, False, False, {}))


class Masked(Own):
    def action_masks(self) -> np.ndarray:
        return np.array([True, False])


def masked() -> Masked:
    return Masked()


def plain() -> Own:
    return Own()


def copies_of(**options: Any) -> Environments:
    return Environments(gymnasium.vector.SyncVectorEnv([lambda: Own(**options)] * 2), "own")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"later": float("nan")}, "an observation holds NaN or infinite numbers"),
        ({"later": float("inf")}, "an observation holds NaN or infinite numbers"),
        ({"result": (1.0, True, {})}, r"step\(\) does not return 5 values .* older gym"),
        ({"result": (np.ones(2), False, False, {})}, "is not one number"),
    ],
)
def test_results_that_nothing_can_be_learned_from_are_named(options: dict[str, Any], message: str) -> None:
    envs = copies_of(**options)
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match=message):
        envs.step(np.zeros(2, int))


def test_a_first_observation_that_is_not_finite_is_named() -> None:
    with pytest.raises(EnvironmentFailure, match="NaN or infinite"):
        copies_of(first=float("nan")).reset(0)


def test_observations_beyond_the_bounds_of_their_space_are_said(caplog: pytest.LogCaptureFixture) -> None:
    say_once.cache_clear()
    copies_of(first=0.5).reset(0)
    assert caplog.text == ""
    copies_of(first=50.0).reset(0)
    assert "own: observations are outside of the bounds of their space, such as 50" in caplog.text


def test_masks_by_the_method_of_sb3_contrib_are_said(caplog: pytest.LogCaptureFixture) -> None:
    say_once.cache_clear()
    make_environments(f"{__name__}:plain", 2).close()
    assert caplog.text == ""
    make_environments(f"{__name__}:masked", 2).close()
    assert "action_masks() is not read" in caplog.text
