"""What observations mean, by their space: numbers, choices, pictures; and how they become one array.

The space decides, never a value that was seen: dtype and bounds say whether an array is a picture, and what its values
are. An observation of several parts (Dict, Tuple) becomes one array with the parts side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from effcli.core.errors import UsageError

SMALLEST_FRAME = 36
"""Pictures with sides of at least this many pixels get the network of Mnih et al. (Nature 2015)."""
MASK = "action_mask"
"""The part, or the entry of ``info``, that says which actions are allowed."""
MOST_CHOICES = 2**16

Kind = Literal["numbers", "choices", "picture", "planes", "mask", "hidden"]
Layout = Literal["chw", "hwc", "hw", "shwc"]
_Side = Annotated[int, Field(ge=1, le=2**24)]


@dataclass(frozen=True)
class Part:
    """One array of an observation.

    Attributes:
        name: its keys in a Dict or Tuple, joined by dots; empty where it is all there is.
        kind: ``numbers`` are read as they are; ``choices`` are numbers of things, read one-hot; ``picture`` is read by
            convolutions; ``planes`` are small grids ``[H, W, C]``; ``mask`` says which actions are allowed;
            ``hidden`` parts are seen by teachers alone.
        shape: as the environment gives it, without the copies; a single number has ``(1,)``.
        dtype: of NumPy.
        layout: of a picture: ``s`` are frames over time, ``h``, ``w`` and ``c`` height, width and channels.
        scale: a picture's values are divided by this.
        choices: how many things each number chooses from.
        first_choices: the number of the first of them.
    """

    name: str
    kind: Kind
    shape: Annotated[tuple[_Side, ...], Field(min_length=1, max_length=8)]
    dtype: str
    layout: Layout | None = None
    scale: Annotated[float, Field(gt=0)] = 1.0
    choices: Annotated[tuple[_Side, ...], Field(max_length=4096)] = ()
    first_choices: Annotated[tuple[int, ...], Field(max_length=4096)] = ()

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    @property
    def n_values(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Observed:
    """What an environment's observations are.

    Attributes:
        parts: one, or several of a Dict or Tuple, in the order of the space; a mask comes last.
        stacked: observations ``[K, H, W]`` are K frames over time, the newest last, as the environment says.
        left_out: parts that no network reads, such as texts.
    """

    parts: Annotated[tuple[Part, ...], Field(min_length=1, max_length=256)]
    stacked: bool = False
    left_out: tuple[str, ...] = ()

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    def without(self, names: Sequence[str], place: str) -> Observed:
        """The same, with parts hidden.

        Raises:
            UsageError: a part is unknown, or none is left.
        """
        known = [part.name for part in self.parts if part.kind != "mask"]
        unknown = [name for name in names if name not in known]
        if unknown or (names and len(set(names)) == len(known)):
            problem = f"no part {unknown[0]!r}" if unknown else "no part is left"
            raise UsageError(
                f"env.hidden: {problem}", place=place, hint=f"available: {', '.join(map(repr, known))}"
            )
        parts = [replace(part, kind="hidden") if part.name in names else part for part in self.parts]
        return replace(self, parts=tuple(parts))

    @property
    def is_single(self) -> bool:
        """Whether observations stay as the environment gives them."""
        return len(self.parts) == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an observation as one array."""
        return self.parts[0].shape if self.is_single else (sum(part.n_values for part in self.parts),)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an observation as one array: of several parts the smallest that holds all values exactly."""
        if self.is_single:
            return np.dtype(self.parts[0].dtype)
        return np.result_type(*(_holder(part) for part in self.parts))

    @property
    def mask(self) -> slice | None:
        """Where the mask of actions is in the array."""
        if self.parts[-1].kind != "mask":
            return None
        return slice(self.shape[0] - self.parts[-1].n_values, self.shape[0])

    def pack(self, raw: Any, n: int, mask: np.ndarray | None = None) -> np.ndarray:
        """Observations of n copies as one array ``[n, ...]``, a copy of the values.

        Args:
            raw: as the environment gives them, with a leading axis of copies.
            n: number of copies.
            mask: allowed actions, ``[n, A]``, where ``info`` has them.

        Raises:
            ValueError: a part has another shape than its space, or chooses what its space does not have.
            KeyError: a part is missing; IndexError, TypeError: so is what should hold it.
        """
        if self.is_single:
            return np.array(_checked(_at(raw, self.parts[0].name), self.parts[0])).reshape(n, *self.shape)
        found = []
        for part in self.parts:
            value = mask if part.kind == "mask" and not _has(raw, part.name) else _at(raw, part.name)
            if value is None:
                value = np.ones((n, *part.shape), part.dtype)
            values = _checked(value, part).reshape(n, part.n_values)
            found.append(values.astype(self.dtype, copy=False))
        return np.concatenate(found, 1)

    def is_one(self, raw: Any) -> bool:
        """Whether it is a single observation and not a batch.

        Raises:
            ValueError: it is neither.
        """
        part = self.parts[0]
        shape, found = part.shape, np.shape(_at(raw, part.name))
        scalar = shape == (1,) and found == ()
        if scalar or found == shape:
            return True
        if found[1:] == shape or (shape == (1,) and len(found) == 1):
            return False
        raise ValueError(f"an observation of shape {list(found)}; the policy was trained for {list(shape)}")

    def length_of(self, raw: Any) -> int:
        """Observations in a batch."""
        return int(np.shape(_at(raw, self.parts[0].name))[0])


def with_axis(one: Any) -> Any:
    """One observation as a batch of one."""
    if isinstance(one, Mapping):
        return {key: with_axis(value) for key, value in one.items()}
    if isinstance(one, tuple):
        return tuple(with_axis(value) for value in one)
    return np.asarray(one)[None]


def _holder(part: Part) -> np.dtype[Any]:
    """The dtype that holds a part's values beside others: choices are small numbers."""
    if part.kind in ("choices", "mask"):
        ends = [first + n for first, n in zip(part.first_choices, part.choices, strict=True)]
        is_small = max(ends, default=1) <= 256 and min(part.first_choices, default=0) >= 0
        return np.dtype(np.uint8 if is_small else np.float32)
    return np.dtype(part.dtype)


