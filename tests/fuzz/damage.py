"""Files with random damage, above all in what they say of themselves."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

JUNK: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    10**12,
    10**400,
    0.5,
    -1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "12",
    "\x1b]0;title\x07",
    "\udce4",
    "../../etc/passwd",
    [],
    [0],
    [1, 2, 3],
    ["a", None],
    [[[[]]]],
    {},
    {"a": 1},
)
"""Values of other types, or of a size that nothing has."""


def damage_json(text: str, rng: random.Random) -> str:
    """A JSON text with one value replaced, removed, added, doubled or renamed; or broken as text."""
    try:
        content = json.loads(text)
    except ValueError:
        return damage_text(text, rng)
    if rng.random() < 0.15:
        return damage_text(text, rng)
    if rng.random() < 0.02:
        return "[" * 20_000 + "]" * 20_000
    holder = [copy.deepcopy(content)]
    places: list[tuple[Any, Any]] = []
    _collect(holder, places)
    container, key = rng.choice(places)
    kind = rng.choice(("replace", "replace", "replace", "scale", "remove", "add", "rename"))
    value = container[key]
    if kind == "scale" and isinstance(value, int | float) and not isinstance(value, bool):
        container[key] = rng.choice((-value, value * 2, value + 1, value * 10**6, value / 3, str(value)))
    elif kind == "remove" and container is not holder:
        del container[key]
    elif kind == "add" and isinstance(value, dict):
        value[rng.choice(("new", "kind", "format", "version"))] = rng.choice(JUNK)
    elif kind == "add" and isinstance(value, list):
        value.extend(rng.choice((copy.deepcopy(value), [rng.choice(JUNK)])))
    elif kind == "rename" and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    else:
        container[key] = copy.deepcopy(rng.choice(JUNK))
    return json.dumps(holder[0], ensure_ascii=rng.random() < 0.9)


def _collect(container: Any, places: list[tuple[Any, Any]]) -> None:
    keys = list(container) if isinstance(container, dict) else range(len(container))
    for key in keys:
        places.append((container, key))
        if isinstance(container[key], dict | list):
            _collect(container[key], places)


def damage_text(text: str, rng: random.Random) -> str:
    """A text that is cut, or has a letter replaced, added or removed."""
    at = rng.randrange(len(text) + 1)
    junk = rng.choice(
        ('"', "{", "}", "[", "\0", "\t", ":", "&a", "*a", "!!python/object", "- ", "\n", "é", "9")
    )
    return rng.choice((text[:at], text[:at] + junk + text[at:], text[:at] + text[at + 1 :], ""))


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with some flipped, cut, doubled or exchanged."""
    changed = bytearray(data)
    kind = rng.choice(("flip", "flip", "cut", "double", "swap", "append"))
    at = rng.randrange(len(changed)) if changed else 0
    if kind == "cut" or not changed:
        return bytes(changed[:at])
    if kind == "double":
        return bytes(changed[:at] + changed[max(0, at - 100) : at] + changed[at:])
    if kind == "append":
        return bytes(changed) + rng.randbytes(rng.randrange(1, 100))
    if kind == "swap":
        other = rng.randrange(len(changed))
        changed[at], changed[other] = changed[other], changed[at]
        return bytes(changed)
    for _ in range(rng.choice((1, 1, 8))):
        first = min(len(changed), 400) if rng.random() < 0.5 else len(changed)
        changed[rng.randrange(first)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def damage_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file that is still one in most cases, with its metadata, shapes, types, names or values changed."""
    if rng.random() < 0.2:
        return damage_bytes(data, rng)
    (n,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(data[8 : 8 + n])
    body = bytearray(data[8 + n :])
    metadata: dict[str, str] = header.get("__metadata__", {})
    names = [name for name in header if name != "__metadata__"]
    if metadata and rng.random() < 0.6:
        key = rng.choice(sorted(metadata))
        if rng.random() < 0.05:
            del metadata[key]
        elif rng.random() < 0.05:
            metadata[key] = rng.choice([value for value in JUNK if isinstance(value, str)])
        else:
            metadata[key] = damage_json(metadata[key], rng)
    else:
        rng.choice(_TENSOR_EDITS)(header, rng.choice(names), body, rng)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def _other_shape(header: dict[str, Any], name: str, body: bytearray, rng: random.Random) -> None:
    shape = header[name]["shape"]
    header[name]["shape"] = rng.choice(
        (
            shape[::-1],
            [*shape, 1],
            [1, *shape],
            shape[1:],
            [side * 2 for side in shape],
            [2**40, *shape],
            [-1],
            [0],
        )
    )


def _other_type(header: dict[str, Any], name: str, body: bytearray, rng: random.Random) -> None:
    same_size = {
        "F32": ("I32", "U32"),
        "F16": ("BF16", "I16"),
        "I64": ("F64", "U64", "C64"),
        "U8": ("I8", "BOOL", "F8_E4M3"),
    }
    others = (*same_size.get(header[name]["dtype"], ()), "F64", "X9", 7)
    header[name]["dtype"] = rng.choice(others)


def _swap_names(header: dict[str, Any], name: str, body: bytearray, rng: random.Random) -> None:
    other = rng.choice([key for key in header if key != "__metadata__"])
    header[name], header[other] = header[other], header[name]


def _rename(header: dict[str, Any], name: str, body: bytearray, rng: random.Random) -> None:
    header[rng.choice((f"{name}.x", "", "weight", "\x1b[2J"))] = header.pop(name)


def _remove_last(header: dict[str, Any], name: str, body: bytearray, rng: random.Random) -> None:
    """The last tensor of the data, with its data, so that the file stays whole."""
    last = max(
        (key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"][1]
    )
    del body[header.pop(last)["data_offsets"][0] :]


def _offsets(header: dict[str, Any], name: str, body: bytearray, rng: random.Random) -> None:
    header[name]["data_offsets"][rng.randrange(2)] = rng.choice((0, 1, -1, 2**40, 2**64, None, "0"))


def _values(header: dict[str, Any], name: str, body: bytearray, rng: random.Random) -> None:
    first, last = header[name]["data_offsets"]
    if last > first:
        body[first:last] = rng.choice(
            (b"\xff" * (last - first), rng.randbytes(last - first), bytes(last - first))
        )


_TENSOR_EDITS: tuple[Callable[[dict[str, Any], str, bytearray, random.Random], None], ...] = (
    _other_shape,
    _other_type,
    _swap_names,
    _rename,
    _remove_last,
    _offsets,
    _values,
)
