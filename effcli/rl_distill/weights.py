"""Trained policies as files: safetensors, with everything needed to rebuild the network in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, Json
from torch import Tensor, nn

from effcli.core.errors import InputError, UsageError
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Count, Header, build_network, read_weights
from effcli.rl_distill.network.policies import ActorCritic, QNetwork

FORMAT, VERSION = "effcli-policy", "1"
NETWORKS: dict[str, Callable[..., nn.Module]] = {"ppo": ActorCritic, "dqn": QNetwork}


@dataclass(frozen=True)
class PolicyDescription:
    """How the network of a policy is built, and what it was trained for.

    Attributes:
        algorithm: ``ppo`` or ``dqn``.
        env: id of the environment.
        shape: of an observation.
        n_actions: number of actions.
        size: of the network: ``small``, ``normal`` or ``large``.
        number: in its group, from 1.
        is_best: whether it has the highest return of its group.
        mean_return: mean over its last training episodes; None where none ended.
    """

    algorithm: Annotated[str, Field(pattern="^(ppo|dqn)$")]
    env: str
    shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=3)]
    n_actions: Count
    size: Annotated[str, Field(pattern="^(small|normal|large)$")]
    number: Count
    is_best: bool
    mean_return: float | None

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


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
        """Logits of the actions (PPO) or their values (DQN), ``[B, A]``; the best action has the highest."""
        decisions: Tensor = self.network(observations.float())[1]
        return decisions


def save_policy(file: Path, network: nn.Module, about: PolicyDescription) -> None:
    """Write a policy file, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_tensors(file, tensors, {"format": FORMAT, "version": VERSION, "about": json.dumps(asdict(about))})


def load_policy(file: Path) -> SavedPolicy:
    """Read a policy file.

    Raises:
        InputError: it cannot be read, is damaged, or is not a policy file.
    """
    header, tensors = read_weights(file, str(file), PolicyHeader)
    about = header.about
    make = NETWORKS[about.algorithm]
    network = build_network(lambda: make(about.shape, about.n_actions, about.size), tensors, str(file))
    return SavedPolicy(network, about).eval()


def policy_files(place: str) -> list[Path]:
    """The policy files of a run directory, in order; or the one file that is named.

    Raises:
        InputError: there is no policy file.
    """
    path = Path(place)
    files = sorted(path.glob("model/policy-*.safetensors")) if path.is_dir() else [path]
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
