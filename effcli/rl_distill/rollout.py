"""What PPO policies collect between two updates: states, actions, advantages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


def _of_one_process(value: Tensor) -> Tensor:
    return value


_PARTS = ("observations", "actions", "decisions", "log_probs", "values", "advantages", "targets", "valid")


@dataclass(frozen=True)
class Rollout:
    """N states of each of T policies and what was done in them.

    Attributes:
        observations: ``[T, N, ...]``.
        actions: ``[T, N]``, or ``[T, N, K]`` of several numbers each.
        decisions: of the policy that acted, ``[T, N, D]``.
        log_probs: log-probabilities of the actions at that time, ``[T, N]``.
        values: the critic's estimates at that time, ``[T, N]``.
        advantages: generalised advantage estimates, ``[T, N]``.
        targets: of the value loss, ``[T, N]``.
        valid: 1, or 0 where a copy was reset and ignored the action, ``[T, N]``.
        total: adds up a tensor over the processes that have states of their own, in place.
    """

    observations: Tensor
    actions: Tensor
    decisions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    targets: Tensor
    valid: Tensor
    total: Callable[[Tensor], Tensor] = field(default=_of_one_process, kw_only=True)

    def rows(self, indices: Tensor, counted: Tensor | None = None) -> Rollout:
        """The states with the given indices ``[T, b]`` of each policy; where ``counted`` is 0 they are not valid."""
        policy = torch.arange(len(indices), device=indices.device)[:, None]
        parts = {name: getattr(self, name)[policy, indices] for name in _PARTS}
        if counted is not None:
            parts["valid"] = parts["valid"] * counted
        return replace(self, **parts)

    @cached_property
    def n_valid(self) -> Tensor:
        """Valid states of all processes, ``[T]``."""
        return self.total(self.valid.sum(-1))

    @cached_property
    def shares(self) -> Tensor:
        """Weight of each state in a mean over the valid ones, ``[T, N]``."""
        return self.valid / self.n_valid[:, None].clamp_min(1.0)

    def part(self, values: Tensor) -> Tensor:
        """This process's part of the mean of ``[T, N]`` over the valid states of each policy, ``[T]``."""
        return (values * self.shares).sum(-1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of ``[T, N]`` over the valid states of each policy, of all processes, without gradient, ``[T]``."""
        return self.total(self.part(values))


def advantages_of(
    rewards: Tensor, values: Tensor, terminated: Tensor, done: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016) of n steps, ``[n, ...]``.

    Args:
        rewards: ``[n, ...]``.
        values: of the states and of those after the last step, ``[n + 1, ...]``; where an episode ends in step t, state
            t + 1 is its last one.
        terminated: 1 where the episode terminated, so that its last state is worth nothing, ``[n, ...]``.
        done: 1 where it terminated or was truncated, so that the next step belongs to another episode, ``[n, ...]``.
        gamma: discount, 0..1.
        gae_lambda: lambda, 0..1.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + gamma * (1 - terminated[t]) * values[t + 1] - values[t]
        following = delta + gamma * gae_lambda * (1 - done[t]) * following
        advantages[t] = following
    return advantages
