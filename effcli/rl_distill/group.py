"""What the members of a group have in common, whatever the algorithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.runtime import Runtime, derive_seed
from effcli.rl_distill.decision_attention import Peers
from effcli.rl_distill.environments import Environments, make_environments
from effcli.rl_distill.recipe import OpdSection, RlDistillRecipe
from effcli.rl_distill.returns import Returns


class Policy:
    """One member: network, optimiser, environments and the chance that it acts by.

    Args:
        number: in the group.
        recipe: the settings.
        runtime: where.
        network: makes one from the shape of an observation, the number of actions and a size.
        optimizer: makes one from parameters.
    """

    def __init__(
        self,
        number: int,
        recipe: RlDistillRecipe,
        runtime: Runtime,
        network: Callable[[tuple[int, ...], int, str], nn.Module],
        optimizer: Callable[[Any], torch.optim.Optimizer],
    ) -> None:
        seed = derive_seed(runtime.seed, "policy", number)
        self.number, self.runtime = number, runtime
        self.env: Environments = make_environments(
            recipe.env.id, recipe.env.copies, workers=recipe.env.workers
        )
        torch.manual_seed(seed)
        self.network: Any = network(self.env.shape, self.env.n_actions, recipe.policies[number]).to(
            runtime.device
        )
        self.optimizer = optimizer(self.network.parameters())
        self.returns = Returns(recipe.env.copies)
        self.generator = torch.Generator().manual_seed(seed)
        self.reset(0)

    def reset(self, update: int) -> None:
        """Begin new episodes, whose seeds follow from the update."""
        self.observations = self.env.reset(derive_seed(self.runtime.seed, "env", self.number, update) % 2**31)
        self.returns.restart()

    def as_input(self, observations: Any) -> Tensor:
        """float32 on the device."""
        return torch.as_tensor(observations, device=self.runtime.device).float()

    def state_dict(self) -> dict[str, Any]:
        """All but the environments, which begin anew."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "returns": self.returns.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.returns.load_state_dict(state["returns"])


def distils(settings: OpdSection, n_policies: int) -> bool:
    """Whether policies learn from each other."""
    weight = settings.decision_weight + settings.feature_weight
    return settings.targets != "none" and n_policies > 1 and weight > 0


def peers_of(m: int, n: int, attention_self: str) -> tuple[int, ...]:
    """Whom policy m learns from."""
    return tuple(b for b in range(n) if b != m or attention_self == "include")


def peers_from(
    m: int, features: Sequence[Tensor], decisions: Sequence[Tensor], returns: Tensor, settings: OpdSection
) -> Peers:
    """What policy m is compared with, from what everybody says of its states."""
    members = peers_of(m, len(features), settings.attention_self)
    chosen = tuple(features[b] for b in members)
    have_one_size = len({one.shape[1] for one in features}) == 1
    return Peers(
        torch.stack(chosen, 1) if have_one_size else chosen,
        torch.stack([decisions[b] for b in members], 1),
        members,
        returns[list(members)].to(decisions[0].device),
    )


def standardised(returns: Sequence[float | None]) -> Tensor:
    """Less their mean, over their deviation; 0 where a policy has none yet, or all are alike."""
    known = [value for value in returns if value is not None]
    if len(known) < max(2, len(returns)):
        return torch.zeros(len(returns))
    values = torch.tensor(known, dtype=torch.float32)
    return (values - values.mean()) / values.std(unbiased=False).clamp_min(1e-8)


def recent_returns(policies: Sequence[Policy], window: int) -> Tensor:
    """Of each policy, standardised."""
    return standardised([policy.returns.recent(window) for policy in policies])


def noted(means: Tensor | None, m: int, alpha: Tensor, peers: Peers, n: int) -> Tensor:
    """The matrix of mean weights ``[n, n]`` with the row of policy m as it is now."""
    matrix = torch.zeros(n, n) if means is None else means
    matrix[m, list(peers.members)] = alpha.detach().mean(0).cpu()
    return matrix
