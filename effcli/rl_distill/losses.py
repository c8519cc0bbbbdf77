"""The losses: PPO, the TD error of DQN, and the distances of OPD-DA (docs/methods/opd-da.md, Decision loss)."""

from __future__ import annotations

import torch
from torch import Tensor

from effcli.rl_distill.decisions import divergence, log_prob_and_entropy
from effcli.rl_distill.environments.actions import Actions, single_choice
from effcli.rl_distill.recipe import OpdSection, PpoSection
from effcli.rl_distill.rollout import Rollout


def ppo_terms(
    decisions: Tensor, values: Tensor, batch: Rollout, settings: PpoSection, actions: Actions
) -> dict[str, Tensor]:
    """The clipped objective, the value loss and the entropy bonus (Schulman et al. 2017), weighted, ``[T]`` each.

    Of several processes each has its part of the sum.

    Args:
        decisions: of the current policies, ``[T, B, D]``.
        values: of their critics, ``[T, B]``.
        batch: the states and what was done in them.
        settings: of the recipe.
        actions: what is decided on.
    """
    log_p, negative_entropy = log_prob_and_entropy(decisions, batch.actions, actions)
    ratio = (log_p - batch.log_probs).exp()
    centred = batch.advantages - batch.mean(batch.advantages)[:, None]
    n = batch.n_valid
    spread = (batch.mean(centred.square()) * n / (n - 1).clamp_min(1.0)).sqrt()
    advantages = centred / (spread[:, None] + 1e-8)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    error = (values - batch.targets).square()
    if settings.clip_values:
        near = batch.values + (values - batch.values).clamp(-settings.clip, settings.clip)
        error = torch.maximum(error, (near - batch.targets).square())
    terms = {
        "policy": -batch.part(torch.minimum(ratio * advantages, clipped * advantages)),
        "value": settings.value_weight / 2 * batch.part(error),
    }
    if settings.entropy_weight:
        terms["entropy"] = settings.entropy_weight * batch.part(negative_entropy)
    return terms


def mean_over(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of ``[T, B, ...]`` over all but the first axis; by the ``weights`` ``[T, B]`` of a part of the batch."""
    if weights is None:
        return values.mean(tuple(range(1, values.ndim)))
    return (values.reshape(*weights.shape, -1).mean(-1) * weights).sum(-1)


def td_error(q: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """Squared TD error (Mnih et al. 2015), ``[T, B]``.

    Args:
        q: Q-values ``[T, B, A]``.
        actions: int64 ``[T, B]``.
        targets: ``[T, B]``.
    """
    return (q.gather(-1, actions[..., None])[..., 0] - targets).square()


def decision_divergence(z: Tensor, z_hat: Tensor, tau: float, actions: Actions | None = None) -> Tensor:
    """tau^2 KL(softmax(z_hat / tau) || softmax(z / tau)) per state, ``[T, B]``.

    Args:
        z, z_hat: decisions and their targets, ``[T, B, D]``.
        tau: temperature.
        actions: what they decide on; None for a single choice.
    """
    return divergence(z, z_hat, tau, actions or single_choice(z.shape[-1]))


def q_distance(q: Tensor, q_hat: Tensor, settings: OpdSection) -> Tensor:
    """Distance between Q-values per state, ``[T, B]``: mean squared error over actions, or the divergence."""
    if settings.q_loss == "kl":
        return decision_divergence(q, q_hat, settings.temperature)
    return (q - q_hat).square().mean(-1)


def feature_distance(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over features per state, ``[T, B]`` (docs/methods/opd-da.md, Feature loss)."""
    return (features - target).square().mean(-1)
