"""Decision attention: weights, targets, distances, and who gets gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from effcli.rl_distill.group import peers_from, peers_of, standardised
from effcli.rl_distill.losses import decision_divergence, q_distance
from effcli.rl_distill.opd_da import (
    DecisionAttention,
    centred,
    disagreement,
    mean_decisions,
    ramp_up,
)
from effcli.rl_distill.recipe import OpdSection

B, F, A = 6, 8, 5


def said(n: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Features and decisions of ``n`` policies on the states of one."""
    torch.manual_seed(seed)
    return [torch.randn(1, B, F) for _ in range(n)], [torch.randn(1, B, A) for _ in range(n)]


def module(n: int = 3, **settings: Any) -> DecisionAttention:
    torch.manual_seed(1)
    return DecisionAttention([F] * n, A, OpdSection(**settings))


def test_weights_are_a_distribution_over_peers() -> None:
    features, decisions = said(4)
    for chosen, n in (("exclude", 3), ("include", 4)):
        attention = module(4, attention_self=chosen)
        peers = peers_from([1], features, decisions, torch.zeros(4), attention.settings)
        assert peers.members == (((0, 2, 3),) if chosen == "exclude" else ((0, 1, 2, 3),))
        alpha = attention.weights(features[1], decisions[1], peers)
        assert alpha.shape == (1, B, n)
        assert float(alpha.min()) >= 0
        torch.testing.assert_close(alpha.sum(-1), torch.ones(1, B))
        with torch.no_grad():
            attention.query.weight.zero_()
        alike = attention.weights(features[1], decisions[1], peers)
        torch.testing.assert_close(alike, torch.full((1, B, n), 1 / n))


@pytest.mark.parametrize("kind", ["feature", "decision"])
@pytest.mark.parametrize("scale", ["sqrt", "none"])
def test_weights_against_a_loop(kind: str, scale: str) -> None:
    features, decisions = said(3)
    attention = module(attention_input=kind, attention_scale=scale, attention_dim=4)
    if kind == "decision":
        attention = DecisionAttention([F] * 3, A, attention.settings)
    alpha = attention.weights(
        features[0], decisions[0], peers_from([0], features, decisions, torch.zeros(3), attention.settings)
    )
    source = features if kind == "feature" else decisions
    for s in range(B):
        q = attention.query.weight @ source[0][0, s]
        scores = [float(q @ (attention.key.weight @ source[b][0, s])) for b in (1, 2)]
        scores = [score / (math.sqrt(4) if scale == "sqrt" else 1) for score in scores]
        total = sum(map(math.exp, scores))
        assert alpha[0, s].tolist() == pytest.approx([math.exp(score) / total for score in scores], rel=1e-4)


def test_the_mean_is_attention_with_equal_keys() -> None:
    features, decisions = said(3)
    attention = module()
    with torch.no_grad():
        attention.key.weight.zero_()
    peers = peers_from([2], features, decisions, torch.zeros(3), attention.settings)
    mean = module(targets="mean")
    torch.testing.assert_close(
        attention.weights(features[2], decisions[2], peers), mean.weights(features[2], decisions[2], peers)
    )


def test_targets_against_their_definition() -> None:
    features, decisions = said(3)
    attention = module()
    peers = peers_from([0], features, decisions, torch.zeros(3), attention.settings)
    alpha = torch.tensor([0.25, 0.75]).expand(1, B, 2)
    z_hat = mean_decisions(alpha, peers.decisions, OpdSection())
    torch.testing.assert_close(z_hat, 0.25 * decisions[1] + 0.75 * decisions[2])
    probs = mean_decisions(alpha, peers.decisions, OpdSection(aggregate="probs", temperature=2.0))
    expected = 0.25 * (decisions[1] / 2).softmax(-1) + 0.75 * (decisions[2] / 2).softmax(-1)
    torch.testing.assert_close((probs / 2).softmax(-1), expected)
    torch.testing.assert_close(
        attention.mean_features(alpha, peers, 0), 0.25 * features[1] + 0.75 * features[2]
    )


