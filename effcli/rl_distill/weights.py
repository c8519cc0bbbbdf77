"""A trained policy as a file: safetensors, with all that it is built from in the metadata."""

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
from effcli.rl_distill.networks import ActorCritic, QNetwork

FORMAT, VERSION = "effcli-policy", "1"
NETWORKS: dict[str, Callable[..., nn.Module]] = {"ppo": ActorCritic, "dqn": QNetwork}


@dataclass(frozen=True)
class About:
    """What a policy is built from, and what it was trained for.

    Attributes:
        algorithm: ``ppo`` or ``dqn``.
        env: the environment's id.
        shape: of an observation.
        n_actions: how many.
        size: of the network.
        number: in its group, from 1.
        is_best: whether it has the group's highest return.
        mean_return: of its last training episodes; None where none ended.
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
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    about: Json[About]


class SavedPolicy(nn.Module):
    """From observations to decisions.

    Args:
        network: trained.
        about: what it is.
    """

    def __init__(self, network: nn.Module, about: About) -> None:
        super().__init__()
        self.network = network
        self.about = about

    def forward(self, observations: Tensor) -> Tensor:
        """Logits of the actions (PPO) or their values (DQN), ``[B, A]``; the best action has the highest."""
        decisions: Tensor = self.network(observations.float())[1]
        return decisions


def save_policy(file: Path, network: nn.Module, about: About) -> None:
    """Write a policy, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_tensors(file, tensors, {"format": FORMAT, "version": VERSION, "about": json.dumps(asdict(about))})


def load_policy(file: Path) -> SavedPolicy:
    """Read a policy.

    Raises:
        InputError: there is none, or it is damaged or of another kind.
    """
    header, tensors = read_weights(file, str(file), PolicyHeader)
    about = header.about
    make = NETWORKS[about.algorithm]
    network = build_network(lambda: make(about.shape, about.n_actions, about.size), tensors, str(file))
    return SavedPolicy(network, about).eval()


def policy_files(place: str) -> list[Path]:
    """The policies of a run directory, in order; or the one file.

    Raises:
        InputError: there is none.
    """
    path = Path(place)
    files = sorted(path.glob("model/policy-*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(
            "holds no policy", place=place, hint="name a run of `effcli rl-distill`, or a policy's file"
        )
    return files


def best_policy(place: str, number: int | None) -> SavedPolicy:
    """One policy of a run: the best, or that of a number from 1.

    Raises:
        InputError: there is none.
        UsageError: there is none of this number.
    """
    policies = [load_policy(file) for file in policy_files(place)]
    wanted = [p for p in policies if (p.about.number == number if number is not None else p.about.is_best)]
    if not wanted and number is not None:
        raise UsageError(f"there are policies 1 to {len(policies)}, not {number}", place=place)
    return wanted[0] if wanted else policies[0]
