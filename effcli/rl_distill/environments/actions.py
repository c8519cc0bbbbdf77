"""Which actions there are, and what a policy's decisions say of them.

Decisions are one array ``[..., D]``: logits of each choice (Discrete; MultiDiscrete and MultiBinary side by side), or
means and logarithms of standard deviations (Box). A policy's actions are ``[..., K]`` numbers, or ``[...]`` where there
is one choice; :meth:`Actions.of_environment` makes of them what the environment takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from effcli.core.errors import UsageError

_Number = Annotated[int, Field(ge=1, le=2**24)]


@dataclass(frozen=True)
class Actions:
    """The actions of an environment.

    Attributes:
        kind: ``choices`` or ``numbers``.
        shape: of an action as the environment takes it; ``()`` of Discrete.
        choices: of each number to choose; empty for ``numbers``.
        first_choices: the first of each.
        low, high: bounds of each number, None where there are none.
        bounds: how numbers are kept within: ``clip`` cuts them off, ``squash`` bends them with tanh.
    """

    kind: Literal["choices", "numbers"]
    shape: Annotated[tuple[_Number, ...], Field(max_length=8)] = ()
    choices: Annotated[tuple[_Number, ...], Field(max_length=4096)] = ()
    first_choices: Annotated[tuple[int, ...], Field(max_length=4096)] = ()
    low: Annotated[tuple[float | None, ...], Field(max_length=4096)] = ()
    high: Annotated[tuple[float | None, ...], Field(max_length=4096)] = ()
    bounds: Literal["clip", "squash"] = "clip"

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @property
    def is_discrete(self) -> bool:
        """Whether there is a single choice."""
        return self.kind == "choices" and self.shape == ()

    @property
    def n_numbers(self) -> int:
        """Numbers of an action."""
        return len(self.choices) if self.kind == "choices" else len(self.low)

    @property
    def n_decisions(self) -> int:
        """D: numbers of a decision."""
        return sum(self.choices) if self.kind == "choices" else 2 * len(self.low)

    def of_environment(self, actions: np.ndarray) -> np.ndarray:
        """What the environment takes, ``[n, *shape]``, for a policy's actions ``[n]`` or ``[n, K]``."""
        if self.kind == "choices":
            first = self.first_choices[0] if self.is_discrete else np.array(self.first_choices)
            chosen: np.ndarray = (actions + first).reshape(len(actions), *self.shape)
            return chosen
        return self._within(actions).reshape(len(actions), *self.shape).astype(self._dtype)

    @property
    def _dtype(self) -> type[np.floating[Any]]:
        """float32, or float64 where a bound between float32 numbers would be passed by rounding."""
        bounds = [one for one in (*self.low, *self.high) if one is not None]
        return np.float32 if all(float(np.float32(one)) == one for one in bounds) else np.float64

    def _within(self, actions: np.ndarray) -> np.ndarray:
        """-1..1 becomes the range between two bounds; numbers without bounds stay."""
        low = np.array([-np.inf if one is None else one for one in self.low])
        high = np.array([np.inf if one is None else one for one in self.high])
        ranged = np.isfinite(low) & np.isfinite(high)
        span, start = np.where(ranged, high - low, 1.0), np.where(ranged, low, 0.0)
        unit = np.tanh(actions) if self.bounds == "squash" else np.clip(actions, -1.0, 1.0)
        within = np.clip(start + (unit + 1) / 2 * span, low, high)
        kept: np.ndarray = np.where(ranged, within, np.clip(actions, low, high))
        return kept


def single_choice(n: int) -> Actions:
    """One of n actions, from 0."""
    return Actions("choices", (), (n,), (0,))


def actions_of(space: Any, place: str, bounds: Literal["clip", "squash"] = "clip") -> Actions:
    """The actions of a space of gymnasium.

    Raises:
        UsageError: no policy decides on such actions.
    """
    from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

    shape = tuple(int(n) for n in space.shape or ())
    if isinstance(space, Discrete):
        return Actions("choices", (), (int(space.n),), (int(space.start),))
    if isinstance(space, MultiDiscrete):
        counts, starts = np.ravel(space.nvec), np.ravel(space.start)
        return Actions("choices", shape, tuple(map(int, counts)), tuple(map(int, starts)))
    if isinstance(space, MultiBinary):
        n = math.prod(shape)
        return Actions("choices", shape, (2,) * n, (0,) * n)
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and 0 not in shape:
        low, high = (
            tuple(float(one) if np.isfinite(one) else None for one in np.ravel(bound))
            for bound in (space.low, space.high)
        )
        return Actions("numbers", shape, low=low, high=high, bounds=bounds)
    raise UsageError(
        f"action space {type(space).__name__}; supported: Discrete, MultiDiscrete, MultiBinary, and Box of floats",
        place=place,
    )
