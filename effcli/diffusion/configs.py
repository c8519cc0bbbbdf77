"""Configurations of UNets and schedulers as files give them: every known value has the type that diffusers names.

Diffusers itself checks nothing: a text where a number should be fails long after, somewhere in a layer.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

from torch import nn

from effcli.core.errors import InputError
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, NULL_CLASS, PROCESS_CLASSES

_LARGEST = 2**24
_MOST_TIMESTEPS = 10**6
_MOST_PIXELS = 2**14


def config_of(unet: nn.Module) -> dict[str, Any]:
    """The configuration of a UNet of diffusers, as plain JSON values."""
    return plain_config(cast(Mapping[str, Any], unet.config))


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration as plain JSON values, without what depends on the machine."""
    kept = {
        key: value
        for key, value in dict(config).items()
        if key not in {"_name_or_path", "_use_default_values"}
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def check_unet_config(make: Callable[..., Any], config: Mapping[str, Any], place: str) -> None:
    """Refuse a configuration with a value that a network of diffusers cannot have; unknown keys are left to diffusers.

    Args:
        make: its ``__init__``.
        config: the configuration.
        place: its name in messages.

    Raises:
        InputError: there is one.
    """
    _check_types(make, config, place)
    size = config.get("sample_size")
    if size is None:
        return
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _MOST_PIXELS for side in sides):
        what = f"sample_size is {_short(size)}, not a side or (height, width) of 1 to {_MOST_PIXELS} pixels"
        raise InputError(what, place=place)


def check_scheduler_config(config: Mapping[str, Any], place: str) -> None:
    """Refuse a scheduler's configuration that no steps can be made from; see :func:`check_unet_config`.

    Raises:
        InputError: a value is of another type, or out of range.
    """
    import diffusers

    name = config.get("_class_name", "")
    if not isinstance(name, str):
        raise InputError(f"the scheduler's _class_name is {_short(name)}", place=place)
    own = name if name in PROCESS_CLASSES else "DDIMScheduler"
    _check_types(getattr(diffusers, own).__init__, config, place)
    n_steps = config.get("num_train_timesteps", 1000)
    if not 1 <= n_steps <= _MOST_TIMESTEPS:
        raise InputError(f"num_train_timesteps is {n_steps}, not 1 to {_MOST_TIMESTEPS}", place=place)
    null_class = config.get(NULL_CLASS, 0)
    if type(null_class) is not int or null_class < 0:
        raise InputError(f"{NULL_CLASS} is {_short(null_class)}, not a label", place=place)
    distilled = config.get(DISTILLED_TIMESTEPS)
    if distilled is None:
        return
    if not isinstance(distilled, list | tuple) or not distilled:
        raise InputError(f"timesteps of a student are {_short(distilled)}, not a list", place=place)
    for timestep in distilled:
        if own == "DDIMScheduler":
            fits = type(timestep) is int and 0 <= timestep < n_steps
        else:
            fits = type(timestep) in (int, float) and math.isfinite(timestep)
        if not fits:
            limits = f"0 to {n_steps - 1}" if own == "DDIMScheduler" else "a number"
            what = f"a timestep of a student is {_short(timestep)}, not {limits}"
            raise InputError(what, place=place)


def _check_types(function: Callable[..., Any], config: Mapping[str, Any], place: str) -> None:
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name not in config or parameter.annotation is inspect.Parameter.empty:
            continue
        kinds, value = _kinds(parameter.annotation), config[name]
        if not kinds - {NoneType} or (value is None and parameter.default is None):
            continue  # of a type that has no form in JSON of its own, or what diffusers has where nothing is said
        is_list = isinstance(value, list | tuple)
        fits = (list in kinds) if is_list else type(value) in kinds
        leaf_kinds = (
            kinds if kinds - {list, NoneType} else None
        )  # None: of any kind, where it is a list of what it may
        leaves = _leaves(value)
        if not fits or not all(
            _is_plain(v) and (leaf_kinds is None or type(v) in leaf_kinds) for v in leaves
        ):
            wanted = " or ".join(sorted(kind.__name__ for kind in kinds)).replace("NoneType", "null")
            raise InputError(f"{name} is {_short(value)}, not {wanted}", place=place)


def _kinds(annotation: Any) -> set[type]:
    """The types of JSON that an annotation allows, also inside lists; a whole number is a number."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin in (tuple, list) or annotation in (tuple, list):
        inner = [one for one in get_args(annotation) if one is not Ellipsis]
        return {list}.union(*map(_kinds, inner))
    if annotation is float:
        return {float, int}
    return {annotation} if annotation in (int, bool, str, NoneType) else set()


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for one in value for leaf in _leaves(one)]
    return [value]


def _is_plain(value: Any) -> bool:
    """Whether a number is finite and of a size that something can have."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= _LARGEST


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
