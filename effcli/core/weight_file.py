"""One reader for all weight files of our own: what a file says of itself is checked before it is believed.

Each format has a :class:`Header`: the metadata it needs, with types and bounds. :func:`read_weights` checks them, and
:func:`build_network` builds the network they describe, which may not allocate more than the file's tensors make
plausible, and fills it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from effcli.core.errors import EffcliError, InputError
from effcli.core.tensor_file import read_tensors, require_format

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)
H = TypeVar("H", bound="Header")

_SPARE_ELEMENTS = 2**18
"""What a network may allocate beside its weights: constants, such as the mean of images."""

_SPARE_CALLS, _CALLS_PER_TENSOR = 2**14, 64
"""Calls of torch functions while a network is built: in networks here at most 14 for each tensor."""

_TEMPORARIES = 16
"""How often the weights may be allocated in all while a network is built: initialisation uses copies."""


Count = Annotated[int, Field(ge=1, le=2**24)]
"""How many there are of something: at least one, and not so many that nothing holds them."""

Side = Annotated[int, Field(ge=1, le=2**14)]
"""Pixels of a side of images."""


class Header(BaseModel):
    """The metadata that a format needs; others, such as notes on the training, are left alone.

    Values that are more than text are JSON: their fields are ``Json[...]``.

    Attributes:
        FORMAT, VERSION: as the metadata ``format`` and ``version`` must say.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    FORMAT: ClassVar[str]
    VERSION: ClassVar[str]

    @classmethod
    def require(cls, metadata: Mapping[str, str], place: str) -> None:
        """Refuse a file of another format or version.

        Raises:
            InputError: it is one.
        """
        require_format(metadata, cls.FORMAT, cls.VERSION, place)

    @classmethod
    def parse(cls, metadata: Mapping[str, str], place: str) -> Self:
        """Check the metadata of a file.

        Raises:
            InputError: they are of another format or version, or a value is missing, of another type or out of range.
        """
        cls.require(metadata, place)
        try:
            return cls.model_validate(dict(metadata))
        except ValidationError as error:
            raise InputError(f"its metadata are damaged: {first_mistake(error)}", place=place) from None


def read_weights(path: Any, place: str, header: type[H]) -> tuple[H, dict[str, Tensor]]:
    """The metadata and the tensors of a weight file of ours.

    Args:
        path: of the file.
        place: its name in messages.
        header: of the format.

    Raises:
        InputError: it cannot be read, is of another format or version, its metadata are not what the format needs, or
            a tensor is not finite.
    """
    metadata, tensors = read_tensors(path, place)
    return header.parse(metadata, place), tensors


def build_network(make: Callable[[], N], tensors: Mapping[str, Tensor], place: str) -> N:
    """The network that a file describes, with the file's weights, in evaluation mode.

    Args:
        make: makes it with weights of any value, from sizes that the file gives.
        tensors: the whole state dict of the file.
        place: the file's name in messages.

    Raises:
        InputError: the network cannot be made, is larger than the file's tensors, or has other names, shapes or types.
    """
    n_elements = sum(value.numel() for value in tensors.values())
    network = make_within(make, n_elements, len(tensors), place)
    check_tensors(network.state_dict(), tensors, place)
    network.load_state_dict(dict(tensors))
    return network.eval()


def make_within(make: Callable[[], T], n_elements: int, n_tensors: int, place: str) -> T:
    """What ``make`` makes, unless it allocates far more than ``n_elements`` numbers in ``n_tensors`` tensors.

    Raises:
        InputError: it does, or what the file describes cannot be made at all.
    """
    try:
        with _Budget(n_elements, n_tensors):
            return make()
    except EffcliError as error:
        raise InputError(str(error), place=place, hint=error.hint) from None
    except _TooLargeError:
        reason = (
            f"describes a network that is larger than its {n_elements:,} weights in {n_tensors:,} tensors"
        )
        raise InputError(reason, place=place) from None
    except Exception as error:  # sizes that do not fit together fail in any way, deep in other libraries
        raise InputError(
            f"describes a network that cannot be built: {one_line(error)}", place=place
        ) from None


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], place: str) -> None:
    """Refuse tensors that are not those of a network: other names, shapes, or integers for numbers.

    Raises:
        InputError: the first that differs.
    """
    check_keys(list(expected), list(found), place)
    for name, wanted in expected.items():
        value = found[name]
        if value.shape != wanted.shape:
            shapes = f"{tuple(value.shape)}, the network needs {tuple(wanted.shape)}"
            raise InputError(f"{name} has shape {shapes}", place=place)
        if value.is_floating_point() != wanted.is_floating_point() or (
            not wanted.is_floating_point() and value.dtype != wanted.dtype
        ):
            types = f"{_type_of(value)}, the network needs {_type_of(wanted)}"
            raise InputError(f"{name} is of type {types}", place=place)


