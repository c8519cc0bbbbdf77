"""PPO (Schulman et al. 2017) for a group: every policy collects and learns by itself, and imitates its peers.

The peers' decisions on a policy's rollout are computed once, before anybody learns, and serve all epochs; so no order
of the policies is better than another, and with both weights 0 each policy is plain PPO. With ``detach: none`` they are
computed anew for every minibatch.

Policies of one shape act and learn together (T of them, see :mod:`effcli.rl_distill.network_stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from effcli.core.runtime import Runtime
from effcli.rl_distill.decision_attention import Peers, decision_divergence, mean_decisions, ramp_up
from effcli.rl_distill.group import Policy, PolicyGroup, observations_of
from effcli.rl_distill.network_stack import NetworkStack
from effcli.rl_distill.networks import ActorCritic
from effcli.rl_distill.recipe import PpoRecipe, PpoSection

ADAM_EPS = 1e-5
_LOOKED_AT = 128


@dataclass(frozen=True)
class Rollout:
    """States of T policies and what was done in them.

    Attributes:
        observations: ``[T, N, ...]``.
        actions: int64 ``[T, N]``.
        logits: that they were drawn by, ``[T, N, A]``.
        log_probs: of them when they were chosen, ``[T, N]``.
        values: as the critic saw them then, ``[T, N]``.
        advantages: generalised advantage estimates, ``[T, N]``.
        targets: of the values, ``[T, N]``.
        valid: 1, or 0 where a copy was reset whatever the action, ``[T, N]``.
    """

    observations: Tensor
    actions: Tensor
    logits: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    targets: Tensor
    valid: Tensor

    def rows(self, chosen: Tensor) -> Rollout:
        """Some of them: of each policy the numbers ``[T, b]``."""
        policy = torch.arange(len(chosen), device=chosen.device)[:, None]
        return Rollout(*(getattr(self, field.name)[policy, chosen] for field in fields(self)))

    @cached_property
    def shares(self) -> Tensor:
        """What each valid state counts in a mean, ``[T, N]``."""
        return self.valid / self.valid.sum(-1, keepdim=True).clamp_min(1.0)

    def mean(self, values: Tensor) -> Tensor:
        """Of each policy over its valid states, ``[T]``."""
        return (values * self.shares).sum(-1)


def advantages_of(
    rewards: Tensor, values: Tensor, terminated: Tensor, done: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates of n steps, ``[n, ...]``.

    Args:
        rewards: ``[n, ...]``.
        values: of the states, and of those after the last step, ``[n + 1, ...]``; where an episode ends in step t, the
            state t + 1 is its last one.
        terminated: the episode ended by itself, so nothing follows, ``[n, ...]``.
        done: it ended in any way, so what follows belongs to another one, ``[n, ...]``.
        gamma: discount.
        gae_lambda: lambda.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + gamma * (1 - terminated[t]) * values[t + 1] - values[t]
        following = delta + gamma * gae_lambda * (1 - done[t]) * following
        advantages[t] = following
    return advantages


def drawn_actions(logits: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Actions with probabilities ``softmax(logits)``, ``[..., A]``, from numbers between 0 and 1, ``[...]``."""
    odds = np.exp(logits - logits.max(-1, keepdims=True)).cumsum(-1)
    drawn: np.ndarray = (odds[..., :-1] <= chance[..., None] * odds[..., -1:]).sum(-1)
    return drawn


def ppo_terms(logits: Tensor, values: Tensor, batch: Rollout, settings: PpoSection) -> dict[str, Tensor]:
    """The clipped objective, the value loss and the entropy bonus of a minibatch, weighted, ``[T]`` each."""
    log_p = logits.log_softmax(-1)
    ratio = (log_p.gather(-1, batch.actions[..., None])[..., 0] - batch.log_probs).exp()
    centred = batch.advantages - batch.mean(batch.advantages)[:, None]
    n = batch.valid.sum(-1)
    spread = (batch.mean(centred.square()) * n / (n - 1).clamp_min(1.0)).sqrt()
    advantages = centred / (spread[:, None] + 1e-8)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    error = (values - batch.targets).square()
    if settings.clip_values:
        near = batch.values + (values - batch.values).clamp(-settings.clip, settings.clip)
        error = torch.maximum(error, (near - batch.targets).square())
    terms = {
        "policy": -batch.mean(torch.minimum(ratio * advantages, clipped * advantages)),
        "value": settings.value_weight / 2 * batch.mean(error),
    }
    if settings.entropy_weight:
        terms["entropy"] = settings.entropy_weight * batch.mean((log_p.exp() * log_p).sum(-1))
    return terms


