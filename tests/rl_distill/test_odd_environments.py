"""Environments that do not do what gymnasium asks for: what is said or refused."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from effcli.core.errors import RunError, UsageError
from effcli.core.runtime import create_runtime
from effcli.data.picture_folders import say_once
from effcli.rl_distill.environments.copies import EnvironmentFailure, Environments
from effcli.rl_distill.environments.making import make_environments
from effcli.rl_distill.evaluation import play


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
        ({"result": (float("nan"), False, False, {})}, "a reward is NaN or infinite"),
        ({"result": (float("-inf"), False, False, {})}, "a reward is NaN or infinite"),
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


class Fixed(Own):
    """Shows one value, whatever its space says."""

    def __init__(self, space: Any, shown: Any) -> None:
        super().__init__()
        self.observation_space, self.shown = space, shown

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self.shown, {}

    def step(self, action: int) -> Any:
        return self.shown, 1.0, False, False, {}


def fixed(space: Any, shown: Any) -> Environments:
    return Environments(gymnasium.vector.SyncVectorEnv([lambda: Fixed(space, shown)] * 2), "fixed")


def test_keys_may_be_numbers_or_have_dots_and_a_dict_may_have_one_part() -> None:
    two = np.array([0.5, -1], np.float32)
    keys: list[Any] = ["a", "a.b", 0]
    for key in keys:
        assert fixed(Dict({key: Box(-1, 1, (2,))}), {key: two}).reset(0)[1].tolist() == [0.5, -1]
        inner = Dict({"x.y": Dict({key: Box(-1, 1, (2,))}), "z": Discrete(3)})
        seen = fixed(inner, {"x.y": {key: two}, "z": 2}).reset(0)
        assert seen[1].tolist() == [0.5, -1, 2]
    twice = Dict({"a": Dict({"b": Discrete(2)}), "a.b": Discrete(2)})
    with pytest.raises(UsageError, match="the same name"):
        fixed(twice, {"a": {"b": 0}, "a.b": 1})


@pytest.mark.parametrize(
    ("space", "shown", "message"),
    [
        (Discrete(4, start=-3), 1, r"1 is not one of -3\.\.0"),
        (MultiDiscrete([2, 3]), np.array([2, 0]), r"2 is not one of 0\.\.1"),
        (Dict({"a": Discrete(2), "b": Discrete(2)}), {"a": 0, "b": -1}, r"-1 is not one of 0\.\.1"),
        (Box(-np.inf, np.inf, (2,), np.float64), np.array([1e300, 0]), "beyond float32"),
    ],
)
def test_first_observations_that_are_not_what_their_space_says_are_named(
    space: Any, shown: Any, message: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=message):
        fixed(space, shown)


class Turned(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Shows arrays whose axes are not in the order of its space, or ends episodes of too many copies."""

    num_envs = 2
    single_observation_space = Box(-1, 1, (2, 3), np.float32)
    single_action_space = Discrete(2)

    def __init__(self, shape: tuple[int, ...] = (3, 2), ends: Any = 2) -> None:
        self.shape, self.ends = shape, ends

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros((2, *self.shape), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return np.zeros((2, 2, 3), np.float32), np.zeros(2), np.zeros(self.ends, bool), np.zeros(2, bool), {}


def turned() -> Turned:
    return Turned()


def test_arrays_of_another_shape_are_not_bent_into_that_of_the_space() -> None:
    with pytest.raises(UsageError, match=r"what its space says: shape \[3, 2\], not \[2, 3\]"):
        make_environments(f"{__name__}:turned", 2)
    envs = Environments(Turned((2, 3), (2, 1)), "turned")
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match=r"terminated of shape \[1\]"):
        envs.step(np.zeros(2, int))


class Manual(Own):
    """Fails when it is reset after an episode."""

    n_resets = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.n_resets += 1
        if self.n_resets > 2:
            raise KeyError("no level is left")
        return super().reset(seed=seed)


def test_a_failure_of_a_reset_between_episodes_is_one_of_the_environment() -> None:
    mode = gymnasium.vector.AutoresetMode.DISABLED
    one = [lambda: Manual(result=(1.0, True, False, {}))]
    envs = Environments(gymnasium.vector.SyncVectorEnv(one, autoreset_mode=mode), "manual")
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match="no level is left"):
        envs.step(np.zeros(1, int))


def test_games_whose_rewards_are_not_finite_have_no_mean() -> None:
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with pytest.raises(RunError, match="the environment failed: a reward is NaN"):
        play(
            lambda x: torch.zeros(len(x), 2),
            lambda n: copies_of(result=(float("nan"), True, False, {})),
            2,
            runtime,
            "policy 1",
        )


class Older(Own):
    """Returns from reset what the older gym does."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(3, np.float32)


def older() -> Older:
    return Older()


def test_mistakes_in_naming_and_making_say_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"reset\(\) does not return 2 values .* older gym"):
        make_environments(f"{__name__}:older", 2)
    for name, hint in (("games/mine.py:Game", "--env mine:Game "), ("mine.py", "--env mine:NAME ")):
        with pytest.raises(UsageError, match="is a file, not a module") as caught:
            make_environments(name, 2)
        assert hint in str(caught.value.hint)
