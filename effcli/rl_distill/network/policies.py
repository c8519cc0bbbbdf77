"""The networks of policies: an encoder of observations, and heads (docs/methods/opd-da.md, Networks)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effcli.rl_distill.environments.actions import Actions
from effcli.rl_distill.environments.observations import Observed
from effcli.rl_distill.network.encoders import encoder, has_pictures, linear

FORBIDDEN = -1e8
"""The logit or value of an action that the mask does not allow."""


class ActorCritic(nn.Module):
    """The network of a PPO policy: decisions and the value of a state.

    Decisions are logits; of continuous actions means and logarithms of standard deviations, which do not depend on the
    state. With vector observations the critic has its own encoder; with images both heads share one.

    Args:
        observed: what observations are.
        actions: which there are.
        size: ``small``, ``normal`` or ``large``.
        normalises: numbers are normalised by running statistics.
    """

    def __init__(self, observed: Observed, actions: Actions, size: str, *, normalises: bool = False) -> None:
        super().__init__()
        self.mask = observed.mask
        self.encoder, self.n_features = encoder(observed, size, normalises=normalises)
        is_gaussian = actions.kind == "numbers"
        self.actor = linear(self.n_features, actions.n_numbers if is_gaussian else actions.n_decisions, 0.01)
        own = None if has_pictures(observed) else encoder(observed, size, normalises=normalises)[0]
        self.critic_encoder = own
        self.critic = linear(self.n_features, 1, 1.0)
        self.log_std = nn.Parameter(torch.zeros(actions.n_numbers)) if is_gaussian else None

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``[B, F]``, decisions ``[B, D]`` and values ``[B]`` of observations ``[B, ...]``."""
        features = self.encoder(observations)
        seen = features if self.critic_encoder is None else self.critic_encoder(observations)
        decisions = allowed(self.actor(features), observations, self.mask)
        if self.log_std is not None:
            decisions = torch.cat([decisions, self.log_std.expand_as(decisions)], -1)
        return features, decisions, self.critic(seen)[:, 0]


class QNetwork(nn.Module):
    """The network of a DQN policy: the value of each action.

    Args:
        observed: what observations are.
        actions: a single choice.
        size: ``small``, ``normal`` or ``large``.
        normalises: numbers are normalised by running statistics.
    """

    def __init__(self, observed: Observed, actions: Actions, size: str, *, normalises: bool = False) -> None:
        super().__init__()
        self.mask = observed.mask
        self.encoder, self.n_features = encoder(observed, size, normalises=normalises)
        self.q = nn.Linear(self.n_features, actions.n_decisions)
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
            if isinstance(module, nn.Sequential):
                for i, layer in enumerate(module):
                    if isinstance(layer, nn.Tanh):
                        module[i] = nn.ReLU()

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, F]`` and Q-values ``[B, A]`` of observations ``[B, ...]``."""
        features = self.encoder(observations)
        return features, allowed(self.q(features), observations, self.mask)


def allowed(decisions: Tensor, observations: Tensor, mask: slice | None) -> Tensor:
    """Decisions ``[..., D]``, those that the mask in the observations does not allow being very low."""
    if mask is None:
        return decisions
    return decisions.masked_fill(observations[..., mask] == 0, FORBIDDEN)
