"""The whole state of simple environments as plain data, so that a training resumes in the middle of its episodes.

Classic control, toy text and MinAtar keep all they know in numbers, arrays and generators, and so do the wrappers and
vector environments of gymnasium. Anything else makes the state unknown, and new episodes begin.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

_KNOWN = (
    "gymnasium.envs.classic_control.",
    "gymnasium.envs.toy_text.",
    "gymnasium.vector.",
    "gymnasium.wrappers.",
    "minatar.",
    "effcli.rl_distill.environments.distractors.",
)
_CONSTANT = ("gymnasium.spaces.", "gymnasium.envs.registration")
_CONSTANT_NAMES = ("P", "initial_state_distrib", "metadata", "spec", "_cached_spec", "env_fns")
Encoded = tuple[str, Any]


class _UnknownError(Exception):
    """Something that is not plain data."""


def state_of(env: Any) -> Encoded | None:
    """The state of an environment and all inside it; None where it is not known.

    The content is what a checkpoint holds: tensors, texts, numbers, tuples, lists and dicts.
    """
    try:
        return _encode(env)
    except _UnknownError:
        return None


def restore_state(env: Any, state: Encoded) -> bool:
    """Put a state into an environment that was made and reset in the same way; False where it does not fit."""
    try:
        if state_of(env) is None:
            return False
        _restore(env, state)
    except (_UnknownError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        return False
    return True


def _encode(value: Any) -> Encoded:
    module = f"{type(value).__module__}."
    if value is None or type(value) in (bool, int, float, str):
        return "plain", value
    if isinstance(value, np.random.Generator):
        return "generator", json.dumps(value.bit_generator.state, default=_listed)
    if isinstance(value, np.random.RandomState):
        return "random", json.dumps(value.get_state(), default=_listed)
    if isinstance(value, np.str_):
        return "plain", str(value)
    if isinstance(value, np.ndarray | np.generic):
        return _encoded_array(value)
    if type(value) in (list, tuple):
        return type(value).__name__, [_encode(one) for one in value]
    if type(value) is dict:
        return "dict", [(_encode(key), _encode(one)) for key, one in value.items()]
    if callable(value) or module.startswith(_CONSTANT) or _is_enum(value):
        return "same", None
    if module.startswith(_KNOWN):
        names = [name for name in vars(value) if name not in _CONSTANT_NAMES]
        return "object", {name: _encode(getattr(value, name)) for name in names}
    raise _UnknownError(module)


def _listed(value: Any) -> Any:
    return value.tolist()


def _is_enum(value: Any) -> bool:
    from enum import Enum

    return isinstance(value, Enum)


def _encoded_array(value: Any) -> Encoded:
    if value.dtype.kind == "S":  # maps of toy text, which never change
        return "same", None
    if value.dtype.kind not in "biuf":
        raise _UnknownError(value.dtype)
    name = "array" if isinstance(value, np.ndarray) else "scalar"
    return name, (str(value.dtype), torch.from_numpy(np.array(value)))


def _restore(value: Any, state: Encoded) -> Any:
    """The value that a state says; objects and generators are changed in place."""
    kind, content = state
    if kind == "same":
        return value
    if kind == "plain":
        return content
    if kind == "generator":
        value.bit_generator.state = json.loads(content)
        return value
    if kind == "random":
        name, keys, *rest = json.loads(content)
        value.set_state((name, np.array(keys, np.uint32), *rest))
        return value
    if kind in ("array", "scalar"):
        array = np.array(content[1].numpy(), dtype=content[0])
        return array if kind == "array" else array[()]
    if kind == "dict":
        keys = [_restore(None, key) for key, _ in content]
        return {
            key: _restore((value or {}).get(key), one) for key, (_, one) in zip(keys, content, strict=True)
        }
    if kind == "object":
        for name, one in content.items():
            setattr(value, name, _restore(getattr(value, name, None), one))
        return value
    known = list(value) if isinstance(value, list | tuple) else []
    known += [None] * (len(content) - len(known))
    found = [_restore(one, part) for one, part in zip(known, content, strict=False)]
    return found if kind == "list" else tuple(found)