def _checked(value: Any, part: Part) -> np.ndarray:
    """The values of a part as an array, where they are what its space says."""
    found = np.asarray(value)
    if part.kind in ("numbers", "picture", "planes") and (found.shape[1:] or (1,)) != part.shape:
        raise ValueError(f"shape {list(found.shape[1:])}, not {list(part.shape)}")
    if part.kind == "choices":
        rows = found.reshape(-1, part.n_values)
        first = np.array(part.first_choices)
        wrong = (rows < first) | (rows >= first + np.array(part.choices))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            start, n = part.first_choices[column], part.choices[column]
            raise ValueError(f"{rows[row, column]} is not one of {start}..{start + n - 1}")
    return found


def _at(raw: Any, name: str) -> Any:
    """The part of a name: keys of a Dict may be numbers, or have dots in them."""
    if not name:
        return raw
    if not isinstance(raw, Mapping):
        index, _, rest = name.partition(".")
        return _at(raw[int(index)], rest)
    keys = {str(key): key for key in raw}
    if name in keys:
        return raw[keys[name]]
    outer = next((text for text in keys if name.startswith(f"{text}.")), None)
    if outer is None:
        raise KeyError(name)
    return _at(raw[keys[outer]], name.removeprefix(f"{outer}."))


def _has(raw: Any, name: str) -> bool:
    try:
        _at(raw, name)
    except (KeyError, IndexError, ValueError, TypeError):
        return False
    return True


def observed_of(space: Any, place: str, n_masked: int = 0, *, stacked: bool = False) -> Observed:
    """What the observations of a space are.

    Args:
        space: of gymnasium, of one copy.
        place: name of the environment, for messages.
        n_masked: number of actions that ``info`` allows or not; 0 where it does not say.
        stacked: the environment stacks frames over time.

    Raises:
        UsageError: the space has nothing that a network reads.
    """
    parts, left_out = [], []
    for name, one in _leaves(space, ""):
        kind = type(one).__name__
        if kind in ("Text", "MissionSpace") and name:
            left_out.append(name)
            continue
        parts.append(_part(name, one, place))
    if n_masked and not any(part.kind == "mask" for part in parts):
        parts.append(Part(MASK, "mask", (n_masked,), "int8"))
    parts.sort(key=lambda part: part.kind == "mask")
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise UsageError(
            "two parts of its observations have the same name, with dots between keys", place=place
        )
    if not parts or parts[0].kind == "mask":
        raise UsageError(f"observation space {type(space).__name__}: no part that can be read", place=place)
    is_stack = stacked and len(parts) == 1 and parts[0].layout == "chw"
    return Observed(tuple(parts), is_stack, tuple(left_out))


