"""PPO alone and in a group."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effcli.core.runtime import create_runtime
from effcli.rl_distill.decisions import draw
from effcli.rl_distill.environments.actions import single_choice
from effcli.rl_distill.environments.observations import observed_of_shape
from effcli.rl_distill.losses import ppo_terms
from effcli.rl_distill.network.policies import ActorCritic
from effcli.rl_distill.ppo import PpoGroup
from effcli.rl_distill.recipe import OpdDaRecipe, PpoRecipe, PpoSection
from effcli.rl_distill.rollout import Rollout, advantages_of
from tests.rl_distill.small_envs import CORRIDOR, FRAMES


def group(
    n: int = 3,
    env: str = CORRIDOR,
    seed: int = 0,
    steps: int = 2048,
    together: bool = True,
    clip: bool = False,
    **opd: Any,
) -> PpoGroup:
    recipe = OpdDaRecipe(
        env={"id": env, "copies": 4, "clip_rewards": clip},
        train={"env_steps": steps},
        policies=("normal",) * n,
        opd=opd,
        ppo=PpoSection(rollout=32, epochs=2, minibatches=2, learning_rate=1e-3),
    )
    runtime = create_runtime(device="cpu", precision="fp32", seed=seed, threads=1)
    return PpoGroup(recipe, runtime, together=together)


def weights(one: PpoGroup) -> list[list[Tensor]]:
    return [[p.detach().clone() for p in policy.network.parameters()] for policy in one.policies]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("n_actions", "parameters"), [(4, 1_686_693), (6, 1_687_719), (18, 1_693_875)])
def test_the_network_for_frames_has_the_usual_parameters(n_actions: int, parameters: int) -> None:
    network = ActorCritic(observed_of_shape((4, 84, 84)), single_choice(n_actions), "normal")
    assert sum(p.numel() for p in network.parameters()) == parameters
    features, logits, values = network(torch.zeros(2, 4, 84, 84))
    assert (features.shape, logits.shape, values.shape) == ((2, 512), (2, n_actions), (2,))


def test_networks_begin_orthogonal() -> None:
    network = ActorCritic(observed_of_shape((4,)), single_choice(2), "normal")
    actor = network.actor.weight @ network.actor.weight.T
    torch.testing.assert_close(actor, 0.01**2 * torch.eye(2), atol=1e-6, rtol=0)
    hidden = network.encoder[2].weight
    torch.testing.assert_close(hidden @ hidden.T, 2 * torch.eye(64), atol=1e-4, rtol=0)
    assert not any(p.abs().max() for name, p in network.named_parameters() if name.endswith("bias"))


def test_advantages_by_hand() -> None:
    """Four steps: the episode is cut off in step 1, and step 2 is the reset of the copy."""
    rewards = torch.tensor([[1.0], [2.0], [0.0], [3.0]])
    values = torch.tensor([[0.5], [1.0], [4.0], [0.2], [0.7]])  # state 2 is the last one of the first episode
    terminated = torch.zeros(4, 1)
    done = torch.tensor([[0.0], [1], [0], [0]])
    gamma, lam = 0.9, 0.8
    found = advantages_of(rewards, values, terminated, done, gamma, lam)[:, 0].tolist()
    delta_1 = 2 + gamma * 4.0 - 1.0  # cut off, so the last state still has a value
    delta_0 = 1 + gamma * 1.0 - 0.5
    delta_3 = 3 + gamma * 0.7 - 0.2
    assert found[1] == pytest.approx(delta_1)
    assert found[0] == pytest.approx(delta_0 + gamma * lam * delta_1)
    assert found[3] == pytest.approx(delta_3)
    terminated[1] = 1
    ended = advantages_of(rewards, values, terminated, done, gamma, lam)[:, 0].tolist()
    assert ended[1] == pytest.approx(2 - 1.0)
    assert ended[3] == found[3]


def test_resets_do_not_count() -> None:
    one = group(1)
    policy = one.policies[0]
    rollout = one.collect(one.stacks[0])
    n_ends = len(policy.returns.values)
    assert n_ends > 5
    assert rollout.valid.sum() == policy.returns.n_steps < 32 * 4
    counted = rollout.observations[rollout.valid > 0]
    assert counted[:, 3].sum() == 0  # the last place is seen only when an episode is over
    assert rollout.observations[:, :, 3].sum() > 0

    def spoilt(part: torch.Tensor) -> torch.Tensor:
        return torch.where(rollout.valid.bool(), part, torch.full_like(part, 7))

    other = replace(
        rollout,
        log_probs=spoilt(rollout.log_probs),
        values=spoilt(rollout.values),
        advantages=spoilt(rollout.advantages),
        targets=spoilt(rollout.targets),
    )
    logits, values = torch.randn(1, 128, 2), torch.randn(1, 128)
    terms, same_terms = (
        ppo_terms(logits, values, batch, PpoSection(), single_choice(2)) for batch in (rollout, other)
    )
    assert all(torch.equal(terms[name], same_terms[name]) for name in terms)


def test_actions_come_as_often_as_they_should() -> None:
    p = torch.tensor([0.2, 0.5, 0.3])
    chance = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0))
    drawn = draw((p.log() + 3).expand(3, 5000, 3).numpy(), chance.numpy(), single_choice(3))
    for one in torch.from_numpy(drawn):
        torch.testing.assert_close(torch.bincount(one, minlength=3) / 5000, p, atol=0.03, rtol=0)
    sure = np.log([[[1e-30, 1.0, 1e-30]] * 2])
    assert draw(sure, np.array([[1e-9, 0.999999]]), single_choice(3)).tolist() == [[1, 1]]


def test_the_clipped_objective_by_hand() -> None:
    logits = torch.log(torch.tensor([[[0.6, 0.4], [0.5, 0.5], [0.9, 0.1]]]))
    batch = Rollout(
        observations=torch.zeros(1, 3, 1),
        actions=torch.tensor([[0, 1, 0]]),
        decisions=logits,
        log_probs=torch.log(torch.tensor([[0.4, 0.5, 0.1]])),
        values=torch.tensor([[0.0, 1.0, 5.0]]),
        advantages=torch.tensor([[1.0, -1.0, 30.0]]),
        targets=torch.tensor([[2.0, 1.5, 9.0]]),
        valid=torch.tensor([[1.0, 1.0, 0.0]]),  # the third is a reset
    )
    settings = PpoSection(clip=0.2, value_weight=0.5, entropy_weight=0.1)
    terms = ppo_terms(logits, torch.tensor([[1.0, 1.1, 2.0]]), batch, settings, single_choice(2))
    a = 1 / 2**0.5  # standardised over two
    assert terms["policy"].item() == pytest.approx(-(1.2 * a - 1.0 * a) / 2, rel=1e-4)
    near = [(0.2 - 2.0) ** 2, (1.1 - 1.5) ** 2]  # the first value may move by 0.2 only
    assert terms["value"].item() == pytest.approx(0.5 * (near[0] + near[1]) / 2 / 2, rel=1e-5)
    entropy = (-(0.6 * torch.tensor(0.6).log() + 0.4 * torch.tensor(0.4).log()) + torch.tensor(2.0).log()) / 2
    assert terms["entropy"].item() == pytest.approx(-0.1 * float(entropy), rel=1e-5)


@pytest.mark.slow
def test_it_learns_to_walk_down_a_corridor() -> None:
    one = group(1, steps=8 * 1024)
    for update in range(one.n_updates):
        one.update(update)
    best = 1 - 0.1 * 2
    assert one.policies[0].returns.recent(50) == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("off", [{"targets": "none"}, {"decision_weight": 0.0, "feature_weight": 0.0}])
def test_without_weights_each_member_is_plain_ppo_bit_for_bit(off: dict[str, Any]) -> None:
    together, alone = group(3, **off), group(1, targets="none")
    for update in range(4):
        together.update(update)
        alone.update(update)
    assert same(weights(together)[0], weights(alone)[0])
    assert not same(weights(together)[0], weights(together)[1])
    taught = group(3)
    for update in range(4):
        taught.update(update)
    assert not same(weights(taught)[0], weights(together)[0])


def test_the_method_ppo_is_a_group_without_peers() -> None:
    settings = {"env": {"id": CORRIDOR, "copies": 4}, "ppo": PpoSection(rollout=32, epochs=2, minibatches=2)}
    runtime = create_runtime(device="cpu", precision="fp32", seed=0, threads=1)
    recipes = PpoRecipe(**settings), OpdDaRecipe(opd={"targets": "none"}, **settings)
    plain, group_without_peers = (PpoGroup(recipe, runtime) for recipe in recipes)
    for update in range(2):
        plain.update(update)
        group_without_peers.update(update)
    for ours, other in zip(weights(plain), weights(group_without_peers), strict=True):
        assert same(ours, other)


def test_policies_together_learn_what_they_learn_one_after_another() -> None:
    together, apart = group(3, ramp=0.0), group(3, together=False, ramp=0.0)
    assert (len(together.stacks), len(apart.stacks)) == (1, 3)
    for update in range(2):
        ours, slow = together.update(update), apart.update(update)
        assert ours == pytest.approx(slow, abs=1e-5)
    for one, other in zip(weights(together), weights(apart), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for p, q in zip(together.attention.parameters(), apart.attention.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_the_order_of_the_policies_makes_no_difference() -> None:
    """Peers are looked at before anybody learns: stepping them in reverse gives the same weights."""
    forward, backward = group(3, together=False, ramp=0.0), group(3, together=False, ramp=0.0)
    backward.stacks.reverse()
    backward.optimizers.reverse()
    for one in (forward, backward):
        one.update(0)
    for first, second in zip(weights(forward), weights(backward), strict=True):
        assert same(first, second)
    for p, q in zip(forward.attention.parameters(), backward.attention.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)  # its gradient is summed in another order


@pytest.mark.parametrize("chosen", ["exclude", "include"])
def test_what_is_known_is_not_computed_again(chosen: str) -> None:
    one = group(3, together=False, attention_self=chosen)
    rollouts = [one.collect(stack) for stack in one.stacks]
    observations = [rollout.observations for rollout in rollouts]
    known = one.views(observations, [rollout.decisions for rollout in rollouts])
    for m, (ours, slow) in enumerate(zip(known, one.views(observations), strict=True)):
        for b in range(3):
            torch.testing.assert_close(ours[1][b], slow[1][b])
            has_features = b != m or chosen == "include"
            assert torch.equal(ours[0][b], slow[0][b] if has_features else torch.zeros_like(slow[0][b]))


def test_peers_get_no_gradient() -> None:
    one = group(3, together=False)
    rollouts = [one.collect(stack) for stack in one.stacks]
    peers = one.peers(one.views([rollout.observations for rollout in rollouts]))
    terms = one.terms(one.stacks[0], rollouts[0], peers[0], 1.0)
    torch.cat(list(terms.values())).sum().backward()
    for stack in one.stacks:
        stack.take_gradient()
    largest = [float(stack.weights.grad.abs().max()) for stack in one.stacks]
    assert largest[0] > 0
    assert largest[1:] == [0, 0]
    assert one.attention.query.weight.grad is not None
    assert float(one.attention.query.weight.grad.abs().max()) > 0


def undetached_loss(one: PpoGroup, seen: list[Tensor], parts: list[Rollout]) -> Tensor:
    """What all policies lose by their distances from each other, slowly, with gradient into everybody."""
    opd, loss = one.opd, torch.zeros(())
    networks = [policy.network for policy in one.policies]
    for m, states in enumerate(seen):
        features, logits = zip(*(network(states)[:2] for network in networks), strict=True)
        others = [b for b in range(len(networks)) if b != m]
        query = features[m] @ one.attention.query.weight.T
        keys = [features[b] @ one.attention.key.weight.T for b in others]
        scores = torch.stack([(query * key).sum(-1) for key in keys], -1) / opd.attention_dim**0.5
        alpha = scores.softmax(-1)
        z_hat = sum(alpha[:, i, None] * logits[b] for i, b in enumerate(others))
        f_hat = sum(alpha[:, i, None] * features[b] for i, b in enumerate(others))
        p = z_hat.softmax(-1)
        kl = (p * (p.log() - logits[m].log_softmax(-1))).sum(-1)
        far = (features[m] - f_hat).square().mean(-1)
        counts = parts[m].valid[0] / parts[m].valid[0].sum()
        loss = loss + (counts * (opd.decision_weight * kl + opd.feature_weight * far)).sum()
    return loss


@pytest.mark.parametrize("together", [True, False])
def test_where_nothing_is_detached_targets_push_peers(together: bool) -> None:
    one = group(3, together=together, detach="none", decision_weight=1.0, feature_weight=1.0)
    torch.manual_seed(0)
    with torch.no_grad():
        for stack in one.stacks:  # or logits are all near 0
            stack.weights += 0.1 * torch.randn_like(stack.weights)  # type: ignore[misc]
    rollouts = [one.collect(stack) for stack in one.stacks]
    peers = one.live_peers([rollout.observations for rollout in rollouts])
    terms = [one.terms(*row, 1.0) for row in zip(one.stacks, rollouts, peers, strict=True)]
    torch.cat([row[name] for row in terms for name in ("decision", "feature")]).sum().backward()
    for stack in one.stacks:
        stack.take_gradient()
    ours = torch.cat([stack.weights.grad for stack in one.stacks])  # type: ignore[misc]
    query = one.attention.query.weight.grad
    one.attention.zero_grad()
    states = [row for rollout in rollouts for row in rollout.observations]
    parts = [rollout.rows(torch.arange(128)[None]) for rollout in rollouts]
    if together:
        whole = rollouts[0]
        parts = [
            Rollout(*(getattr(whole, f.name)[m : m + 1] for f in fields(Rollout)[:-1])) for m in range(3)
        ]
    undetached_loss(one, states, parts).backward()
    for m, policy in enumerate(one.policies):
        slow = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.network.parameters()]
        flat = nn.utils.parameters_to_vector(slow)
        assert float(flat.abs().max()) > 1e-4
        torch.testing.assert_close(ours[m, : len(flat)], flat, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(query, one.attention.query.weight.grad, atol=1e-6, rtol=1e-3)


def test_without_a_detached_target_an_update_is_another_one() -> None:
    detached, undetached = group(3, ramp=0.0), group(3, ramp=0.0, detach="none")
    ours, other = detached.update(0), undetached.update(0)
    assert ours["decision"] != other["decision"]
    assert undetached.attention_means is not None
    assert not same(weights(detached)[0], weights(undetached)[0])


@pytest.mark.parametrize("how", ["target", "none"])
def test_attention_learns_or_stays_as_it_was_drawn(how: str) -> None:
    one = group(3, ramp=0.0, attention_train=how)
    before = one.attention.query.weight.detach().clone()
    one.update(0)
    assert torch.equal(before, one.attention.query.weight) == (how == "none")
    assert one.attention_means is not None
    assert float(one.attention_means[0, 1]) != 0.5


def test_adapters_learn_under_plain_averages_too() -> None:
    recipe = OpdDaRecipe(
        env={"id": CORRIDOR, "copies": 2},
        train={"env_steps": 256},
        policies=("small", "large", "large"),
        opd={"targets": "mean", "feature_weight": 0.01},
        ppo=PpoSection(rollout=16, epochs=1, minibatches=1),
    )
    one = PpoGroup(recipe, create_runtime(device="cpu", precision="fp32", seed=0, threads=1))
    before = [p.detach().clone() for p in one.attention.adapters.parameters()]
    one.update(0)
    assert not any(
        torch.equal(p, q) for p, q in zip(before, one.attention.adapters.parameters(), strict=True)
    )


def test_a_group_goes_on_where_it_was() -> None:
    whole, cut = group(3), group(3)
    for update in range(4):
        if update == 2:
            whole.restart(update)
        whole.update(update)
    for update in range(2):
        cut.update(update)
    state = cut.state_dict()
    again = group(3)
    again.load_state_dict(state)
    again.restart(2)
    for update in range(2, 4):
        again.update(update)
    for one, other in zip(weights(whole), weights(again), strict=True):
        assert same(one, other)
    assert again.policies[0].returns.values == whole.policies[0].returns.values


def test_members_may_have_other_sizes() -> None:
    recipe = OpdDaRecipe(
        env={"id": CORRIDOR, "copies": 2},
        train={"env_steps": 256},
        policies=("small", "large", "large"),
        opd={"attention_input": "decision"},
        ppo=PpoSection(rollout=16, epochs=1, minibatches=1),
    )
    one = PpoGroup(recipe, create_runtime(device="cpu", precision="fp32", seed=0, threads=1))
    values = one.update(0)
    assert values["decision"] >= 0
    sizes = [sum(p.numel() for p in policy.network.parameters()) for policy in one.policies]
    assert sizes[0] * 4 < sizes[1] == sizes[2]
    assert OpdDaRecipe(policies=("small", "large")).opd.attention_input == "decision"
    with pytest.raises(ValueError, match="policies of different sizes need 'decision', not 'feature'"):
        OpdDaRecipe(policies=("small", "large"), opd={"attention_input": "feature"})


def test_frames_and_clipped_rewards() -> None:
    one = group(2, env=FRAMES, clip=True)
    assert len(one.stacks) == 2  # convolutions are computed one after another
    rollout = one.collect(one.stacks[0])
    assert rollout.observations.dtype == torch.uint8
    assert max(one.policies[0].returns.values) > 7  # whole rewards, up to 10 a step
    assert isinstance(one.policies[0].network.encoder[-1], nn.ReLU)
