"""PPO (Schulman et al. 2017) for a group: every policy collects its own rollouts, learns, and imitates its peers.

The peers' decisions on a policy's rollout are computed once, before any policy learns, and serve all epochs; so the
result does not depend on the order of the policies, and with both weights 0 each policy is plain PPO. With ``detach:
none`` they are computed in every minibatch. See docs/methods/opd-da.md, PPO integration.

Policies of one shape act and learn as one stack of T networks (:mod:`effcli.rl_distill.network.stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from effcli.core.runtime import Runtime
from effcli.rl_distill.decisions import draw, log_prob, noise_of
from effcli.rl_distill.environments.copies import CopyShare, Step
from effcli.rl_distill.group import Policy, PolicyGroup, observations_of, share_of_process
from effcli.rl_distill.losses import decision_divergence, feature_distance, ppo_terms
from effcli.rl_distill.network.encoders import count_in
from effcli.rl_distill.network.policies import ActorCritic
from effcli.rl_distill.network.stack import NetworkStack
from effcli.rl_distill.opd_da import Peers, mean_decisions, weight_at
from effcli.rl_distill.recipe import OpdDaRecipe, PpoRecipe
from effcli.rl_distill.rollout import Rollout, advantages_of

ADAM_EPS = 1e-5
_Rows = tuple[Tensor, Tensor | None]
"""Indices of states ``[T, b]``, and which of them count, 0 or 1; None: all."""
_COMPARED_STATES = 128
"""States of a rollout that the disagreement is measured on, where peers are not evaluated on all of them."""


class PpoGroup(PolicyGroup):
    """Policies that learn side by side with PPO.

    Args:
        recipe: the settings.
        runtime: device, precision and seed.
        together: False computes one policy after another: slower, for comparison.
    """

    kind = "ppo"

    def __init__(self, recipe: PpoRecipe | OpdDaRecipe, runtime: Runtime, *, together: bool = True) -> None:
        self.world = runtime.world
        recipe = self.recipe = share_of_process(recipe, runtime.world)
        policies = [Policy(number, recipe, runtime, ActorCritic) for number in range(len(recipe.policies))]
        adam = partial(torch.optim.Adam, lr=recipe.ppo.learning_rate, eps=ADAM_EPS, fused=True)
        super().__init__(recipe, runtime, policies, adam, together)

    @property
    def n_updates(self) -> int:
        """Of the whole training."""
        n_steps = self.recipe.ppo.rollout * self.recipe.env.copies * self.world
        return -(-self.recipe.train.env_steps // n_steps)

    @torch.no_grad()
    def collect(self, stack: NetworkStack) -> Rollout:
        """Act in all copies for one rollout."""
        settings, device = self.recipe.ppo, self.runtime.device
        policies = [self.policies[m] for m in stack.members]
        env, shape = policies[0].env, (settings.rollout, len(stack), self.recipe.env.copies)
        share = policies[0].share
        noises = [noise_of((shape[0], share.n_all), self.actions, one.generator) for one in policies]
        seen = np.empty((*shape, *env.shape), policies[0].observations.dtype)
        rewards, terminated, done, valid = (np.empty(shape, np.float32) for _ in range(4))
        taken, decided, values = [], [], []
        for t, numbers in enumerate(torch.stack([share.of(one) for one in noises], 1).numpy()):
            for i, policy in enumerate(policies):
                seen[t, i] = policy.observations
            _, decision, value = stack(torch.from_numpy(seen[t]).to(device).float())
            decided.append(decision.cpu())
            values.append(value.cpu())
            taken.append(draw(decided[-1].numpy(), numbers, self.actions))
            for i, policy in enumerate(policies):
                step, rewards[t, i] = policy.step(taken[-1][i])
                ended, valid[t, i] = step.terminated, step.valid
                if step.following is not None and step.truncated.any():
                    rewards[t, i] += settings.gamma * self._last_values(stack, i, step)
                    ended = step.done
                terminated[t, i], done[t, i] = ended, step.done
        values.append(stack(observations_of(policies, device))[2].cpu())
        all_values, all_actions = torch.stack(values), torch.from_numpy(np.stack(taken))
        all_decisions = torch.stack(decided)
        given, *ends = (torch.from_numpy(one) for one in (rewards, terminated, done))
        advantages = advantages_of(given, all_values, ends[0], ends[1], settings.gamma, settings.gae_lambda)
        parts = (
            torch.from_numpy(seen),
            all_actions,
            all_decisions,
            log_prob(all_decisions, all_actions, self.actions),
            all_values[:-1],
            advantages,
            advantages + all_values[:-1],
            torch.from_numpy(valid),
        )
        flat = (part.transpose(0, 1).flatten(1, 2).to(device) for part in parts)
        return Rollout(*flat, total=self.runtime.sum_over_ranks)

    def _last_values(self, stack: NetworkStack, i: int, step: Step) -> np.ndarray:
        """The critic's values of the last states of episodes that were cut off, else 0, ``[E]``.

        The next row shows another episode there, whose value is not theirs; with this the reward is worth the rest.
        """
        last = torch.from_numpy(step.observations).to(self.runtime.device).float()
        values = stack(last.expand(len(stack), *last.shape))[2][i].cpu().numpy()
        return np.where(step.truncated & ~step.terminated, values, np.float32(0))

    def update(self, update: int) -> dict[str, float]:
        """Collect, then learn; returns means of the terms over policies and minibatches."""
        settings, n = self.recipe.ppo, len(self.policies)
        rollouts = self.in_all_processes(lambda: [self.collect(stack) for stack in self.stacks])
        views = self._views(rollouts) if n > 1 or self.distils else []
        peers = self.peers(views) if self.caches_peers else None
        weight = weight_at(update, self.n_updates, self.opd)
        sums: dict[str, Tensor] = {}
        self.set_rate(settings.learning_rate * (1 - update / self.n_updates))
        for _ in range(settings.epochs):
            orders = [self._orders(*pair) for pair in zip(self.stacks, rollouts, strict=True)]
            for part in range(settings.minibatches):
                batches, of_peers = self._minibatch(rollouts, peers, orders, part)
                terms = [self.terms(*one, weight) for one in zip(self.stacks, batches, of_peers, strict=True)]
                self.descend(terms, settings.grad_clip)
                for name in terms[0]:
                    now = torch.cat([one[name].detach() for one in terms]).sum().cpu()
                    sums[name] = sums.get(name, torch.zeros(())) + now
        for rollout, stack in zip(rollouts, self.stacks, strict=True):
            for network, seen, valid in zip(stack.networks, rollout.observations, rollout.valid, strict=True):
                count_in(network, seen[valid > 0])
        n_terms = settings.epochs * settings.minibatches * n
        means = {name: float(value) * self.world / n_terms for name, value in sums.items()}
        means["disagreement"] = self.disagreement(views) if n > 1 else 0.0
        return self.runtime.mean_over_ranks(means)

    def _views(self, rollouts: list[Rollout]) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Features and decisions of all policies on all states, or on some where only the disagreement needs them."""
        every = 1 if self.caches_peers else max(1, rollouts[0].actions.shape[1] // _COMPARED_STATES)
        seen = [rollout.observations[:, ::every] for rollout in rollouts]
        return self.views(seen, [rollout.decisions[:, ::every] for rollout in rollouts])

    def _orders(self, stack: NetworkStack, rollout: Rollout) -> list[_Rows]:
        """The states of each minibatch; empty where there is one minibatch with all states."""
        if self.recipe.ppo.minibatches == 1:
            return []
        n = rollout.actions.shape[1] * self.world
        orders = [torch.randperm(n, generator=self.policies[m].generator) for m in stack.members]
        parts = torch.stack(orders).to(self.runtime.device).tensor_split(self.recipe.ppo.minibatches, 1)
        if self.world == 1:
            return [(part, None) for part in parts]
        return [own_rows(part, self.policies[0].share) for part in parts]

    def _minibatch(
        self,
        rollouts: list[Rollout],
        peers: list[Peers] | None,
        orders: list[list[_Rows]],
        number: int,
    ) -> tuple[list[Rollout], Sequence[Peers | None]]:
        """Minibatch ``number`` of each stack: its states, and the peers' features and decisions on them."""
        if any(orders):
            rows = [order[number] for order in orders]
            rollouts = [rollout.rows(*one) for rollout, one in zip(rollouts, rows, strict=True)]
            if peers is not None:
                peers = [one.rows(indices) for one, (indices, _) in zip(peers, rows, strict=True)]
        if not self.distils:
            return rollouts, [None] * len(rollouts)
        return rollouts, peers or self.live_peers([batch.observations for batch in rollouts])

    def terms(
        self, stack: NetworkStack, batch: Rollout, peers: Peers | None, weight: float
    ) -> dict[str, Tensor]:
        """The terms of the loss of a stack's policies on minibatches, ``[T]`` each (docs/methods/opd-da.md, Objective).

        Args:
            stack: T networks.
            batch: states of each.
            peers: features and decisions of the peers on these; None without distillation.
            weight: the ramp w(t), 0..1.
        """
        opd = self.opd
        features, decisions, values = stack(batch.observations.float())
        terms = ppo_terms(decisions, values, batch, self.recipe.ppo, self.actions)
        if peers is None:
            return terms
        alpha = self.weights_of(stack, features, decisions, peers)
        z_hat = mean_decisions(alpha, peers.decisions, opd, self.actions)
        divergence = decision_divergence(decisions, z_hat, opd.temperature, self.actions)
        if opd.only_better:
            divergence = divergence * (batch.advantages < 0)
        terms["decision"] = weight * opd.decision_weight * batch.part(divergence)
        if opd.feature_weight:
            target = self.attention.mean_features(alpha, peers, stack.members[0])
            terms["feature"] = weight * opd.feature_weight * batch.part(feature_distance(features, target))
        return terms


def own_rows(indices: Tensor, share: CopyShare) -> _Rows:
    """Of states ``[T, b]`` of all processes those of this one, by their indices here, and which of them count.

    Policies can have different numbers of them; the others are filled up with states that do not count, and there is
    at least one.
    """
    copy = indices % share.n_all - share.first
    is_own = (copy >= 0) & (copy < share.n_own)
    here = indices // share.n_all * share.n_own + copy.clamp(0, share.n_own - 1)
    n = max(1, int(is_own.sum(-1).max()))
    first = (~is_own).to(torch.int8).argsort(dim=-1, stable=True)[:, :n]
    return here.gather(-1, first), is_own.gather(-1, first).float()


create = PpoGroup
