"""DQN (Mnih et al. 2015) for a group: every policy has its own replay memory, and imitates its peers' Q-values.

See docs/methods/opd-da.md, DQN integration.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.core.runtime import Runtime
from effcli.rl_distill.group import Policy, PolicyGroup, observations_of, share_of_process
from effcli.rl_distill.losses import mean_over, q_distance, td_error
from effcli.rl_distill.network.encoders import count_in, share_statistics
from effcli.rl_distill.network.policies import QNetwork
from effcli.rl_distill.network.stack import NetworkStack, stacks_of
from effcli.rl_distill.opd_da import Peers, centred, mean_decisions, weight_at
from effcli.rl_distill.recipe import DqnRecipe, OpdDaDqnRecipe
from effcli.rl_distill.replay import Replay

_COMPARE_EVERY = 200
"""Gradient steps between two measurements of the disagreement."""


class DqnPolicy(Policy):
    """A member of the group with a replay memory.

    Args:
        number: its index in the group, from 0.
        recipe: the settings.
        runtime: device, precision and seed.
    """

    def __init__(self, number: int, recipe: DqnRecipe | OpdDaDqnRecipe, runtime: Runtime) -> None:
        self.recipe = recipe
        super().__init__(number, recipe, runtime, QNetwork)

    def reset(self, update: int) -> None:
        """Start new episodes."""
        super().reset(update)
        if not hasattr(self, "replay"):
            env, size = self.env, -(-self.recipe.dqn.replay // self.share.n_all) * self.share.n_own
            self.replay = Replay(size, len(env), env.shape, env.dtype, stacked=env.observed.stacked)
        self.replay.begin(self.observations)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the network, and the environments, which start new episodes."""
        return {**super().state_dict(), "replay": self.replay.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.replay.load_state_dict(state["replay"])
        self.replay.continue_from(self.observations)


class DqnGroup(PolicyGroup):
    """Policies that learn side by side; an update is ``train_every`` steps and a gradient step of each.

    Args:
        recipe: the settings.
        runtime: device, precision and seed.
        together: False computes one policy after another: slower, for comparison.

    Attributes:
        targets: the target networks of each stack.
    """

    kind = "dqn"

    def __init__(
        self, recipe: DqnRecipe | OpdDaDqnRecipe, runtime: Runtime, *, together: bool = True
    ) -> None:
        self.n_copies = recipe.env.copies
        recipe = self.recipe = share_of_process(recipe, runtime.world)
        policies = [DqnPolicy(number, recipe, runtime) for number in range(len(recipe.policies))]
        self.members = policies
        adam = partial(torch.optim.Adam, lr=recipe.dqn.learning_rate, fused=True)
        super().__init__(recipe, runtime, policies, adam, together)
        targets = [deepcopy(policy.network) for policy in policies]
        for policy, target in zip(policies, targets, strict=True):
            share_statistics(policy.network, target)
        self.targets = stacks_of(targets, runtime, together=together)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of each policy, at least one of each copy."""
        return self.n_copies * max(1, self.recipe.dqn.train_every // self.n_copies)

    @property
    def n_updates(self) -> int:
        """Updates of the whole training."""
        return -(-self.recipe.train.env_steps // self.steps_per_update)

    def epsilon(self, step: int) -> float:
        """The share of random actions at an environment step, 0..1."""
        settings = self.recipe.dqn
        progress = min(1.0, step / (settings.exploration * self.recipe.train.env_steps))
        return settings.first_epsilon + progress * (settings.last_epsilon - settings.first_epsilon)

    def update(self, update: int) -> dict[str, float]:
        """Act, then learn; returns means of the terms over policies."""
        settings = self.recipe.dqn
        first, end = update * self.steps_per_update, (update + 1) * self.steps_per_update
        self.in_all_processes(lambda: self._act_in(range(first, end, self.n_copies)))
        values: dict[str, float] = {"epsilon": self.epsilon(first)}
        if end >= settings.learning_starts:
            values |= self._learn(update, end)
        if end // settings.target_every > first // settings.target_every:
            for stack, target in zip(self.stacks, self.targets, strict=True):
                target.copy_weights(stack.weights)
        return values

    def _act_in(self, steps: range) -> None:
        for step in steps:
            for stack in self.stacks:
                self.act(stack, self.epsilon(step))

    @torch.no_grad()
    def act(self, stack: NetworkStack, epsilon: float) -> None:
        """One step of all copies: a random action with probability epsilon, else the one of the highest value."""
        policies = [self.members[m] for m in stack.members]
        drawn = [torch.rand(2, self.n_copies, generator=policy.generator) for policy in policies]
        uniform = torch.stack([policies[0].share.of(one) for one in drawn], 1)
        actions = self._random(policies, uniform[1])
        greedy = uniform[0] >= epsilon
        if bool(greedy.any()):
            q = stack(observations_of(policies, self.runtime.device))[1]
            actions = torch.where(greedy, q.argmax(-1).cpu(), actions)
        for policy, own_actions in zip(policies, actions.numpy(), strict=True):
            count_in(policy.network, torch.from_numpy(policy.observations).to(self.runtime.device))
            step, rewards = policy.step(own_actions)
            policy.replay.add(own_actions, rewards, step)

    def _random(self, policies: Sequence[DqnPolicy], uniform: Tensor) -> Tensor:
        """Random actions ``[T, E]``, all that are allowed being equally likely."""
        env = policies[0].env
        if env.observed.mask is None:
            return (uniform * env.n_actions).long()
        allowed = torch.from_numpy(
            np.stack([one.observations[:, env.observed.mask] != 0 for one in policies])
        )
        counts = allowed.cumsum(-1)
        return (counts <= (uniform[..., None] * counts[..., -1:]).long()).sum(-1)

    def _learn(self, update: int, step: int) -> dict[str, float]:
        settings, n = self.recipe.dqn, len(self.policies)
        if settings.anneal:
            self.set_rate(settings.learning_rate * (1 - update / self.n_updates))
        batches, weights = zip(*(self._sampled(stack) for stack in self.stacks), strict=True)
        compares = update % _COMPARE_EVERY == 0 and n > 1
        seen = [batch[0] for batch in batches]
        views = self.views(seen) if self.caches_peers or compares else []
        peers: Sequence[Peers | None] = [None] * len(seen)
        if self.distils:
            peers = self.peers(views) if self.caches_peers else self.live_peers(seen)
        weight, world = weight_at(step, self.recipe.train.env_steps, self.opd), self.runtime.world
        parts = enumerate(zip(batches, peers, weights, strict=True))
        terms = [self.terms(i, batch, of, weight, shares) for i, (batch, of, shares) in parts]
        self.descend(terms, settings.grad_clip)
        sums = {
            name: float(torch.cat([one[name].detach() for one in terms]).sum()) * world / n
            for name in terms[0]
        }
        if compares:
            sums["disagreement"] = self.disagreement(views)
        return self.runtime.mean_over_ranks(sums)

    def _sampled(self, stack: NetworkStack) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """A batch from the replay memory of each policy, ``[T, B, ...]``; of several processes each has a part of it.

        Then with the weight of each transition in the mean over the whole batch, ``[T, B]``, which is 0 of what fills
        up the parts of those policies that have fewer.
        """
        size, device = self.recipe.dqn.batch_size, self.runtime.device
        policies = [self.members[m] for m in stack.members]
        places = [policy.replay.places(size, policy.generator, policy.share) for policy in policies]
        counts = [len(rows) for rows, _ in places]
        n = max(1, *counts)
        batches = [
            policy.replay.read(np.resize(rows, n), np.resize(copies, n), device)
            for policy, (rows, copies) in zip(policies, places, strict=True)
        ]
        batch = tuple(torch.stack(part) for part in zip(*batches, strict=True))
        if self.runtime.world == 1:
            return batch, None
        counted = torch.arange(n) < torch.tensor(counts)[:, None]
        return batch, (counted / size).to(device)

    def terms(
        self,
        i: int,
        batch: tuple[Tensor, ...],
        peers: Peers | None,
        weight: float,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms of the loss of the policies of stack i, ``[T]`` each (docs/methods/opd-da.md, Objective).

        The TD target is r + gamma (1 - terminated) max_a Q'(s', a): a truncated episode continues.

        Args:
            i: index of the stack.
            batch: observations, actions, rewards, next observations and terminated, ``[T, B, ...]`` each.
            peers: features and decisions of the peers; None without distillation.
            weight: the ramp w(t), 0..1.
            weights: of the transitions in a part of a batch, ``[T, B]``; None of a whole one.
        """
        stack, opd = self.stacks[i], self.opd
        observations, actions, rewards, following, terminated = batch
        with torch.no_grad():
            best = self.targets[i](following.float())[1].amax(-1)
            targets = rewards + self.recipe.dqn.gamma * (1 - terminated) * best
        features, q = stack(observations.float())
        terms = {"td": mean_over(td_error(q, actions, targets), weights)}
        if peers is None:
            return terms
        alpha = self.weights_of(stack, features, q, peers)
        q_hat = mean_decisions(alpha, centred(peers.decisions, opd), opd)
        apart = q_distance(centred(q, opd), q_hat, opd)
        terms["decision"] = weight * opd.decision_weight * mean_over(apart, weights)
        if opd.feature_weight:
            target = self.attention.mean_features(alpha, peers, stack.members[0])
            terms["feature"] = weight * opd.feature_weight * mean_over((features - target).square(), weights)
        return terms

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""
        return {
            **super().state_dict(),
            "targets": [target.weights.detach().clone() for target in self.targets],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        for target, weights in zip(self.targets, state["targets"], strict=True):
            target.copy_weights(weights)


create = DqnGroup
