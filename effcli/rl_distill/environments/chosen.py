"""The environment in which a trained policy plays: the one of its training, or one that a person chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effcli.core.errors import UsageError
from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.environments.making import check_registered, make_environments
from effcli.rl_distill.weights import PolicyDescription


@dataclass(frozen=True)
class ChosenEnvironment:
    """What a person typed.

    Attributes:
        env: name of the environment; None is the one of the training.
        kwargs: arguments for it; None are those of the training, where it is that environment.
    """

    env: str | None = None
    kwargs: Mapping[str, Any] | None = None

    def open(
        self, about: PolicyDescription, place: str, copies: int, *, render: bool = False
    ) -> Environments:
        """Make it, for a policy.

        Args:
            about: what the policy was trained for.
            place: the policy's file or run, for messages.
            copies: about how many.
            render: whether it will be drawn.

        Raises:
            InputError: the file names code as its environment.
            UsageError: it is unknown, or has other observations or actions.
        """
        name, kwargs = self.env or about.env, self.kwargs
        if kwargs is None:
            kwargs = about.env_kwargs if name == about.env else None
            check_registered("" if self.env else name, kwargs, place)
        elif self.env is None:
            check_registered(name, None, place)
        bounds = about.decides.bounds
        hidden = [part.name for part in about.seen.parts if part.kind == "hidden"]
        env = make_environments(
            name, copies, render=render, kwargs=kwargs, bounds=bounds, hidden=hidden, exactly=False
        )
        if (env.shape, env.n_actions) != (about.shape, about.n_actions) or not _alike(env, about):
            env.close()
            raise UsageError(
                f"has observations {list(env.shape)} and {env.n_actions} actions; the policy was trained for "
                f"{list(about.shape)} and {about.n_actions}, or they are of another kind",
                place=name,
            )
        return env


def _alike(env: Environments, about: PolicyDescription) -> bool:
    """Whether parts and actions are of the same kinds; files of version 0.1 do not say which."""
    kinds = [(part.name, part.kind, part.shape) for part in env.observed.parts]
    same_parts = about.observed is None or kinds == [
        (part.name, part.kind, part.shape) for part in about.observed.parts
    ]
    same_actions = (env.actions.kind, env.actions.choices) == (about.decides.kind, about.decides.choices)
    return same_parts and same_actions