def _leaves(space: Any, name: str) -> Iterator[tuple[str, Any]]:
    from gymnasium.spaces import Dict, Tuple

    inside: list[tuple[Any, Any]] = []
    if isinstance(space, Dict):
        inside = list(space.spaces.items())
    elif isinstance(space, Tuple):
        inside = list(enumerate(space.spaces))
    else:
        yield name, space
    for key, one in inside:
        yield from _leaves(one, f"{name}.{key}" if name else str(key))


def _part(name: str, space: Any, place: str) -> Part:
    from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

    if isinstance(space, Discrete | MultiDiscrete):
        counts = [int(n) for n in np.ravel(space.nvec if isinstance(space, MultiDiscrete) else space.n)]
        if sum(counts) > MOST_CHOICES:
            raise UsageError(
                f"observation {name or 'space'} has {sum(counts):,} values; at most {MOST_CHOICES:,}",
                place=place,
            )
        starts = tuple(int(n) for n in np.ravel(space.start))
        if name.split(".")[-1] == MASK:
            raise UsageError(
                f"{name} is {type(space).__name__}; a mask of actions is a Box or MultiBinary", place=place
            )
        return Part(
            name, "choices", (len(counts),), str(space.dtype), choices=tuple(counts), first_choices=starts
        )
    if not isinstance(space, Box | MultiBinary):
        what = (
            f"part {name!r} is {type(space).__name__}"
            if name
            else f"observation space {type(space).__name__}"
        )
        raise UsageError(
            f"{what}; supported: Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these",
            place=place,
        )
    shape = tuple(int(n) for n in space.shape) or (1,)
    if name.split(".")[-1] == MASK:
        return Part(name, "mask", (math.prod(shape),), str(space.dtype))
    if 0 in shape:
        raise UsageError(f"observations of shape {list(shape)} are empty", place=place)
    return _array_part(name, shape, np.dtype(space.dtype), *_bounds(space), place)


def _bounds(space: Any) -> tuple[float, float]:
    """The bounds of all values; infinite where they differ."""
    if not hasattr(space, "low"):
        return 0.0, 1.0
    low, high = np.asarray(space.low), np.asarray(space.high)
    same = bool((low == low.flat[0]).all() and (high == high.flat[0]).all())
    return (float(low.flat[0]), float(high.flat[0])) if same else (-np.inf, np.inf)


def _array_part(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], low: float, high: float, place: str
) -> Part:
    """A Box: a picture where its bounds say so, else numbers."""
    is_bytes = (low, high) == (0.0, 255.0)
    is_unit = (low, high) == (0.0, 1.0)
    scale = 255.0 if is_bytes else 1.0
    if len(shape) == 4 and is_bytes and shape[-1] in (1, 3, 4) and min(shape[1:3]) >= SMALLEST_FRAME:
        return Part(name, "picture", shape, str(dtype), "shwc", scale)
    if len(shape) == 2 and (is_bytes or is_unit) and min(shape) >= SMALLEST_FRAME:
        return Part(name, "picture", shape, str(dtype), "hw", scale)
    if len(shape) != 3:
        return Part(name, "numbers", shape, str(dtype))
    first, _, last = shape
    if not is_bytes and last <= min(shape[:2]) and max(shape[:2]) < SMALLEST_FRAME:
        return Part(name, "planes", shape, str(dtype), "hwc")
    if first == last:
        raise UsageError(
            f"observations of shape {list(shape)}: it is not clear which axis is that of the channels",
            place=place,
            hint="the channels are the smaller of the first and the last axis",
        )
    return Part(name, "picture", shape, str(dtype), "chw" if first < last else "hwc", scale)


def observed_of_shape(shape: tuple[int, ...]) -> Observed:
    """What observations of a shape were in version 0.1, whose policy files do not say more."""
    if len(shape) == 3 and min(shape[1:]) >= SMALLEST_FRAME:
        return Observed((Part("", "picture", shape, "uint8", "chw", 255.0),))
    if len(shape) == 3:
        return Observed((Part("", "planes", shape, "float32", "hwc"),))
    return Observed((Part("", "numbers", shape, "float32"),))
