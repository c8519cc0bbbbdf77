"""The settings of environments."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from effcli.core.recipe import Section


class EnvironmentSection(Section):
    """Where policies act."""

    id: str = Field(
        "CartPole-v1",
        description="The environment: a gymnasium id, MinAtar/NAME-v1, ALE/NAME-v5, package:ID, or module:function.",
    )
    kwargs: dict[str, Any] = Field(
        {}, description="Arguments for the environment, by name, such as map_name: 8x8 of FrozenLake-v1."
    )
    action_bounds: Literal["clip", "squash"] = Field(
        "clip",
        description="How continuous actions are kept within their bounds: clip cuts them off, squash "
        "applies tanh. Both map -1..1 to the range of the environment.",
    )
    copies: int = Field(
        8,
        ge=1,
        description="Environments of each policy that step side by side, 1 or more. A policy collects this many "
        "transitions per step.",
    )
    workers: int = Field(
        0,
        ge=0,
        description="0 steps the copies of a policy in turn; 1 or more steps each in a process of its own, or all of "
        "them in this many threads for Atari. The result is the same.",
    )
    hidden: tuple[str, ...] = Field(
        (),
        description="Parts of Dict or Tuple observations, by their keys joined by dots, that policies do not "
        "see; teachers that were trained with them do.",
    )
    normalise_observations: bool = Field(
        False,
        description="true normalises numbers in observations by their running mean and standard deviation, "
        "for each policy; the statistics are saved with it. Pictures and choices are unchanged.",
    )
    normalise_rewards: bool = Field(
        False,
        description="true divides the rewards used for training by the running standard deviation of "
        "discounted returns. Reported returns stay raw.",
    )
    clip_rewards: bool = Field(
        False,
        description="true learns from the sign of each reward (-1, 0, 1), as is usual for Atari; false from the "
        "reward itself. Reported returns are never clipped.",
    )
