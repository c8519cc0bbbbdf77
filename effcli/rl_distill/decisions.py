"""What decisions mean: probabilities of choices, and Gaussians of continuous actions, all in closed form.

Decisions are ``[..., D]``: logits of each choice side by side, or means and logarithms of standard deviations
(docs/methods/opd-da.md, Other actions). Independent numbers of one action add up their log-probabilities.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.rl_distill.environments.actions import Actions

_SMALLEST_LOG_STD, _LARGEST_LOG_STD = -5.0, 2.0


def gaussian(decisions: Tensor) -> tuple[Tensor, Tensor]:
    """Means and logarithms of standard deviations ``[..., K]``, the latter within -5..2."""
    mean, log_std = decisions.chunk(2, -1)
    return mean, log_std.clamp(_SMALLEST_LOG_STD, _LARGEST_LOG_STD)


def log_prob(decisions: Tensor, actions: Tensor, kind: Actions) -> Tensor:
    """Log-probabilities ``[...]`` of actions ``[...]`` or ``[..., K]``; densities of continuous ones, before bounds."""
    return log_prob_and_entropy(decisions, actions, kind)[0]


def log_prob_and_entropy(decisions: Tensor, actions: Tensor, kind: Actions) -> tuple[Tensor, Tensor]:
    """Log-probabilities of actions, and minus the entropy, ``[...]`` each."""
    if kind.kind == "numbers":
        mean, log_std = gaussian(decisions)
        z = (actions - mean) * (-log_std).exp()
        half = math.log(2 * math.pi) / 2
        return (-z.square() / 2 - log_std - half).sum(-1), -(log_std + half + 0.5).sum(-1)
    chosen = actions[..., None] if kind.is_discrete else actions
    logs = [logits.log_softmax(-1) for logits in decisions.split(kind.choices, -1)]
    found = [log_p.gather(-1, chosen[..., i : i + 1])[..., 0] for i, log_p in enumerate(logs)]
    return _total(found), _total([(log_p.exp() * log_p).sum(-1) for log_p in logs])


def _total(found: list[Tensor]) -> Tensor:
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)


def divergence(z: Tensor, z_hat: Tensor, tau: float, kind: Actions) -> Tensor:
    """tau^2 KL(p_hat^(1/tau) || p^(1/tau)) per state ``[...]``; p^(1/tau) of a Gaussian has tau times its variance."""
    if kind.kind == "numbers":
        (mean, log_std), (mean_hat, log_std_hat) = gaussian(z), gaussian(z_hat)
        ratio = (2 * (log_std_hat - log_std)).exp()
        apart = (mean_hat - mean).square() * (-2 * log_std).exp() / tau
        return tau**2 * ((ratio + apart - 1) / 2 + log_std - log_std_hat).sum(-1)
    found = []
    for own, other in zip(z.split(kind.choices, -1), z_hat.split(kind.choices, -1), strict=True):
        target = (other / tau).log_softmax(-1)
        kl = F.kl_div((own / tau).log_softmax(-1), target, reduction="none", log_target=True)
        found.append(tau**2 * kl.sum(-1))
    return _total(found)


def mean_of(alpha: Tensor, decisions: Tensor, aggregate: str, tau: float, kind: Actions) -> Tensor:
    """z_hat ``[..., D]``: the mean over peers of decisions ``[..., P, D]`` by weights alpha ``[..., P]``.

    ``logits`` averages log-probabilities, which of Gaussians weights means by precision; ``probs`` averages
    probabilities, whose mixture of Gaussians is replaced by the one of the same mean and variance.
    """
    weights = alpha[..., None]
    if kind.kind == "numbers":
        mean, log_std = gaussian(decisions)
        if aggregate == "logits":
            precision = weights * (-2 * log_std).exp()
            total = precision.sum(-2)
            return torch.cat([(precision * mean).sum(-2) / total, -total.log() / 2], -1)
        middle = (weights * mean).sum(-2)
        variance = (weights * ((2 * log_std).exp() + mean.square())).sum(-2) - middle.square()
        return torch.cat([middle, variance.clamp_min(1e-8).log() / 2], -1)
    if aggregate == "logits":
        return (weights * decisions).sum(-2)
    logs = alpha.clamp_min(1e-12).log()[..., None]
    found = [
        tau * (logs + (one / tau).log_softmax(-1)).logsumexp(-2) for one in decisions.split(kind.choices, -1)
    ]
    return torch.cat(found, -1)


def distance(one: Tensor, other: Tensor, kind: Actions) -> Tensor:
    """How far two policies are apart, 0..1, the mean over all states and numbers of the action.

    The total variation distance of choices; of Gaussians the Hellinger distance, as that has no closed form.
    """
    if kind.kind == "numbers":
        (mean, log_std), (mean_2, log_std_2) = gaussian(one), gaussian(other)
        both = (2 * log_std).exp() + (2 * log_std_2).exp()
        overlap = ((log_std + log_std_2 + math.log(2) - both.log()) / 2).exp()
        alike = overlap * (-(mean - mean_2).square() / (4 * both / 2) / 2).exp()
        return (1 - alike).clamp_min(0).sqrt().mean()
    pairs = zip(one.split(kind.choices, -1), other.split(kind.choices, -1), strict=True)
    found = [(a.softmax(-1) - b.softmax(-1)).abs().sum(-1).mean() / 2 for a, b in pairs]
    return found[0] if len(found) == 1 else torch.stack(found).mean()


def draw(decisions: np.ndarray, noise: np.ndarray, kind: Actions) -> np.ndarray:
    """Sample actions ``[...]`` or ``[..., K]`` of decisions ``[..., D]``.

    Args:
        decisions: float32.
        noise: uniform in 0..1 of choices, normal of continuous actions; ``[...]`` or ``[..., K]``, as :func:`noise_of`.
        kind: of the actions.
    """
    if kind.kind == "numbers":
        mean, log_std = np.split(decisions, 2, -1)
        drawn: np.ndarray = mean + np.exp(np.clip(log_std, _SMALLEST_LOG_STD, _LARGEST_LOG_STD)) * noise
        return drawn
    if kind.is_discrete:
        return _chosen(decisions, noise)
    ends = np.cumsum(kind.choices)[:-1]
    found = [_chosen(one, noise[..., i]) for i, one in enumerate(np.split(decisions, ends, -1))]
    return np.stack(found, -1)


def noise_of(shape: tuple[int, ...], kind: Actions, generator: torch.Generator) -> Tensor:
    """The random numbers that :func:`draw` needs for actions of a shape."""
    if kind.is_discrete:
        return torch.rand(shape, generator=generator)
    make = torch.rand if kind.kind == "choices" else torch.randn
    return make((*shape, kind.n_numbers), generator=generator)


def best(decisions: Tensor, kind: Actions) -> Tensor:
    """The most likely actions, ``[...]`` or ``[..., K]``."""
    if kind.kind == "numbers":
        return decisions.chunk(2, -1)[0]
    if kind.is_discrete:
        return decisions.argmax(-1)
    return torch.stack([one.argmax(-1) for one in decisions.split(kind.choices, -1)], -1)


def _chosen(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Sample choices with probabilities ``softmax(logits)``, ``[..., A]``, from uniform numbers in 0..1, ``[...]``."""
    odds = np.exp(logits - logits.max(-1, keepdims=True)).cumsum(-1)
    chosen: np.ndarray = (odds[..., :-1] <= uniform[..., None] * odds[..., -1:]).sum(-1)
    return chosen
