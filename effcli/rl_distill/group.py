"""A group of policies and how they learn from each other; what PPO and DQN have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import UsageError
from effcli.core.runtime import Runtime, derive_seed
from effcli.nn.schedules import set_rate
from effcli.rl_distill.environments.copies import CopyShare, EnvironmentFailure, Environments, Step
from effcli.rl_distill.environments.making import environments_of
from effcli.rl_distill.environments.reward_scale import RewardScale
from effcli.rl_distill.network.policies import ActorCritic, QNetwork
from effcli.rl_distill.network.stack import NetworkStack, stacks_of
from effcli.rl_distill.opd_da import DecisionAttention, Peers, disagreement
from effcli.rl_distill.recipe import OpdSection, RlDistillRecipe
from effcli.rl_distill.returns import Returns
from effcli.rl_distill.teachers.teacher import Teacher, load_teachers

_Recipe = TypeVar("_Recipe", bound=RlDistillRecipe)
_T = TypeVar("_T")


def share_of_process(recipe: _Recipe, world: int) -> _Recipe:
    """The recipe with the environments of one of several processes.

    Raises:
        UsageError: they cannot be shared out evenly, or statistics would have to be.
    """
    if world == 1:
        return recipe
    if recipe.env.copies % world:
        raise UsageError(
            f"{recipe.env.copies} environments cannot be divided evenly among {world} processes",
            place="env.copies",
            hint=f"choose a multiple of {world}",
        )
    if recipe.env.normalise_observations or recipe.env.normalise_rewards:
        raise UsageError(
            "statistics for normalisation cannot be shared by several processes", hint="train in one process"
        )
    env = recipe.env.model_copy(update={"copies": recipe.env.copies // world})
    return recipe.model_copy(update={"env": env})


class Policy:
    """One member of a group: its network, environments and RNG, which is the same in all processes.

    Args:
        number: its index in the group, from 0.
        recipe: the settings, with the environments of this process.
        runtime: device, precision and seed.
        network: makes the network from what is observed, the actions and a size.

    Attributes:
        share: which of the environments of all processes it has.
        continues: its episodes go on where a checkpoint left them.
    """

    def __init__(
        self,
        number: int,
        recipe: RlDistillRecipe,
        runtime: Runtime,
        network: type[ActorCritic] | type[QNetwork],
    ) -> None:
        seed = derive_seed(runtime.seed, "policy", number)
        self.number, self.runtime = number, runtime
        self.env: Environments = environments_of(recipe)
        torch.manual_seed(seed)
        normalises = recipe.env.normalise_observations
        size = recipe.policies[number]
        made = network(self.env.observed, self.env.actions, size, normalises=normalises)
        self.network = made.to(runtime.device)
        self._clips = recipe.env.clip_rewards
        self.returns = Returns(recipe.env.copies)
        is_scaled = recipe.env.normalise_rewards
        self.scale = RewardScale(recipe.env.copies, recipe.discount) if is_scaled else None
        n_own = recipe.env.copies
        first, n_all = runtime.rank * n_own, runtime.world * n_own
        self.share = CopyShare(first, n_own, n_all, runtime.sum_over_ranks)
        self.generator = torch.Generator().manual_seed(seed)
        self.continues = False
        self.reset(0)

    def reset(self, update: int) -> None:
        """Start new episodes; their seeds follow from the update."""
        seed = derive_seed(self.runtime.seed, "env", self.number, update)
        self.observations = self.env.reset(seed % 2**31 + self.share.first)
        self.returns.restart()
        if self.scale is not None:
            self.scale.restart()

    def step(self, actions: np.ndarray) -> tuple[Step, np.ndarray]:
        """Act once in all copies; returns the step and the rewards to learn from, float32 ``[E]``."""
        step = self.env.step(actions)
        self.returns.add(step)
        self.observations = step.shown
        rewards = np.sign(step.rewards) if self._clips else step.rewards
        return step, rewards if self.scale is None else self.scale.scaled(rewards, step)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the network; environments whose state is not known start new episodes."""
        episodes = self.env.state_dict()
        if episodes is not None:
            episodes["observations"] = torch.from_numpy(self.observations.copy())
        statistics = {name: value.clone() for name, value in self.network.named_buffers()}
        return {
            "generator": self.generator.get_state(),
            "returns": self.returns.state_dict(),
            **({"episodes": episodes} if episodes is not None else {}),
            **({"statistics": statistics} if statistics else {}),
            **({"scale": self.scale.state_dict()} if self.scale is not None else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.generator.set_state(state["generator"])
        self.returns.load_state_dict(state["returns"])
        for name, value in state.get("statistics", {}).items():
            self.network.get_buffer(name).copy_(value)
        if self.scale is not None:
            self.scale.load_state_dict(state["scale"])
        is_alone = self.runtime.world == 1  # the checkpoint has the episodes of the first process alone
        self.continues = is_alone and "episodes" in state and self.env.load_state_dict(state["episodes"])
        if self.continues:
            self.observations = state["episodes"]["observations"].numpy().copy()


class PolicyGroup:
    """Policies that learn side by side, and the attention between them.

    Args:
        recipe: the settings.
        runtime: device, precision and seed.
        policies: the members.
        adam: makes an optimiser from parameters: one per stack, and one for the attention.
        together: True computes networks of one shape as one stack; False one after another, which is slower.

    Attributes:
        actions: what policies decide on.
        stacks: the networks of the policies.
        optimizers: one per stack.
        teachers: trained policies that also teach.
        attention: decision attention of the group.
        attention_means: mean attention weights of the last update, ``[T, T + K]`` with K teachers; None before the
            first, or without attention.
    """

    kind: str

    def __init__(
        self,
        recipe: RlDistillRecipe,
        runtime: Runtime,
        policies: Sequence[Policy],
        adam: Callable[[Any], torch.optim.Optimizer],
        together: bool,
    ) -> None:
        self.opd, self.window, self.runtime = recipe.distillation, recipe.eval.window, runtime
        self.policies, self.actions = policies, policies[0].env.actions
        networks = [policy.network for policy in policies]
        self.teachers = self._load_teachers(runtime) if self.opd.targets != "none" else []
        widths = [one.n_features for one in (*networks, *self.teachers)]
        if len(set(widths)) > 1 and self.opd.attention_input == "feature" and self.opd.targets == "attention":
            raise UsageError(
                "features of policies and teachers have several sizes",
                hint="add -s opd.attention_input=decision",
            )
        mixed = bool(self.teachers) and len(set(widths)) > 1
        self.stacks = stacks_of(networks, runtime, together=together and not mixed)
        self.optimizers = [adam([stack.weights]) for stack in self.stacks]
        torch.manual_seed(derive_seed(runtime.seed, "attention"))
        attention = DecisionAttention(widths, policies[0].env.n_actions, self.opd)
        self.attention = attention.to(runtime.device)
        self.attention_optimizer = adam(self.attention.parameters())
        self.attention_means: Tensor | None = None

    def _load_teachers(self, runtime: Runtime) -> list[Teacher]:
        env, first = self.policies[0].env, len(self.policies)
        return load_teachers(
            self.opd.teachers, self.kind, env, runtime.device, first=first, seed=runtime.seed
        )

    def restart(self, update: int) -> None:
        """Start new episodes, after an interruption, where those of before do not continue."""
        for policy in self.policies:
            if not policy.continues:
                policy.reset(update)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all optimisers."""
        for optimizer in (*self.optimizers, self.attention_optimizer):
            set_rate(optimizer, rate)

    @property
    def distils(self) -> bool:
        """Whether policies learn from each other, or from teachers."""
        weight = self.opd.decision_weight + self.opd.feature_weight
        has_any = bool(self.teachers) or (self.opd.peers and len(self.policies) > 1)
        return self.opd.targets != "none" and has_any and weight > 0

    @property
    def caches_peers(self) -> bool:
        """Whether the peers' features and decisions are computed once, without gradient."""
        return self.distils and self.opd.detach == "peers"

    def views(
        self, observations: Sequence[Tensor], decided: Sequence[Tensor] | None = None
    ) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Features and decisions of all policies on the states of each stack's policies, without gradient.

        Args:
            observations: of each stack's policies, ``[T, N, ...]``.
            decided: their own decisions there, ``[T, N, A]``, where they are known. A stack of one policy is then not
                evaluated again; its features are 0, which no policy reads unless it attends to itself.
        """
        found = []
        for i, one in enumerate(observations):
            own = None
            if decided is not None and len(one) == 1 and self.opd.attention_self == "exclude":
                own = (self.stacks[i], decided[i])
            with torch.no_grad():
                found.append(views_of([*self.stacks, *self.teachers], one, own))
        return found

    def peers(self, views: Sequence[tuple[list[Tensor], list[Tensor]]]) -> list[Peers]:
        """The peers of each stack's policies, from :meth:`views`."""
        known = [policy.returns.recent(self.window) for policy in self.policies]
        returns = standardised([*known, *(teacher.mean_return for teacher in self.teachers)])
        return [
            peers_from(stack.members, *one, returns, self.opd, len(self.teachers))
            for stack, one in zip(self.stacks, views, strict=True)
        ]

    def live_peers(self, observations: Sequence[Tensor]) -> list[Peers]:
        """The peers of each stack's policies on states ``[T, B, ...]`` of each, with gradient."""
        return self.peers([views_of([*self.stacks, *self.teachers], one) for one in observations])

    def descend(self, terms: Sequence[dict[str, Tensor]], largest: float | None) -> None:
        """One optimiser step of every policy and of the attention on the sum of the terms.

        Args:
            terms: of the loss of each stack, ``[T]`` each; of several processes each has its part of them.
            largest: gradient norm to clip each policy to; None does not clip.
        """
        self.attention_optimizer.zero_grad(set_to_none=True)
        torch.cat([value for one in terms for value in one.values()]).sum().backward()
        for parameter in self.attention.parameters():
            if parameter.grad is not None:
                self.runtime.sum_over_ranks(parameter.grad)
        for stack, optimizer in zip(self.stacks, self.optimizers, strict=True):
            stack.take_gradient(largest, self.runtime.sum_over_ranks)
            optimizer.step()
        self.attention_optimizer.step()

    def in_all_processes(self, act: Callable[[], _T]) -> _T:
        """Act; then every process knows the episodes that ended, and the steps, of all.

        Raises:
            EnvironmentFailure: an environment of this process failed, or one of another.
        """
        failure, found = None, None
        try:
            found = act()
        except EnvironmentFailure as error:
            failure = error
        if self.runtime.any_rank(failure is not None):
            raise failure or EnvironmentFailure("in another process")
        if self.runtime.world > 1:
            for policy in self.policies:
                policy.returns.add_others(self.runtime.gather(policy.returns.take_new()), self.runtime.rank)
        return cast("_T", found)

    def disagreement(self, views: Sequence[tuple[list[Tensor], list[Tensor]]]) -> float:
        """Mean disagreement of the policies on each other's states, 0..1."""
        n = len(self.policies)
        apart = [disagreement(decisions[:n], self.kind, self.actions) for _, decisions in views]
        return float(np.mean(apart))

    def weights_of(self, stack: NetworkStack, features: Tensor, decisions: Tensor, peers: Peers) -> Tensor:
        """alpha of a stack's policies, ``[T, B, P]``; its means go to :attr:`attention_means`."""
        alpha = self.attention.weights(features, decisions, peers)
        n = len(self.policies)
        empty = torch.zeros(n, n + len(self.teachers))
        matrix = empty if self.attention_means is None else self.attention_means
        now = alpha.detach().mean(1).cpu()
        for i, m in enumerate(stack.members):
            matrix[m, list(peers.members[i])] = now[i]
        self.attention_means = matrix
        return alpha

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""
        return {
            "policies": [policy.state_dict() for policy in self.policies],
            "weights": [stack.weights.detach().clone() for stack in self.stacks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "attention": self.attention.state_dict(),
            "attention_optimizer": self.attention_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for policy, own in zip(self.policies, state["policies"], strict=True):
            policy.load_state_dict(own)
        for stack, weights in zip(self.stacks, state["weights"], strict=True):
            stack.copy_weights(weights)
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self.attention.load_state_dict(state["attention"])
        self.attention_optimizer.load_state_dict(state["attention_optimizer"])


def observations_of(policies: Sequence[Policy], device: torch.device) -> Tensor:
    """Current observations of policies, float32 ``[T, E, ...]``."""
    observations = np.stack([policy.observations for policy in policies])
    return torch.from_numpy(observations).to(device).float()


def views_of(
    stacks: Sequence[NetworkStack | Teacher],
    observations: Tensor,
    own: tuple[NetworkStack, Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Features and decisions of all policies, in order, on states ``[T, N, ...]`` of some: each ``[T, N, ...]``.

    Args:
        stacks: of all policies.
        observations: the states.
        own: a stack whose decisions are known, and these decisions; its features become 0.
    """
    n_rows, n_states = observations.shape[:2]
    flat = observations.flatten(0, 1).float()
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for stack in stacks:
        if own is not None and stack is own[0]:
            width = stack.networks[0].n_features
            found[stack.members[0]] = own[1].new_zeros(n_rows, n_states, width), own[1]
            continue
        features, decisions = stack(flat.expand(len(stack), *flat.shape))[:2]
        for i, member in enumerate(stack.members):
            one, other = features[i], decisions[i]
            found[member] = one.view(n_rows, n_states, -1), other.view(n_rows, n_states, -1)
    return [found[m][0] for m in sorted(found)], [found[m][1] for m in sorted(found)]


def peers_of(m: int, n: int, settings: OpdSection, n_teachers: int = 0) -> tuple[int, ...]:
    """Indices of those that policy m learns from in a group of n, the last of which are teachers."""
    policies = range(n - n_teachers) if settings.peers else ()
    found = [b for b in policies if b != m or settings.attention_self == "include"]
    return (*found, *range(n - n_teachers, n))


def peers_from(
    rows: Sequence[int],
    features: Sequence[Tensor],
    decisions: Sequence[Tensor],
    returns: Tensor,
    settings: OpdSection,
    n_teachers: int = 0,
) -> Peers:
    """The peers of the policies ``rows``, from features and decisions of all policies on the states of each of them.

    Args:
        rows: indices of T policies; T is 1 where features have several widths.
        features: of every policy, ``[T, N, F_b]``.
        decisions: of every policy, ``[T, N, A]``.
        returns: of every policy, standardised.
        settings: `opd` of the recipe.
        n_teachers: how many of the last of "all policies" are teachers.
    """
    members = tuple(peers_of(m, len(features), settings, n_teachers) for m in rows)
    of_peers = torch.stack([torch.stack([decisions[b][i] for b in of], 1) for i, of in enumerate(members)])
    chosen: Tensor | tuple[Tensor, ...]
    if len({one.shape[-1] for one in features}) == 1:
        chosen = torch.stack([torch.stack([features[b][i] for b in of], 1) for i, of in enumerate(members)])
    else:
        chosen = tuple(features[b] for b in members[0])
    own_returns = torch.stack([returns[list(of)] for of in members])
    return Peers(chosen, of_peers, members, own_returns[:, None].to(of_peers.device))


def standardised(returns: Sequence[float | None]) -> Tensor:
    """Returns minus their mean, divided by their standard deviation; 0 where one is missing or all are equal."""
    known = [value for value in returns if value is not None]
    if len(known) < max(2, len(returns)):
        return torch.zeros(len(returns))
    values = torch.tensor(known, dtype=torch.float32)
    return (values - values.mean()) / values.std(unbiased=False).clamp_min(1e-8)
