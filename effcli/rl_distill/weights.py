"""Trained policies as files: safetensors, with everything needed to rebuild the network in the metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, Json, JsonValue
from torch import Tensor, nn

from effcli.core.errors import InputError, UsageError
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Count, Header, build_network, read_weights
from effcli.rl_distill.decisions import best
from effcli.rl_distill.environments.actions import Actions, single_choice
from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.environments.observations import Observed, observed_of_shape, with_axis
from effcli.rl_distill.network.policies import ActorCritic, QNetwork

FORMAT, VERSION = "effcli-policy", "1"
NETWORKS: dict[str, type[ActorCritic] | type[QNetwork]] = {"ppo": ActorCritic, "dqn": QNetwork}
_SINCE_0_2 = ("observed", "actions", "env_kwargs", "normalises")


@dataclass(frozen=True)
class PolicyDescription:
    """How the network of a policy is built, and what it was trained for.

    Attributes:
        algorithm: ``ppo`` or ``dqn``.
        env: id of the environment.
        shape: of an observation, as one array.
        n_actions: number of actions; of other actions than a single choice, numbers of a decision.
        size: of the network: ``small``, ``normal`` or ``large``.
        number: in its group, from 1.
        is_best: whether it has the highest return of its group.
        mean_return: mean over its last training episodes; None where none ended.
        observed: what observations are; None in files of version 0.1, where the shape says it.
        actions: what is decided on; None where it is a single choice from 0.
        env_kwargs: arguments for the environment.
        normalises: numbers are normalised by statistics in the file.
    """

    algorithm: Annotated[str, Field(pattern="^(ppo|dqn)$")]
    env: str
    shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]
    n_actions: Count
    size: Annotated[str, Field(pattern="^(small|normal|large)$")]
    number: Count
    is_best: bool
    mean_return: float | None
    observed: Observed | None = None
    actions: Actions | None = None
    env_kwargs: dict[str, JsonValue] | None = None
    normalises: bool = False

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    @property
    def seen(self) -> Observed:
        """What observations are."""
        return self.observed or observed_of_shape(self.shape)

    @property
    def decides(self) -> Actions:
        """What is decided on."""
        return self.actions or single_choice(self.n_actions)

    def make_network(self) -> ActorCritic | QNetwork:
        """The network, with random weights.

        Raises:
            ValueError: the parts of the description do not fit together.
        """
        if self.seen.shape != self.shape or self.decides.n_decisions != self.n_actions:
            raise ValueError("its shape and number of actions do not match its observations and actions")
        return NETWORKS[self.algorithm](self.seen, self.decides, self.size, normalises=self.normalises)


class PolicyHeader(Header):
    """The metadata of a policy file."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    about: Json[PolicyDescription]


class SavedPolicy(nn.Module):
    """A trained network that maps observations to decisions.

    Args:
        network: with its trained weights.
        about: what it was trained for.
    """

    def __init__(self, network: nn.Module, about: PolicyDescription) -> None:
        super().__init__()
        self.network = network
        self.about = about

    def forward(self, observations: Tensor) -> Tensor:
        """Decisions ``[B, D]``: logits of the actions (PPO) or their values (DQN), the best having the highest; of
        continuous actions means and logarithms of standard deviations."""
        decisions: Tensor = self.network(observations.float())[1]
        return decisions

    def predict(self, observation: Any, action_mask: Any = None) -> Any:
        """The best action for one observation, or the best actions for a batch of them.

        Args:
            observation: as the environment gives it: an array, a number, or a dict or tuple of them; of a batch each
                has one more axis in front.
            action_mask: which actions are allowed, as the environment has it in ``info``; None allows all.

        Returns:
            What ``env.step`` takes: an int of Discrete, else an array; of a batch an array.

        Raises:
            ValueError: the observation has another shape than the policy was trained for.
        """
        seen, decides = self.about.seen, self.about.decides
        is_single = seen.is_one(observation)
        raw, mask = (
            one if one is None or not is_single else with_axis(one) for one in (observation, action_mask)
        )
        n = 1 if is_single else seen.length_of(raw)
        packed = seen.pack(raw, n, None if mask is None else np.asarray(mask).reshape(n, -1))
        device = next(self.parameters()).device
        with torch.no_grad():
            decisions = self(torch.from_numpy(packed).to(device))
        actions = decides.of_environment(best(decisions, decides).cpu().numpy())
        if not is_single:
            return actions
        return int(actions[0]) if decides.is_discrete else actions[0]


def described(env: Environments) -> tuple[Observed | None, Actions | None]:
    """What a file says of observations and actions; None where version 0.1 would read the same of their shapes."""
    old = observed_of_shape(env.shape)
    now, before = (
        [(one.name, one.kind, one.layout, one.scale) for one in of.parts] for of in (env.observed, old)
    )
    is_plain = env.actions.is_discrete and env.actions.first_choices == (0,)
    is_known = now == before and len(env.shape) in (1, 3)
    return None if is_known else env.observed, None if is_plain else env.actions


def save_policy(file: Path, network: nn.Module, about: PolicyDescription) -> None:
    """Write a policy file, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    content = {key: value for key, value in asdict(about).items() if value or key not in _SINCE_0_2}
    save_tensors(file, tensors, {"format": FORMAT, "version": VERSION, "about": json.dumps(content)})


def load_policy(file: Path) -> SavedPolicy:
    """Read a policy file.

    Raises:
        InputError: it cannot be read, is damaged, or is not a policy file.
    """
    header, tensors = read_weights(file, str(file), PolicyHeader)
    about = header.about
    network = build_network(about.make_network, tensors, str(file))
    return SavedPolicy(network, about).eval()


def policy_files(place: str) -> list[Path]:
    """The policy files of a run directory, in order; or the one file that is named.

    Raises:
        InputError: there is no policy file.
    """
    path = Path(place)
    found = path.glob("model/policy-*.safetensors") if path.is_dir() else [path]
    files = sorted(found, key=lambda file: (len(file.name), file.name))  # policy-10 after policy-9
    if not files or not files[0].is_file():
        problem = "contains no policies" if path.is_dir() else "no such file or run directory"
        raise InputError(problem, place=place, hint="name a run of `effcli rl-distill` or a policy file")
    return files


def best_policy(place: str, number: int | None) -> SavedPolicy:
    """One policy of a run: the one with the given number from 1, or the best.

    Raises:
        InputError: there is no policy file.
        UsageError: no policy has this number.
    """
    policies = [load_policy(file) for file in policy_files(place)]
    wanted = [p for p in policies if (p.about.number == number if number is not None else p.about.is_best)]
    if not wanted and number is not None:
        raise UsageError(f"no policy {number}; available: 1 to {len(policies)}", place=place)
    return wanted[0] if wanted else policies[0]


def load(place: str | Path, number: int | None = None) -> SavedPolicy:
    """A trained policy, to predict actions with.

    Args:
        place: policy file, or run directory.
        number: of the policy in its run, from 1; None is the best.

    Raises:
        InputError: there is no policy file, or it is damaged.
        UsageError: no policy has this number.
    """
    return best_policy(str(place), number)
