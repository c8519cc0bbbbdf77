"""PPO (Schulman et al. 2017) for a group: every policy collects and learns by itself, and imitates its peers.

The peers' decisions on a policy's rollout are computed once, before anybody learns, and serve all epochs; so no order
of the policies is better than another, and with both weights 0 each policy is plain PPO.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effcli.core.runtime import Runtime, derive_seed
from effcli.nn.schedules import set_rate
from effcli.rl_distill.decision_attention import (
    DecisionAttention,
    Peers,
    decision_divergence,
    disagreement,
    mean_decisions,
    ramp_up,
)
from effcli.rl_distill.group import Policy, distils, noted, peers_from, recent_returns
from effcli.rl_distill.networks import ActorCritic
from effcli.rl_distill.recipe import PpoRecipe, PpoSection

ADAM_EPS = 1e-5


@dataclass(frozen=True)
class Rollout:
    """States and what was done in them; steps in which a copy was reset are left out.

    Attributes:
        observations: ``[N, ...]``.
        actions: int64 ``[N]``.
        log_probs: of them when they were chosen, ``[N]``.
        values: as the critic saw them then, ``[N]``.
        advantages: generalised advantage estimates, ``[N]``.
        targets: of the values, ``[N]``.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    targets: Tensor

    def rows(self, chosen: Tensor) -> Rollout:
        """Some of them."""
        return Rollout(*(getattr(self, field.name)[chosen] for field in fields(self)))


