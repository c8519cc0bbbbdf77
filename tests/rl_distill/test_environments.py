"""Environments from every source, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from effcli.core.errors import UsageError
from effcli.rl_distill.environments.making import make_environments
from effcli.rl_distill.returns import Returns, area_under, bootstrap_interval, curve
from tests.rl_distill.small_envs import CORRIDOR


def test_a_copy_is_reset_in_the_step_after_its_end() -> None:
    envs = make_environments(CORRIDOR, 1)
    returns = Returns(1)
    seen = [envs.reset(0)[0].argmax()]
    steps = []
    for _ in range(5):
        step = envs.step(np.array([1]))
        returns.add(step)
        steps.append(step)
        seen.append(step.observations[0].argmax())
    assert seen == [0, 1, 2, 3, 0, 1]
    assert [bool(step.valid[0]) for step in steps] == [True, True, True, False, True]
    assert [bool(step.terminated[0]) for step in steps] == [False, False, True, False, False]
    assert [round(float(step.rewards[0]), 3) for step in steps] == [-0.1, -0.1, 1.0, 0.0, -0.1]
    assert returns.values == pytest.approx([0.8])
    assert (returns.ends, returns.n_steps) == ([3], 4)


def test_equal_seeds_and_actions_give_equal_observations() -> None:
    first, second = make_environments("CartPole-v1", 4), make_environments("CartPole-v1", 4)
    assert np.array_equal(first.reset(3), second.reset(3))
    draws = np.random.default_rng(0)
    for _ in range(60):
        actions = draws.integers(0, 2, 4)
        one, other = first.step(actions), second.step(actions)
        assert np.array_equal(one.observations, other.observations)
        assert np.array_equal(one.valid, other.valid)
    assert not np.array_equal(first.reset(3), first.reset(4))


@pytest.mark.parametrize(("name", "n_actions"), [("ALE/Pong-v5", 6), ("ALE/Breakout-v5", 4)])
def test_atari_gives_whole_rewards_and_four_frames(name: str, n_actions: int) -> None:
    envs = make_environments(name, 2)
    observations = envs.reset(0)
    assert (observations.shape, observations.dtype, envs.n_actions) == ((2, 4, 84, 84), np.uint8, n_actions)
    step = envs.step(np.zeros(2, int))
    assert step.observations.shape == (2, 4, 84, 84)
    envs.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPole-v2", "CartPole"),
        ("CartPol-v1", "no such environment"),
        ("ALE/Nothing-v5", "cannot be made"),
        ("no.module:Env", "cannot be imported"),
    ],
)
def test_what_cannot_be_learned_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_environments(name, 1)


def test_a_near_name_is_the_hint() -> None:
    with pytest.raises(UsageError) as caught:
        make_environments("CartPol-v1", 1)
    assert caught.value.hint == "did you mean 'CartPole-v1'?"


def test_curves_and_their_areas() -> None:
    points = curve([10, 20, 30], [1.0, 3.0, 8.0], 40, window=2, n_points=4)
    assert points.tolist() == [1, 2, 5.5, 5.5]
    assert area_under(points) == pytest.approx(3.5)
    early = curve([35], [4.0], 40, window=2, n_points=4)
    assert early.tolist() == [4, 4, 4, 4]
    assert np.isnan(curve([], [], 40, 2)).all()


def test_an_interval_covers_the_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, 40).tolist()
    low, high = bootstrap_interval(values)
    assert low < np.mean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(40), rel=0.15)
    assert bootstrap_interval([3.0]) == (3.0, 3.0)