def check_keys(expected: Collection[str], found: Collection[str], place: str | None) -> None:
    """Refuse a state dict that has other keys than a network.

    Raises:
        InputError: a key is unknown or missing; the nearest known one is the hint.
    """
    unknown, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    if unknown:
        near = get_close_matches(unknown[0], missing or expected, n=1)
        raise InputError(
            f"has {len(unknown)} unknown keys: {some_names(unknown)}",
            place=place,
            hint=f"the nearest known is {near[0]!r}" if near else None,
        )
    if missing:
        raise InputError(f"lacks {len(missing)} keys: {some_names(missing)}", place=place)


def one_line(error: Exception) -> str:
    """What an exception of another library says, short."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"lacks {text}"[:200] if isinstance(error, KeyError) else text[:200]


def some_names(names: list[str]) -> str:
    """The first three of names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _type_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def first_mistake(error: ValidationError) -> str:
    """The first mistake that pydantic found, as one line: where, what, and the value."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    value = repr(first["input"])
    shown = "" if first["type"] == "missing" else f", not {value if len(value) <= 60 else value[:60] + '...'}"
    return f"{where}: {' '.join(first['msg'].split())}{shown}"


class _TooLargeError(BaseException):
    """Not an Exception: code that makes networks may catch those, and go on."""


class _Budget(TorchFunctionMode):
    """Ends the making of a network that allocates more than its weights make plausible, before it does."""

    def __init__(self, n_elements: int, n_tensors: int) -> None:
        super().__init__()
        self._largest = n_elements + _SPARE_ELEMENTS
        self._left = _TEMPORARIES * self._largest
        self._calls_left = _SPARE_CALLS + _CALLS_PER_TENSOR * n_tensors

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        n = _n_allocated(getattr(func, "__name__", ""), args, kwargs or {})
        self._left -= n
        self._calls_left -= 1
        if n > self._largest or min(self._left, self._calls_left) < 0:
            raise _TooLargeError
        return func(*args, **(kwargs or {}))


_BY_SIZES = {"empty", "zeros", "ones", "rand", "randn"}
_BY_SIZES_OF_TENSOR = {"new_empty", "new_zeros", "new_ones", "repeat", "expand"}
_BY_ONE_SIZE = {"full": 0, "new_full": 1, "arange": 0, "linspace": 2, "randperm": 0}
"""Functions to the position of their size."""


def _n_allocated(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many elements one of the functions that take sizes is about to allocate; 0 for all others."""
    named = [kwargs[name] for name in ("size", "repeats", "end", "steps", "n") if name in kwargs]
    if function in _BY_SIZES:
        return _product([*args, *named])
    if function in _BY_SIZES_OF_TENSOR:
        own = args[0].numel() if function == "repeat" else 1
        return own * _product([*args[1:], *named])
    if function in _BY_ONE_SIZE:
        first = _BY_ONE_SIZE[function]
        chosen = args[:2] if function == "arange" else args[first : first + 1]
        return max((_product([one]) for one in [*chosen, *named]), default=0)
    return 0


def _product(given: list[Any]) -> int:
    """Of the sizes among arguments; a side of -1 stands for what is there already."""
    sides = [side for one in given for side in (one if isinstance(one, list | tuple) else (one,))]
    return math.prod(abs(side) for side in sides if isinstance(side, int) and side not in (0, -1))
