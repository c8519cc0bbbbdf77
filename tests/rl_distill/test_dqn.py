"""DQN, its replay memory, and a group of DQN policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effcli.core.runtime import create_runtime
from effcli.rl_distill.dqn import DqnGroup
from effcli.rl_distill.environments.making import make_environments
from effcli.rl_distill.recipe import DqnSection, OpdDaDqnRecipe
from effcli.rl_distill.replay import Replay
from tests.rl_distill.small_envs import CORRIDOR, FRAMES

CPU = torch.device("cpu")


def group(
    n: int = 3, steps: int = 800, seed: int = 0, copies: int = 2, together: bool = True, **opd: Any
) -> DqnGroup:
    settings = DqnSection(
        replay=400, batch_size=16, learning_starts=64, train_every=4, target_every=40, learning_rate=3e-3
    )
    recipe = OpdDaDqnRecipe(
        env={"id": CORRIDOR, "copies": copies},
        train={"env_steps": steps},
        policies=("normal",) * n,
        opd=opd,
        dqn=settings,
    )
    runtime = create_runtime(device="cpu", precision="fp32", seed=seed, threads=1)
    return DqnGroup(recipe, runtime, together=together)


def weights(one: DqnGroup) -> list[list[Tensor]]:
    return [[p.detach().clone() for p in policy.network.parameters()] for policy in one.policies]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("env", [CORRIDOR, FRAMES], ids=["vectors", "frames"])
def test_the_memory_gives_back_what_was_seen(env: str) -> None:
    """Every transition that can be sampled is one that happened: against a list of them all."""
    envs = make_environments(env, 3)
    replay = Replay(60, 3, envs.shape, envs.dtype, stacked=env == FRAMES)
    draws = np.random.default_rng(0)
    observations = envs.reset(0)
    replay.begin(observations)
    happened: dict[bytes, set[tuple[Any, ...]]] = {}
    for _ in range(75):
        actions = draws.integers(0, envs.n_actions, 3)
        step = envs.step(actions)
        replay.add(actions, step.rewards, step)
        for copy in np.flatnonzero(step.valid):
            row = (
                int(actions[copy]),
                float(step.rewards[copy]),
                step.observations[copy].tobytes(),
                bool(step.terminated[copy]),
            )
            happened.setdefault(observations[copy].tobytes(), set()).add(row)
        observations = step.observations
    x, actions_, rewards, following, terminated = replay.read(
        *replay.places(400, torch.Generator().manual_seed(0)), CPU
    )
    for i in range(400):
        row = (
            int(actions_[i]),
            float(rewards[i]),
            following[i].numpy().tobytes(),
            bool(terminated[i]),
        )
        assert row in happened[x[i].numpy().tobytes()], i
    assert len(replay) == 60


def test_frames_are_kept_once() -> None:
    envs = make_environments(FRAMES, 2)
    replay = Replay(1000, 2, envs.shape, envs.dtype, stacked=True)
    assert replay.observations.shape[2:] == (36, 36)
    assert replay.observations.nbytes < 1010 * 36 * 36


def test_a_cut_off_episode_goes_on_and_an_ended_one_does_not() -> None:
    one = group(1, targets="none")
    x, following = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    batch = (x, torch.tensor([[0, 1]]), torch.tensor([[1.0, 2.0]]), following, torch.tensor([[0.0, 1.0]]))
    with torch.no_grad():
        best = one.targets[0].networks[0](following[0])[1].amax(-1)
        q = one.policies[0].network(x[0])[1]
    wanted = [1 + 0.99 * float(best[0]), 2.0]
    expected = ((float(q[0, 0]) - wanted[0]) ** 2 + (float(q[1, 1]) - wanted[1]) ** 2) / 2
    assert one.terms(0, batch, None, 1.0)["td"].item() == pytest.approx(expected, rel=1e-5)


def test_chance_falls_on_a_line() -> None:
    one = group(1, steps=1000)
    assert one.epsilon(0) == 1
    assert one.epsilon(250) == pytest.approx((1 + 0.05) / 2)
    assert one.epsilon(500) == one.epsilon(900) == pytest.approx(0.05)


@pytest.mark.slow
def test_it_learns_to_walk_down_a_corridor() -> None:
    one = group(1, steps=3000, targets="none")
    for update in range(one.n_updates):
        one.update(update)
    found = one.policies[0].returns.recent(40)
    assert found is not None
    assert found > 0.65  # 0.8 without the last random actions


def test_without_weights_each_member_is_plain_dqn_bit_for_bit() -> None:
    together, alone = group(3, targets="none"), group(1, targets="none")
    taught = group(3, ramp=0.0)
    for update in range(60):
        together.update(update)
        alone.update(update)
        taught.update(update)
    assert same(weights(together)[0], weights(alone)[0])
    assert not same(weights(taught)[0], weights(alone)[0])


def test_policies_together_learn_what_they_learn_one_after_another() -> None:
    together, apart = group(3, ramp=0.0), group(3, together=False, ramp=0.0)
    assert (len(together.stacks), len(apart.stacks)) == (1, 3)
    for update in range(40):
        together.update(update)
        apart.update(update)
    for one, other in zip(weights(together), weights(apart), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    for stack, other_stack in zip(together.targets[0].weights, apart.targets, strict=True):
        torch.testing.assert_close(stack, other_stack.weights[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("together", [True, False])
def test_where_nothing_is_detached_a_policy_without_a_loss_of_its_own_is_moved(together: bool) -> None:
    """The gradient of policy 0's distances in the weights of the others: none, or some."""
    found = []
    for detach in ("peers", "none"):
        one = group(3, together=together, detach=detach, ramp=0.0)
        states = [torch.randn(len(stack), 16, 4) for stack in one.stacks]
        peers = one.peers(one.views(states)) if detach == "peers" else one.live_peers(states)
        zeros = torch.zeros_like(states[0][..., 0])
        batch = (states[0], zeros.long(), zeros, states[0], zeros)
        terms = one.terms(0, batch, peers[0], 1.0)
        (terms["decision"][0] + terms["feature"][0]).backward()
        for stack in one.stacks:
            stack.take_gradient()
        grads = torch.cat([stack.weights.grad for stack in one.stacks])  # type: ignore[misc]
        found.append([float(row.abs().max()) > 0 for row in grads])
        one.update(30)  # and it learns
    assert found == [[True, False, False], [True, True, True]]


def test_a_group_goes_on_where_it_was() -> None:
    whole, cut = group(2), group(2)
    for update in range(60):
        if update == 40:
            whole.restart(update)
        whole.update(update)
    for update in range(40):
        cut.update(update)
    again = group(2)
    again.load_state_dict(cut.state_dict())
    again.restart(40)
    for update in range(40, 60):
        again.update(update)
    for one, other in zip(weights(whole), weights(again), strict=True):
        assert same(one, other)
