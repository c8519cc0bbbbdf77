"""A training that is interrupted ends with the weights of one that is not, where the environment's state is known."""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from effcli.core.runtime import create_runtime
from effcli.rl_distill.dqn import DqnGroup
from effcli.rl_distill.environments.making import make_environments
from effcli.rl_distill.environments.state import restore_state, state_of
from effcli.rl_distill.ppo import PpoGroup
from effcli.rl_distill.recipe import DqnSection, OpdDaDqnRecipe, OpdDaRecipe, PpoSection
from tests.rl_distill.small_envs import CORRIDOR

NAMES = [
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCar-v0",
    "FrozenLake-v1",
    "Taxi-v4",
    "Blackjack-v1",
]
NAMES += ["MinAtar/Breakout-v1", "MinAtar/Seaquest-v1"]


def group(kind: str, env: str) -> Any:
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    copies: dict[str, Any] = {"id": env, "copies": 2, "normalise_rewards": True}
    if kind == "ppo":
        ppo = PpoSection(rollout=24, epochs=1, minibatches=1)
        return PpoGroup(OpdDaRecipe(env=copies, policies=("small",) * 2, ppo=ppo), runtime)
    dqn = DqnSection(replay=100, batch_size=8, learning_starts=10)
    return DqnGroup(OpdDaDqnRecipe(env=copies, policies=("small",) * 2, dqn=dqn), runtime)


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("kind", "env"), [("ppo", "CartPole-v1"), ("dqn", "Acrobot-v1"), ("dqn", "MinAtar/Breakout-v1")]
)
def test_a_resumed_training_is_the_same(kind: str, env: str) -> None:
    whole, cut, resumed = (group(kind, env) for _ in range(3))
    for update in range(5):
        whole.update(update)
        if update < 3:
            cut.update(update)
    resumed.load_state_dict(through_a_file(cut.state_dict()))
    assert all(policy.continues for policy in resumed.policies)
    resumed.restart(3)
    for update in (3, 4):
        resumed.update(update)
    for one, other in zip(whole.policies, resumed.policies, strict=True):
        assert all(map(torch.equal, one.network.parameters(), other.network.parameters()))
        assert one.returns.state_dict() == other.returns.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_environments_go_on_where_they_were(name: str) -> None:
    one, other = make_environments(name, 2), make_environments(name, 2)
    draws = np.random.default_rng(0)

    def acts() -> np.ndarray:
        if one.actions.kind == "numbers":
            return draws.uniform(-1, 1, (2, one.actions.n_numbers)).astype(np.float32)
        return draws.integers(0, one.n_actions, 2)

    one.reset(3)
    other.reset(4)
    for _ in range(30):
        one.step(acts())
    state = one.state_dict()
    assert state is not None
    assert other.load_state_dict(through_a_file(state))
    for _ in range(60):
        actions = acts()
        first, second = one.step(actions), other.step(actions)
        assert np.array_equal(first.observations, second.observations)
        assert np.array_equal(first.rewards, second.rewards)
        assert np.array_equal(first.done, second.done)


def test_what_is_not_known_begins_anew() -> None:
    envs = make_environments(CORRIDOR, 2)
    envs.reset(0)
    assert envs.state_dict() is None
    state = state_of(gymnasium.make("CartPole-v1"))
    assert state is not None
    assert not restore_state(object(), state)
    one, other = group("ppo", CORRIDOR), group("ppo", CORRIDOR)
    one.update(0)
    other.load_state_dict(through_a_file(one.state_dict()))
    assert not any(policy.continues for policy in other.policies)
    other.restart(1)
    assert other.policies[0].returns.running.tolist() == [0, 0]