def test_identical_members_lose_nothing() -> None:
    features, decisions = said(1)
    features, decisions = features * 3, decisions * 3
    attention = module()
    z = decisions[0].clone().requires_grad_()
    f = features[0].clone().requires_grad_()
    peers = peers_from([0], features, decisions, torch.zeros(3), attention.settings)
    alpha = attention.weights(f, z, peers)
    loss = decision_divergence(z, mean_decisions(alpha, peers.decisions, attention.settings), 1.5).mean()
    loss = loss + (f - attention.mean_features(alpha, peers, 0)).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert z.grad is not None
    assert f.grad is not None
    assert float(z.grad.abs().max()) == pytest.approx(0, abs=1e-6)
    assert float(f.grad.abs().max()) == pytest.approx(0, abs=1e-6)


def test_with_one_peer_the_target_is_the_peer_and_attention_learns_nothing() -> None:
    features, decisions = said(2)
    attention = module(2)
    peers = peers_from([0], features, decisions, torch.zeros(2), attention.settings)
    alpha = attention.weights(features[0], decisions[0], peers)
    z_hat = mean_decisions(alpha, peers.decisions, attention.settings)
    torch.testing.assert_close(z_hat, decisions[1])
    decision_divergence(decisions[0], z_hat, 1.0).mean().backward()
    for weight in (attention.query.weight, attention.key.weight):
        assert weight.grad is not None
        assert float(weight.grad.abs().max()) == 0


def test_gradients_reach_the_policy_and_the_attention_but_no_peer() -> None:
    features, decisions = said(3)
    for tensor in (*features, *decisions):
        tensor.requires_grad_()
    attention = module()
    with torch.no_grad():
        still = [f.detach() for f in features], [z.detach() for z in decisions]
    peers = peers_from([0], *still, torch.zeros(3), attention.settings)
    alpha = attention.weights(features[0], decisions[0], peers)
    decision_divergence(
        decisions[0], mean_decisions(alpha, peers.decisions, attention.settings), 1.0
    ).mean().backward()
    assert decisions[0].grad is not None
    assert features[0].grad is None  # not trained to be attractive
    assert all(tensor.grad is None for tensor in (*features[1:], *decisions[1:]))
    assert attention.query.weight.grad is not None
    assert float(attention.query.weight.grad.abs().max()) > 0


def test_the_gradient_of_the_decision_loss() -> None:
    tau = 3.0
    _, (z, z_hat) = said(2)
    z.requires_grad_()
    decision_divergence(z, z_hat, tau).mean().backward()
    expected = tau * ((z / tau).softmax(-1) - (z_hat / tau).softmax(-1)) / B
    assert z.grad is not None
    torch.testing.assert_close(z.grad, expected.detach(), atol=1e-6, rtol=0)
    same = decision_divergence(z, z.detach(), tau)
    assert float(same.detach().abs().max()) == pytest.approx(0, abs=1e-6)


def test_permuting_the_policies_permutes_the_weights() -> None:
    features, decisions = said(3)
    attention = module()
    order = (2, 0, 1)
    swapped = [features[i] for i in order], [decisions[i] for i in order]
    for m in range(3):
        peers = peers_from([m], *swapped, torch.zeros(3), attention.settings)
        alpha = attention.weights(swapped[0][m], swapped[1][m], peers)
        own = peers_from([order[m]], features, decisions, torch.zeros(3), attention.settings)
        before = attention.weights(features[order[m]], decisions[order[m]], own)
        for column, b in enumerate(peers.members[0]):
            torch.testing.assert_close(alpha[..., column], before[..., own.members[0].index(order[b])])


