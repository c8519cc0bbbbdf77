"""Targets from peers, each policy with weights of its own, and the distances from them (OPD-DA, section 3).

Symbols: f features ``[T, B, F]`` of T policies on B states of each, z decisions ``[T, B, A]`` (logits of PPO, Q-values
of DQN), alpha weights ``[T, B, P]`` of P peers, tau the temperature. The equations of the paper were not available to
us; the form is that of OKDDip (Chen et al., AAAI 2020), whose abstract it shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.rl_distill.recipe import OpdSection

RAMP = 5.0


@dataclass(frozen=True)
class Peers:
    """What the others make of the states of T policies; without gradient, unless the recipe says ``detach: none``.

    Attributes:
        features: of all peers, ``[T, B, P, F]``; where their sizes differ, T is 1 and each
            is ``[1, B, F_b]``.
        decisions: ``[T, B, P, A]``.
        members: numbers of the peers of each policy; with ``attention_self=include`` it is among them itself.
        returns: recent return of each peer, standardised over the group, ``[T, 1, P]``.
    """

    features: Tensor | tuple[Tensor, ...]
    decisions: Tensor
    members: tuple[tuple[int, ...], ...]
    returns: Tensor

    def rows(self, chosen: Tensor) -> Peers:
        """Of some of the states, numbers ``[T, b]`` of those of each policy."""
        policy = torch.arange(len(chosen), device=chosen.device)[:, None]
        features = (
            self.features[policy, chosen]
            if isinstance(self.features, Tensor)
            else tuple(one[policy, chosen] for one in self.features)
        )
        return Peers(features, self.decisions[policy, chosen], self.members, self.returns)


class DecisionAttention(nn.Module):
    """One module for the group: alpha_mb = softmax_b(W_q f_m . W_k f_b / sqrt(d)).

    Where sizes differ, features are compared after a linear adapter a pair.

    Args:
        widths: of the features of each policy.
        n_actions: how many.
        settings: the recipe's.
    """

    def __init__(self, widths: Sequence[int], n_actions: int, settings: OpdSection) -> None:
        super().__init__()
        self.settings = settings
        n_in = n_actions if settings.attention_input == "decision" else widths[0]
        self.query = nn.Linear(n_in, settings.attention_dim, bias=False)
        self.key = nn.Linear(n_in, settings.attention_dim, bias=False)
        for layer in (self.query, self.key):
            layer.requires_grad_(settings.attention_train == "target")
        pairs = ((m, b) for m in range(len(widths)) for b in range(len(widths)))
        self.adapters = nn.ModuleDict(
            {f"{m}-{b}": nn.Linear(widths[b], widths[m]) for m, b in pairs if widths[m] != widths[b]}
        )

    def weights(self, features: Tensor, decisions: Tensor, peers: Peers) -> Tensor:
        """alpha ``[T, B, P]``; what a policy itself gives is detached, so it is not trained to be attractive.

        With ``detach: none`` it is not.
        """
        n = len(peers.members[0])
        if self.settings.targets == "mean":
            return decisions.new_full((*decisions.shape[:-1], n), 1 / n)
        own, others = decisions, peers.decisions
        if self.settings.attention_input == "feature":
            assert isinstance(peers.features, Tensor), "the recipe refuses features of several sizes"
            own, others = features, peers.features
        if self.settings.detach == "peers":
            own = own.detach()
        seeking = self.query(own) @ self.key.weight  # q . W_k f_b = (W_k^T q) . f_b, without a key a peer
        scores = (others @ seeking[..., None])[..., 0]
        if self.settings.attention_scale == "sqrt":
            scores = scores / math.sqrt(self.settings.attention_dim)
        alpha: Tensor = (scores + self.settings.value_weight * peers.returns).softmax(-1)
        return alpha

    def mean_features(self, alpha: Tensor, peers: Peers, member: int) -> Tensor:
        """f_hat: the weighted sum of the peers' features; where sizes differ, in the width of policy ``member``'s."""
        if isinstance(peers.features, Tensor):
            return _weighted(alpha, peers.features)
        adapted = [
            self.adapters[f"{member}-{b}"](one) if f"{member}-{b}" in self.adapters else one
            for b, one in zip(peers.members[0], peers.features, strict=True)
        ]
        return _weighted(alpha, torch.stack(adapted, -2))


def _weighted(alpha: Tensor, values: Tensor) -> Tensor:
    """``[T, B, P]`` times ``[T, B, P, N]``: ``[T, B, N]``."""
    return (alpha[..., None] * values).sum(-2)


def mean_decisions(alpha: Tensor, decisions: Tensor, settings: OpdSection) -> Tensor:
    """z_hat ``[T, B, A]``: the weighted sum of decisions, or logarithms of that of probabilities."""
    if settings.aggregate == "logits":
        return _weighted(alpha, decisions)
    log_p = (decisions / settings.temperature).log_softmax(-1)
    return settings.temperature * (alpha.clamp_min(1e-12).log()[..., None] + log_p).logsumexp(-2)


def decision_divergence(z: Tensor, z_hat: Tensor, tau: float) -> Tensor:
    """tau^2 KL(softmax(z_hat / tau) || softmax(z / tau)) of each state, ``[T, B]``."""
    target = (z_hat / tau).log_softmax(-1)
    return tau**2 * F.kl_div((z / tau).log_softmax(-1), target, reduction="none", log_target=True).sum(-1)


def q_distance(q: Tensor, q_hat: Tensor, settings: OpdSection) -> Tensor:
    """Of Q-values, of each state ``[T, B]``: mean squares over actions, or the divergence of softened ones."""
    if settings.q_loss == "kl":
        return decision_divergence(q, q_hat, settings.temperature)
    return (q - q_hat).square().mean(-1)


def centred(q: Tensor, settings: OpdSection) -> Tensor:
    """Q-values less their mean over actions, where the recipe says so."""
    return q - q.mean(-1, keepdim=True) if settings.q_centre else q


def ramp_up(step: int, total_steps: int, share: float) -> float:
    """w(t) = exp(-5 (1 - min(1, t / t_r))^2), with t_r a share of the steps; 1 without a ramp."""
    if share == 0:
        return 1.0
    return math.exp(-RAMP * (1 - min(1.0, step / (share * total_steps))) ** 2)


def disagreement(decisions: Sequence[Tensor], kind: str) -> float:
    """Mean over pairs of policies on the same states.

    Args:
        decisions: of each policy, ``[..., A]``.
        kind: ``ppo``: total variation distance of the probabilities; ``dqn``: share of states with another best action.
    """
    if len(decisions) < 2:
        return 0.0
    found = []
    for i, one in enumerate(decisions):
        for other in decisions[:i]:
            if kind == "ppo":
                found.append((one.softmax(-1) - other.softmax(-1)).abs().sum(-1).mean() / 2)
            else:
                found.append((one.argmax(-1) != other.argmax(-1)).float().mean())
    return float(torch.stack(found).mean())