def advantages_of(
    rewards: Tensor, values: Tensor, terminated: Tensor, done: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates, ``[T, E]``.

    Args:
        rewards: ``[T, E]``.
        values: of the states, and of those after the last step, ``[T + 1, E]``; where an episode ends in step t, the
            state t + 1 is its last one.
        terminated: the episode ended by itself, so nothing follows, ``[T, E]``.
        done: it ended in any way, so what follows belongs to another one, ``[T, E]``.
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


class PpoPolicy(Policy):
    """A member that collects rollouts.

    Args:
        number: in the group.
        recipe: the settings.
        runtime: where.
    """

    def __init__(self, number: int, recipe: PpoRecipe, runtime: Runtime) -> None:
        self.recipe = recipe
        adam = partial(torch.optim.Adam, lr=recipe.ppo.learning_rate, eps=ADAM_EPS, fused=True)
        super().__init__(number, recipe, runtime, ActorCritic, adam)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Act for a rollout."""
        settings, n = self.recipe.ppo, self.recipe.ppo.rollout
        seen, actions, log_probs, values, rewards, terminated, done, valid = ([] for _ in range(8))
        for _ in range(n):
            x = self.as_input(self.observations)
            _, logits, value = self.network(x)
            log_p = logits.float().log_softmax(-1)
            action = torch.multinomial(log_p.exp().cpu(), 1, generator=self.generator)
            step = self.env.step(action[:, 0].numpy())
            self.returns.add(step)
            seen.append(torch.as_tensor(self.observations))
            actions.append(action[:, 0])
            log_probs.append(log_p.cpu().gather(1, action)[:, 0])
            values.append(value.float().cpu())
            reward = np.sign(step.rewards) if self.recipe.env.clip_rewards else step.rewards
            rewards.append(torch.from_numpy(reward))
            terminated.append(torch.from_numpy(step.terminated).float())
            done.append(torch.from_numpy(step.terminated | step.truncated).float())
            valid.append(torch.from_numpy(step.valid))
            self.observations = step.observations
        _, _, last = self.network(self.as_input(self.observations))
        all_values = torch.stack([*values, last.float().cpu()])
        advantages = advantages_of(
            torch.stack(rewards),
            all_values,
            torch.stack(terminated),
            torch.stack(done),
            settings.gamma,
            settings.gae_lambda,
        )
        kept = torch.stack(valid).flatten()
        parts = (
            torch.stack(seen),
            torch.stack(actions),
            torch.stack(log_probs),
            all_values[:-1],
            advantages,
            advantages + all_values[:-1],
        )
        return Rollout(*(part.flatten(0, 1)[kept].to(self.runtime.device) for part in parts))


def ppo_terms(logits: Tensor, values: Tensor, batch: Rollout, settings: PpoSection) -> dict[str, Tensor]:
    """The clipped objective, the value loss and the entropy bonus of a minibatch, weighted."""
    log_p = logits.float().log_softmax(-1)
    ratio = (log_p.gather(1, batch.actions[:, None])[:, 0] - batch.log_probs).exp()
    spread = batch.advantages.std() if len(batch.advantages) > 1 else batch.advantages.new_zeros(())
    advantages = (batch.advantages - batch.advantages.mean()) / (spread + 1e-8)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    policy = -torch.minimum(ratio * advantages, clipped * advantages).mean()
    error = (values.float() - batch.targets).square()
    if settings.clip_values:
        near = batch.values + (values.float() - batch.values).clamp(-settings.clip, settings.clip)
        error = torch.maximum(error, (near - batch.targets).square())
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    return {
        "policy": policy,
        "value": settings.value_weight * error.mean() / 2,
        "entropy": -settings.entropy_weight * entropy,
    }


class PpoGroup:
    """Policies that learn side by side.

    Args:
        recipe: the settings.
        runtime: where.
    """

    kind = "ppo"

    def __init__(self, recipe: PpoRecipe, runtime: Runtime) -> None:
        self.recipe, self.runtime = recipe, runtime
        self.policies = [PpoPolicy(number, recipe, runtime) for number in range(len(recipe.policies))]
        torch.manual_seed(derive_seed(runtime.seed, "attention"))
        widths = [policy.network.n_features for policy in self.policies]
        attention = DecisionAttention(widths, self.policies[0].env.n_actions, recipe.opd)
        self.attention = attention.to(runtime.device)
        self.attention_optimizer = torch.optim.Adam(
            self.attention.parameters(), recipe.ppo.learning_rate, eps=ADAM_EPS, fused=True
        )
        self.attention_means: Tensor | None = None

    @property
    def n_updates(self) -> int:
        """Of the whole training."""
        return -(-self.recipe.steps // (self.recipe.ppo.rollout * self.recipe.env.copies))

    def restart(self, update: int) -> None:
        """Begin new episodes, after an interruption."""
        for policy in self.policies:
            policy.reset(update)

    def update(self, update: int) -> dict[str, float]:
        """Collect, then learn; returns means of the terms over policies and minibatches."""
        settings = self.recipe.ppo
        rate = settings.learning_rate * (1 - update / self.n_updates)
        rollouts = [policy.collect() for policy in self.policies]
        seen = [self._look(rollout) for rollout in rollouts]
        opd = self.recipe.opd
        returns = recent_returns(self.policies, self.recipe.eval.window)
        peers = (
            [peers_from(m, *one, returns, opd) for m, one in enumerate(seen)]
            if distils(opd, len(self.policies))
            else None
        )
        apart = float(np.mean([disagreement(one[1], self.kind) for one in seen]))
        weight = ramp_up(update, self.n_updates, opd.ramp)
        sums: dict[str, float] = {}
        n = settings.epochs * settings.minibatches * len(self.policies)
        for optimizer in (*(policy.optimizer for policy in self.policies), self.attention_optimizer):
            set_rate(optimizer, rate)
        for _ in range(settings.epochs):
            orders = [
                torch.randperm(len(rollout.actions), generator=policy.generator).tensor_split(
                    settings.minibatches
                )
                for policy, rollout in zip(self.policies, rollouts, strict=True)
            ]
            for part in range(settings.minibatches):
                self.attention_optimizer.zero_grad(set_to_none=True)
                for m, policy in enumerate(self.policies):
                    rows = orders[m][part].to(self.runtime.device)
                    batch = rollouts[m].rows(rows)
                    terms = self.terms(m, batch, None if peers is None else peers[m].rows(rows), weight)
                    self._step(policy, terms)
                    for name, value in terms.items():
                        sums[name] = sums.get(name, 0.0) + float(value.detach()) / n
                if peers is not None and opd.targets == "attention":
                    self.attention_optimizer.step()
        return {**sums, "disagreement": apart}

    def terms(self, m: int, batch: Rollout, peers: Peers | None, weight: float) -> dict[str, Tensor]:
        """What policy m minimises on a minibatch: PPO's terms, and the distances from its peers' targets."""
        opd = self.recipe.opd
        features, logits, values = self.policies[m].network(batch.observations.float())
        terms = ppo_terms(logits, values, batch, self.recipe.ppo)
        if peers is None:
            return terms
        alpha = self.attention.weights(features, logits, peers)
        self.attention_means = noted(self.attention_means, m, alpha, peers, len(self.policies))
        divergence = decision_divergence(logits, mean_decisions(alpha, peers.decisions, opd), opd.temperature)
        if opd.only_better:
            divergence = divergence * (batch.advantages < 0)
        target = self.attention.mean_features(alpha, peers, m)
        terms["decision"] = weight * opd.decision_weight * divergence.mean()
        terms["feature"] = weight * opd.feature_weight * F.mse_loss(features, target)
        return terms

    def _step(self, policy: PpoPolicy, terms: dict[str, Tensor]) -> None:
        policy.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(policy.network.parameters(), self.recipe.ppo.grad_clip)
        policy.optimizer.step()

    @torch.no_grad()
    def _look(self, rollout: Rollout) -> tuple[list[Tensor], list[Tensor]]:
        """Features and logits of all policies on the states of one."""
        if len(self.policies) == 1:
            return [], []
        seen = [policy.network(rollout.observations.float())[:2] for policy in self.policies]
        return [features for features, _ in seen], [logits for _, logits in seen]

    def state_dict(self) -> dict[str, Any]:
        """All that the training changes."""
        return {
            "policies": [policy.state_dict() for policy in self.policies],
            "attention": self.attention.state_dict(),
            "attention_optimizer": self.attention_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for policy, own in zip(self.policies, state["policies"], strict=True):
            policy.load_state_dict(own)
        self.attention.load_state_dict(state["attention"])
        self.attention_optimizer.load_state_dict(state["attention_optimizer"])


create = PpoGroup
