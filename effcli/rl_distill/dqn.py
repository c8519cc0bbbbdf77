"""DQN (Mnih et al. 2015) for a group: every policy has its own replay memory, and its Q-values stay near its peers'."""

from __future__ import annotations

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
    centred,
    disagreement,
    mean_decisions,
    q_distance,
    ramp_up,
)
from effcli.rl_distill.group import Policy, distils, noted, peers_from, recent_returns
from effcli.rl_distill.networks import QNetwork
from effcli.rl_distill.recipe import DqnRecipe
from effcli.rl_distill.replay import Replay

_LOOK_EVERY = 200  # gradient steps between two looks at the disagreement


class DqnPolicy(Policy):
    """A member with a target network and a replay memory.

    Args:
        number: in the group.
        recipe: the settings.
        runtime: where.
    """

    def __init__(self, number: int, recipe: DqnRecipe, runtime: Runtime) -> None:
        self.recipe = recipe
        adam = partial(torch.optim.Adam, lr=recipe.dqn.learning_rate, fused=True)
        super().__init__(number, recipe, runtime, QNetwork, adam)
        copy = QNetwork(self.env.shape, self.env.n_actions, recipe.policies[number])
        self.target = copy.to(runtime.device).requires_grad_(False)
        self.target.load_state_dict(self.network.state_dict())

    def reset(self, update: int) -> None:
        """Begin new episodes."""
        super().reset(update)
        if not hasattr(self, "replay"):
            size = self.recipe.dqn.replay
            self.replay = Replay(size, len(self.env), self.env.shape, self.env.dtype)
        self.replay.begin(self.observations)

    @torch.no_grad()
    def act(self, epsilon: float) -> None:
        """One step of all copies: at random with chance epsilon, else the action of the highest value."""
        n = len(self.env)
        actions = torch.randint(self.env.n_actions, (n,), generator=self.generator)
        greedy = torch.rand(n, generator=self.generator) >= epsilon
        if bool(greedy.any()):
            best = self.network(self.as_input(self.observations))[1].argmax(-1).cpu()
            actions = torch.where(greedy, best, actions)
        step = self.env.step(actions.numpy())
        self.returns.add(step)
        rewards = np.sign(step.rewards) if self.recipe.env.clip_rewards else step.rewards
        self.replay.add(actions.numpy(), rewards, step)
        self.observations = step.observations

    def state_dict(self) -> dict[str, Any]:
        """All but the environments."""
        return {
            **super().state_dict(),
            "target": self.target.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
        self.replay.load_state_dict(state["replay"])


class DqnGroup:
    """Policies that learn side by side; an update is ``train_every`` steps and a gradient step of each.

    Args:
        recipe: the settings.
        runtime: where.
    """

    kind = "dqn"

    def __init__(self, recipe: DqnRecipe, runtime: Runtime) -> None:
        self.recipe, self.runtime = recipe, runtime
        self.policies = [DqnPolicy(number, recipe, runtime) for number in range(len(recipe.policies))]
        torch.manual_seed(derive_seed(runtime.seed, "attention"))
        widths = [policy.network.n_features for policy in self.policies]
        attention = DecisionAttention(widths, self.policies[0].env.n_actions, recipe.opd)
        self.attention = attention.to(runtime.device)
        self.attention_optimizer = torch.optim.Adam(
            self.attention.parameters(), recipe.dqn.learning_rate, fused=True
        )
        self.attention_means: Tensor | None = None

    @property
    def steps_per_update(self) -> int:
        """Environment steps of each policy, at least one of each copy."""
        return self.recipe.env.copies * max(1, self.recipe.dqn.train_every // self.recipe.env.copies)

    @property
    def n_updates(self) -> int:
        """Of the whole training."""
        return -(-self.recipe.steps // self.steps_per_update)

    def restart(self, update: int) -> None:
        """Begin new episodes, after an interruption."""
        for policy in self.policies:
            policy.reset(update)

    def epsilon(self, step: int) -> float:
        """The share of random actions at an environment step."""
        settings = self.recipe.dqn
        progress = min(1.0, step / (settings.exploration * self.recipe.steps))
        return settings.first_epsilon + progress * (settings.last_epsilon - settings.first_epsilon)

    def update(self, update: int) -> dict[str, float]:
        """Act, then learn; returns means of the terms over policies."""
        settings = self.recipe.dqn
        first, end = update * self.steps_per_update, (update + 1) * self.steps_per_update
        for policy in self.policies:
            for step in range(first, end, self.recipe.env.copies):
                policy.act(self.epsilon(step))
        values: dict[str, float] = {"epsilon": self.epsilon(first)}
        if end >= settings.learning_starts:
            values |= self._learn(update, end)
        if end // settings.target_every > first // settings.target_every:
            for policy in self.policies:
                policy.target.load_state_dict(policy.network.state_dict())
        return values

    def _learn(self, update: int, step: int) -> dict[str, float]:
        settings, opd = self.recipe.dqn, self.recipe.opd
        if settings.anneal:
            for optimizer in (self.attention_optimizer, *(policy.optimizer for policy in self.policies)):
                set_rate(optimizer, settings.learning_rate * (1 - update / self.n_updates))
        batches = [
            policy.replay.draw(settings.batch_size, policy.generator, self.runtime.device)
            for policy in self.policies
        ]
        is_look = update % _LOOK_EVERY == 0 and len(self.policies) > 1
        together = distils(opd, len(self.policies))
        seen = [self._look(batch[0]) for batch in batches] if together or is_look else []
        returns = recent_returns(self.policies, self.recipe.eval.window)
        weight = ramp_up(step, self.recipe.steps, opd.ramp)
        sums: dict[str, float] = {}
        self.attention_optimizer.zero_grad(set_to_none=True)
        for m, policy in enumerate(self.policies):
            peers = peers_from(m, *seen[m], returns, opd) if together else None
            terms = self.terms(m, batches[m], peers, weight)
            policy.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            if settings.grad_clip is not None:
                nn.utils.clip_grad_norm_(policy.network.parameters(), settings.grad_clip)
            policy.optimizer.step()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(self.policies)
        if together and opd.targets == "attention":
            self.attention_optimizer.step()
        if is_look:
            sums["disagreement"] = float(np.mean([disagreement(one[1], self.kind) for one in seen]))
        return sums

    def terms(
        self, m: int, batch: tuple[Tensor, ...], peers: Peers | None, weight: float
    ) -> dict[str, Tensor]:
        """What policy m minimises: the squared TD error, and the distances from its peers' targets.

        The target is r + gamma (1 - terminated) max_a Q'(s', a): an episode that was cut off goes on.
        """
        policy, opd = self.policies[m], self.recipe.opd
        observations, actions, rewards, following, terminated = batch
        with torch.no_grad():
            best = policy.target(following.float())[1].amax(-1)
            wanted = rewards + self.recipe.dqn.gamma * (1 - terminated) * best
        features, q = policy.network(observations.float())
        terms = {"td": F.mse_loss(q.gather(1, actions[:, None])[:, 0], wanted)}
        if peers is None:
            return terms
        alpha = self.attention.weights(features, q, peers)
        self.attention_means = noted(self.attention_means, m, alpha, peers, len(self.policies))
        q_hat = mean_decisions(alpha, centred(peers.decisions, opd), opd)
        terms["decision"] = weight * opd.decision_weight * q_distance(centred(q, opd), q_hat, opd).mean()
        target = self.attention.mean_features(alpha, peers, m)
        terms["feature"] = weight * opd.feature_weight * F.mse_loss(features, target)
        return terms

    @torch.no_grad()
    def _look(self, observations: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features and Q-values of all policies on the states of one."""
        seen = [policy.network(observations.float()) for policy in self.policies]
        return [features for features, _ in seen], [q for _, q in seen]

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


create = DqnGroup
