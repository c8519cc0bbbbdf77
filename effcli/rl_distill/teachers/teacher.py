"""A trained policy beside the peers of a group, or in their place: frozen, and asked on the students' states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.runtime import derive_seed
from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.environments.observations import Observed
from effcli.rl_distill.network.policies import ActorCritic, QNetwork
from effcli.rl_distill.teachers.stable_baselines import read_stable_baselines
from effcli.rl_distill.weights import best_policy

UNTRAINED = "random"
"""In place of a file: a policy that has learned nothing, to tell what its peers add from what any target does."""


class Teacher:
    """A frozen policy that is asked as a stack of networks is.

    Args:
        network: features and decisions of observations ``[B, ...]`` of the teacher.
        member: its index in the group, after the policies.
        columns: where its observations are in those of the students, and their shape.
        mean_return: of its training; None where that is not known.
    """

    def __init__(
        self,
        network: nn.Module,
        member: int,
        columns: tuple[Tensor, tuple[int, ...]] | None,
        mean_return: float | None,
    ) -> None:
        self.networks, self.members, self.mean_return = (network.eval(),), (member,), mean_return
        self.n_features = int(network.n_features)  # type: ignore[arg-type]
        self._columns = columns

    def __len__(self) -> int:
        return 1

    def __call__(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Features and decisions for the students' observations ``[1, B, ...]``, ``[1, B, ...]`` each."""
        seen = observations[0]
        if self._columns is not None:
            places, shape = self._columns
            seen = seen[:, places].unflatten(1, shape)
        with torch.no_grad():
            features, decisions = self.networks[0](seen.float())[:2]
        return features[None].float(), decisions[None].float()


def load_teachers(
    files: Sequence[str],
    kind: str,
    env: Environments,
    device: torch.device,
    *,
    first: int = 0,
    seed: int = 0,
) -> list[Teacher]:
    """The teachers of a group.

    Args:
        files: policy files, run directories (their best policy), or zips of Stable-Baselines3; ``random`` is a policy
            with the weights that training begins with.
        kind: the students' algorithm, ``ppo`` or ``dqn``.
        env: of the students.
        device: of the networks.
        first: index of the first in the group.
        seed: decides the weights of ``random``.

    Raises:
        InputError: a file cannot be read.
        UsageError: a teacher is of another algorithm, or has other actions, or observations that the students do not
            have.
    """
    return [
        _untrained(number, kind, env, device, seed)
        if file == UNTRAINED
        else _teacher(file, number, kind, env, device)
        for number, file in enumerate(files, first)
    ]


def _untrained(number: int, kind: str, env: Environments, device: torch.device, seed: int) -> Teacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "untrained", number))
        made = (ActorCritic if kind == "ppo" else QNetwork)(env.observed, env.actions, "normal")
    return Teacher(made.to(device), number, None, None)


def _teacher(file: str, number: int, kind: str, env: Environments, device: torch.device) -> Teacher:
    if Path(file).suffix == ".zip":
        network, algorithm = read_stable_baselines(file, env)
        _check_algorithm(algorithm, kind, file)
        return Teacher(network.to(device), number, None, None)
    policy = best_policy(file, None)
    about = policy.about
    _check_algorithm(about.algorithm, kind, file)
    ours = (env.actions.kind, env.actions.choices, env.actions.n_numbers)
    if (about.decides.kind, about.decides.choices, about.decides.n_numbers) != ours:
        raise UsageError(
            f"decides on {about.n_actions} numbers, the students on {env.n_actions}, or on other actions",
            place=file,
        )
    columns = columns_of(about.seen, env.observed, file)
    return Teacher(policy.network.to(device), number, columns, about.mean_return)


def _check_algorithm(found: str, wanted: str, file: str) -> None:
    if found != wanted:
        raise UsageError(
            f"is a policy of {found.upper()}, whose decisions are not those of {wanted.upper()}",
            place=file,
            hint="a group learns from teachers of its own algorithm",
        )


def columns_of(teacher: Observed, students: Observed, file: str) -> tuple[Tensor, tuple[int, ...]] | None:
    """Where a teacher's observations are in those of the students, and their shape; None where they are the same.

    Raises:
        UsageError: the students have no such part.
    """
    if teacher.is_single and students.is_single and teacher.shape == students.shape:
        one, other = teacher.parts[0], students.parts[0]
        if (one.kind, one.layout, one.scale) != (other.kind, other.layout, other.scale):
            raise UsageError(
                f"sees {one.kind}, the students {other.kind} of another layout or range", place=file
            )
        return None
    ends = [0, *accumulate(part.n_values for part in students.parts)]
    places: list[int] = []
    for part in teacher.parts:
        same = [i for i, one in enumerate(students.parts) if one.shape == part.shape]
        found = [i for i in same if students.parts[i].name == part.name] or (
            same if teacher.is_single else []
        )
        if len(found) != 1:
            problem = "none" if not found else f"{len(found)} such parts"
            named = f"{part.name or 'an observation'} of shape {list(part.shape)}"
            raise UsageError(f"sees {named}; the students' environment has {problem}", place=file)
        places += range(ends[found[0]], ends[found[0] + 1])
    return torch.tensor(places), teacher.shape