def test_policies_side_by_side_get_what_each_gets_alone() -> None:
    torch.manual_seed(2)
    features, decisions = [torch.randn(3, B, F) for _ in range(3)], [torch.randn(3, B, A) for _ in range(3)]
    attention = module(value_weight=0.7)
    returns = standardised([5.0, 1.0, 9.0])
    peers = peers_from([0, 1, 2], features, decisions, returns, attention.settings)
    own = torch.stack([features[m][m] for m in range(3)]), torch.stack([decisions[m][m] for m in range(3)])
    alpha = attention.weights(*own, peers)
    for m in range(3):
        seen = [f[m : m + 1] for f in features], [z[m : m + 1] for z in decisions]
        one = peers_from([m], *seen, returns, attention.settings)
        alone = attention.weights(seen[0][m], seen[1][m], one)
        torch.testing.assert_close(alpha[m], alone[0])
        torch.testing.assert_close(
            attention.mean_features(alpha, peers, 0)[m], attention.mean_features(alone, one, m)[0]
        )
    chosen = torch.tensor([[4, 0], [1, 1], [5, 2]])
    assert torch.equal(peers.rows(chosen).decisions[2, 0], peers.decisions[2, 5])


def test_the_ramp() -> None:
    assert ramp_up(0, 1000, 0.27) == pytest.approx(math.exp(-5))
    assert ramp_up(270, 1000, 0.27) == pytest.approx(1)
    values = [ramp_up(step, 1000, 0.27) for step in range(1001)]
    assert values == sorted(values)
    assert ramp_up(0, 1000, 0.0) == 1


def test_better_peers_weigh_more_where_returns_count() -> None:
    features, decisions = said(3)
    attention = module(value_weight=2.0)
    with torch.no_grad():
        attention.key.weight.zero_()
    returns = standardised([5.0, 1.0, 9.0])
    peers = peers_from([0], features, decisions, returns, attention.settings)
    alpha = attention.weights(features[0], decisions[0], peers)
    assert float((alpha[..., 1] / alpha[..., 0]).log().mean()) == pytest.approx(
        2 * float(returns[2] - returns[1]), rel=1e-5
    )
    assert standardised([None, 1.0]).tolist() == [0, 0]
    assert standardised([3.0, 3.0]).tolist() == [0, 0]


def test_q_values_are_compared_as_they_are_or_centred() -> None:
    _, (q, other) = said(2)
    torch.testing.assert_close(q_distance(q, other, OpdSection()), (q - other).square().mean(-1))
    shifted = centred(q + 100, OpdSection(q_centre=True))
    torch.testing.assert_close(shifted, centred(q, OpdSection(q_centre=True)), atol=1e-4, rtol=0)
    assert torch.equal(centred(q, OpdSection()), q)
    softened = q_distance(q, other, OpdSection(q_loss="kl", temperature=0.5))
    torch.testing.assert_close(softened, decision_divergence(q, other, 0.5))


def test_disagreement() -> None:
    one, other = torch.tensor([[0.0, 100.0]]).expand(4, 2), torch.tensor([[100.0, 0.0]]).expand(4, 2)
    assert disagreement([one, other], "ppo") == pytest.approx(1)
    assert disagreement([one, one], "ppo") == 0
    mixed = torch.cat([one[:3], other[:1]])
    assert disagreement([one, mixed], "dqn") == pytest.approx(0.25)
    assert disagreement([one], "ppo") == 0


def test_members_of_other_sizes_are_compared_after_an_adapter() -> None:
    settings = OpdSection(attention_input="decision")
    attention = DecisionAttention([4, 8, 8], A, settings)
    assert sorted(attention.adapters) == ["0-1", "0-2", "1-0", "2-0"]
    features, decisions = [torch.randn(1, B, n) for n in (4, 8, 8)], said(3)[1]
    peers = peers_from([0], features, decisions, torch.zeros(3), settings)
    assert isinstance(peers.features, tuple)
    alpha = attention.weights(features[0], decisions[0], peers)
    assert attention.mean_features(alpha, peers, 0).shape == (1, B, 4)
    assert peers_of(1, 3, OpdSection()) == (0, 2)
