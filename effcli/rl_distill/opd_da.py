"""OPD-DA: distillation targets from peers, with attention weights of each policy's own.

Symbols: f features ``[T, B, F]`` of T policies on B states of each, z decisions ``[T, B, A]`` (logits of PPO, Q-values
of DQN), alpha weights ``[T, B, P]`` over P peers, tau the temperature. The equations of the paper were not available;
docs/methods/opd-da.md, What the paper says, marks what is inferred and from where. The losses are in `losses.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effcli.rl_distill.decisions import distance, mean_of
from effcli.rl_distill.environments.actions import Actions, single_choice
from effcli.rl_distill.network.policies import FORBIDDEN
from effcli.rl_distill.recipe import OpdSection

RAMP_SHARPNESS = 5.0


@dataclass(frozen=True)
class Peers:
    """Features and decisions of the peers on the states of T policies; detached unless the recipe has ``detach: none``.

    Attributes:
        features: of all peers, ``[T, B, P, F]``; where their sizes differ, T is 1 and each is ``[1, B, F_b]``.
        decisions: of all peers, ``[T, B, P, A]``.
        members: indices of the peers of each policy; with ``attention_self: include`` its own is among them.
        returns: recent return of each peer, standardised over the group, ``[T, 1, P]``.
    """

    features: Tensor | tuple[Tensor, ...]
    decisions: Tensor
    members: tuple[tuple[int, ...], ...]
    returns: Tensor

    def rows(self, indices: Tensor) -> Peers:
        """The states with the given indices ``[T, b]`` of each policy."""
        policy = torch.arange(len(indices), device=indices.device)[:, None]
        features = (
            self.features[policy, indices]
            if isinstance(self.features, Tensor)
            else tuple(one[policy, indices] for one in self.features)
        )
        return Peers(features, self.decisions[policy, indices], self.members, self.returns)


class DecisionAttention(nn.Module):
    """alpha_mb = softmax_b(W_q f_m . W_k f_b / sqrt(d)), one module for the whole group.

    See docs/methods/opd-da.md, Decision attention. Where sizes differ, a peer's features pass through
    one linear adapter per pair of policies.

    Args:
        widths: number of features of each policy.
        n_actions: number of actions.
        settings: `opd` of the recipe.
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
        """alpha ``[T, B, P]`` of the policies that have ``features`` and ``decisions``.

        These are detached, so that a policy is not trained to be attractive, unless the recipe has ``detach: none``.
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
        projected = self.query(own) @ self.key.weight  # q . W_k f_b = (W_k^T q) . f_b: no key per peer
        scores = (others @ projected[..., None])[..., 0]
        if self.settings.attention_scale == "sqrt":
            scores = scores / math.sqrt(self.settings.attention_dim)
        alpha: Tensor = (scores + self.settings.value_weight * peers.returns).softmax(-1)
        return alpha

    def mean_features(self, alpha: Tensor, peers: Peers, member: int) -> Tensor:
        """f_hat: the weighted sum of the peers' features, adapted to the width of policy ``member``."""
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


def mean_decisions(
    alpha: Tensor, decisions: Tensor, settings: OpdSection, actions: Actions | None = None
) -> Tensor:
    """z_hat ``[T, B, D]``: the weighted sum of decisions, or the logarithm of that of softened probabilities.

    See docs/methods/opd-da.md, Decision targets, and Other actions.

    Args:
        alpha: ``[T, B, P]``.
        decisions: of the peers, ``[T, B, P, D]``.
        settings: `opd` of the recipe.
        actions: what they decide on; None for a single choice, as of DQN.
    """
    kind = actions or single_choice(decisions.shape[-1])
    return mean_of(alpha, decisions, settings.aggregate, settings.temperature, kind)


def centred(q: Tensor, settings: OpdSection) -> Tensor:
    """Q-values minus their mean over actions where the recipe has ``q_centre``; else unchanged."""
    if not settings.q_centre:
        return q
    is_allowed = q > FORBIDDEN / 2
    if bool(is_allowed.all()):
        return q - q.mean(-1, keepdim=True)
    mean = q.where(is_allowed, 0.0).sum(-1, keepdim=True) / is_allowed.sum(-1, keepdim=True)
    return q.where(~is_allowed, q - mean)


def ramp_up(step: int, total_steps: int, share: float) -> float:
    """w(t) = exp(-5 (1 - min(1, t / t_r))^2), with t_r = share * total_steps; 1 for share 0.

    See docs/methods/opd-da.md, Ramp-up.
    """
    if share == 0:
        return 1.0
    return math.exp(-RAMP_SHARPNESS * (1 - min(1.0, step / (share * total_steps))) ** 2)


def weight_at(step: int, total_steps: int, settings: OpdSection) -> float:
    """w(t) of a recipe: the ramp, and after it what ``schedule`` says.

    See docs/methods/opd-da.md, Ramp-up.
    """
    weight = ramp_up(step, total_steps, settings.ramp)
    begins = settings.ramp * total_steps
    if settings.schedule == "constant" or step <= begins:
        return weight
    progress = (step - begins) / (total_steps - begins)
    return 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def disagreement(decisions: Sequence[Tensor], kind: str, actions: Actions | None = None) -> float:
    """Mean disagreement over pairs of policies on the same states, 0..1 (docs/methods/opd-da.md, Evaluation).

    Args:
        decisions: of each policy, ``[..., A]``.
        kind: ``ppo`` takes the total variation distance between action probabilities, ``dqn`` the share of states with
            different greedy actions.
    """
    if len(decisions) < 2:
        return 0.0
    found = []
    for i, one in enumerate(decisions):
        for other in decisions[:i]:
            if kind == "ppo":
                found.append(distance(one, other, actions or single_choice(one.shape[-1])))
            else:
                found.append((one.argmax(-1) != other.argmax(-1)).float().mean())
    return float(torch.stack(found).mean())