class PpoGroup(PolicyGroup):
    """Policies that learn side by side with PPO.

    Args:
        recipe: the settings.
        runtime: where.
        together: False computes one policy after another, the slow form.
    """

    kind = "ppo"

    def __init__(self, recipe: PpoRecipe, runtime: Runtime, *, together: bool = True) -> None:
        self.recipe = recipe
        policies = [Policy(number, recipe, runtime, ActorCritic) for number in range(len(recipe.policies))]
        adam = partial(torch.optim.Adam, lr=recipe.ppo.learning_rate, eps=ADAM_EPS, fused=True)
        super().__init__(recipe, runtime, policies, adam, together)

    @property
    def n_updates(self) -> int:
        """Of the whole training."""
        return -(-self.recipe.steps // (self.recipe.ppo.rollout * self.recipe.env.copies))

    @torch.no_grad()
    def collect(self, stack: NetworkStack) -> Rollout:
        """Act for a rollout."""
        settings, device = self.recipe.ppo, self.runtime.device
        policies = [self.policies[m] for m in stack.members]
        env, shape = policies[0].env, (settings.rollout, len(stack), self.recipe.env.copies)
        chances = torch.stack(
            [torch.rand(shape[0], shape[2], generator=one.generator) for one in policies], 1
        )
        seen = np.empty((*shape, *env.shape), policies[0].observations.dtype)
        rewards, terminated, done, valid = (np.empty(shape, np.float32) for _ in range(4))
        actions, logits, values = np.empty(shape, np.int64), [], []
        for t, chance in enumerate(chances.numpy()):
            for i, policy in enumerate(policies):
                seen[t, i] = policy.observations
            _, logit, value = stack(torch.from_numpy(seen[t]).to(device).float())
            logits.append(logit.cpu())
            values.append(value.cpu())
            actions[t] = drawn_actions(logits[-1].numpy(), chance)
            for i, policy in enumerate(policies):
                step, rewards[t, i] = policy.step(actions[t, i])
                terminated[t, i], valid[t, i] = step.terminated, step.valid
                done[t, i] = step.terminated | step.truncated
        values.append(stack(observations_of(policies, device))[2].cpu())
        all_values, chosen = torch.stack(values), torch.from_numpy(actions)
        all_logits = torch.stack(logits)
        log_p = all_logits.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
        reward, ended, over = (torch.from_numpy(one) for one in (rewards, terminated, done))
        advantages = advantages_of(reward, all_values, ended, over, settings.gamma, settings.gae_lambda)
        parts = (
            torch.from_numpy(seen),
            chosen,
            all_logits,
            log_p,
            all_values[:-1],
            advantages,
            advantages + all_values[:-1],
            torch.from_numpy(valid),
        )
        return Rollout(*(part.transpose(0, 1).flatten(1, 2).to(device) for part in parts))

    def update(self, update: int) -> dict[str, float]:
        """Collect, then learn; returns means of the terms over policies and minibatches."""
        settings, n = self.recipe.ppo, len(self.policies)
        rollouts = [self.collect(stack) for stack in self.stacks]
        views = self._views(rollouts) if n > 1 else []
        peers = self.peers(views) if self.caches_peers else None
        weight = ramp_up(update, self.n_updates, self.opd.ramp)
        sums: dict[str, Tensor] = {}
        self.set_rate(settings.learning_rate * (1 - update / self.n_updates))
        for _ in range(settings.epochs):
            orders = [self._orders(*pair) for pair in zip(self.stacks, rollouts, strict=True)]
            for part in range(settings.minibatches):
                batches, looked_at = self._minibatch(rollouts, peers, orders, part)
                terms = [
                    self.terms(*one, weight) for one in zip(self.stacks, batches, looked_at, strict=True)
                ]
                self.descend(terms, settings.grad_clip)
                for name in terms[0]:
                    now = torch.cat([one[name].detach() for one in terms]).sum().cpu()
                    sums[name] = sums.get(name, torch.zeros(())) + now
        n_terms = settings.epochs * settings.minibatches * n
        means = {name: float(value) / n_terms for name, value in sums.items()}
        return {**means, "disagreement": self.disagreement(views) if n > 1 else 0.0}

    def _views(self, rollouts: list[Rollout]) -> list[tuple[list[Tensor], list[Tensor]]]:
        """What everybody makes of all states; of some of them, where it is only to see how far policies are apart."""
        every = 1 if self.caches_peers else max(1, rollouts[0].actions.shape[1] // _LOOKED_AT)
        seen = [rollout.observations[:, ::every] for rollout in rollouts]
        return self.views(seen, [rollout.logits[:, ::every] for rollout in rollouts])

    def _orders(self, stack: NetworkStack, rollout: Rollout) -> tuple[Tensor, ...]:
        """Numbers of the states of each minibatch, ``[T, b]``; nothing where there is one, which is all of them."""
        if self.recipe.ppo.minibatches == 1:
            return ()
        n = rollout.actions.shape[1]
        orders = [torch.randperm(n, generator=self.policies[m].generator) for m in stack.members]
        return torch.stack(orders).to(self.runtime.device).tensor_split(self.recipe.ppo.minibatches, 1)

    def _minibatch(
        self,
        rollouts: list[Rollout],
        peers: list[Peers] | None,
        orders: list[tuple[Tensor, ...]],
        number: int,
    ) -> tuple[list[Rollout], Sequence[Peers | None]]:
        """Of each stack: states, and what peers make of them."""
        if any(orders):
            rows = [order[number] for order in orders]
            rollouts = [rollout.rows(chosen) for rollout, chosen in zip(rollouts, rows, strict=True)]
            if peers is not None:
                peers = [one.rows(chosen) for one, chosen in zip(peers, rows, strict=True)]
        if not self.distils:
            return rollouts, [None] * len(rollouts)
        return rollouts, peers or self.live_peers([batch.observations for batch in rollouts])

    def terms(
        self, stack: NetworkStack, batch: Rollout, peers: Peers | None, weight: float
    ) -> dict[str, Tensor]:
        """What the policies of a stack minimise on minibatches, ``[T]`` each.

        PPO's terms, and the distances from the targets that the peers make.
        """
        opd = self.opd
        features, logits, values = stack(batch.observations.float())
        terms = ppo_terms(logits, values, batch, self.recipe.ppo)
        if peers is None:
            return terms
        alpha = self.weights_of(stack, features, logits, peers)
        divergence = decision_divergence(logits, mean_decisions(alpha, peers.decisions, opd), opd.temperature)
        if opd.only_better:
            divergence = divergence * (batch.advantages < 0)
        target = self.attention.mean_features(alpha, peers, stack.members[0])
        terms["decision"] = weight * opd.decision_weight * batch.mean(divergence)
        terms["feature"] = weight * opd.feature_weight * batch.mean((features - target).square().mean(-1))
        return terms


create = PpoGroup
