"""Weights on the disk: safetensors files that are the same bytes for the same content, and those in the package.

A file of our own says in its metadata what it is: ``format`` and ``version``.
"""

from __future__ import annotations

import json
import re
import struct
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from effcli.core.errors import InputError, NonFiniteError
from effcli.core.files import atomic_path

BUILTIN_PREFIX = "builtin:"
"""Of the names of what is in the package."""

_STATE_DICTS = ("state_dict", "model_state_dict", "model_state", "params_ema", "params", "model", "network")
"""Where training scripts of others keep the weights in what they save."""

_MOST_WRAPPERS = 3
"""How deep they may be."""

_OBJECT = re.compile(r"GLOBAL (\w[\w.]*)")
"""What PyTorch says before the name of a class that it does not open."""

_DTYPES = {
    torch.int64: ("I64", 0),
    torch.float64: ("F64", 1),
    torch.float32: ("F32", 2),
    torch.int32: ("I32", 3),
    torch.bfloat16: ("BF16", 4),
    torch.float16: ("F16", 5),
    torch.int16: ("I16", 6),
    torch.int8: ("I8", 7),
    torch.uint8: ("U8", 8),
    torch.bool: ("BOOL", 9),
}
"""Type -> its name in the file, and its place in the order of tensors, by which wide ones are aligned."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically, with the permissions of any new file.

    safetensors writes its metadata in an order that changes from run to run; here it is sorted, so that equal weights
    have equal checksums. Tensors are written one after another, without a copy of all of them.

    Raises:
        RunError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    order = sorted(tensors, key=lambda name: (_DTYPES[tensors[name].dtype][1], name))
    end = 0
    for name in order:
        value = tensors[name]
        first, end = end, end + value.numel() * value.element_size()
        kind = _DTYPES[value.dtype][0]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [first, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            content = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(content.numpy().data)


_OTHER_KINDS = (  # how a file begins -> what it is
    (b"version https://git-lfs", "a Git LFS pointer (the file itself was not downloaded)"),
    (b"PK\x03\x04", "a zip archive, such as a checkpoint of PyTorch"),
    *(
        (bytes([0x80, protocol]), "a pickle, such as an old checkpoint of PyTorch")
        for protocol in (2, 3, 4, 5)
    ),
    (b"GGUF", "a GGUF file"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
)


def _other_kind(path: Path) -> str | None:
    """What a file is that is not of safetensors, where its name or its beginning tells."""
    if path.suffix.lower() == ".onnx":
        return "an ONNX file"
    try:
        with path.open("rb") as file:
            head = file.read(32).lstrip().lower()
    except OSError:
        return None
    return next((kind for start, kind in _OTHER_KINDS if head.startswith(start.lower())), None)


def read_tensors(path: Path, place: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of any safetensors file; ``place`` is its name in messages.

    Raises:
        InputError: it is not there, damaged, or no such file; or a tensor is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        if other := _other_kind(path):
            raise InputError(f"is {other}, not a safetensors file", place=place) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"is damaged or not a safetensors file: {reason}", place=place) from None
    require_finite(tensors, place)
    return metadata, tensors


def require_finite(tensors: Mapping[str, Tensor], place: str) -> None:
    """Refuse weights that are NaN or infinite, or of a type that no network here has.

    Raises:
        InputError: the first tensor that is.
    """
    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise InputError(f"{name} is of type {str(value.dtype).removeprefix('torch.')}", place=place)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            n = int((~torch.isfinite(value)).sum())
            raise InputError(
                f"{name} is not finite: {n} of its {value.numel()} numbers are NaN or infinite",
                place=place,
                hint="the training that wrote it had diverged, or the file is damaged",
            )


def require_finite_output(value: Tensor, what: str, place: str | None = None) -> Tensor:
    """What a network gave, ``value`` itself; so that NaN never becomes a black picture or a score of nothing.

    Args:
        value: of any shape.
        what: it is, for the message.
        place: the input that it is of.

    Raises:
        NonFiniteError: a number in it is NaN or infinite.
    """
    if bool(torch.isfinite(value).all()):
        return value
    raise NonFiniteError(
        f"{what} are NaN or infinite",
        place=place,
        hint="the weights may not fit this input, or the precision is too low: --precision fp32",
    )


def read_pickled_tensors(path: Path, place: str) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save``, alone or inside a training checkpoint; nothing in it is executed.

    Raises:
        InputError: it is not there, damaged, or holds no state dict; or a tensor is not finite.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):  # the options, beside the weights
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a malformed zip or pickle makes the reader raise
        raise InputError(
            f"cannot be read as a checkpoint of tensors only: {_why_not_read(error)}",
            place=place,
            hint="weights are a .safetensors file, or a .pth that holds tensors only",
        ) from None
    for _ in range(_MOST_WRAPPERS):
        if isinstance(content, Mapping):
            inside = (content[key] for key in _STATE_DICTS if isinstance(content.get(key), Mapping))
            content = next(inside, content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError("holds no state dict (names to tensors)", place=place)
    tensors = {str(name): tensor for name, tensor in content.items()}
    require_finite(tensors, place)
    return tensors


def _why_not_read(error: Exception) -> str:
    """What is wrong with a file of ``torch.save``, without the advice of PyTorch to open it nevertheless."""
    text = str(error)
    found = _OBJECT.search(text)
    if found is not None:
        return f"it holds a {found[1]}, and objects are not opened"
    if "Unsupported op" in text:  # of a pickle that makes objects
        return "it holds objects, which are not opened"
    if isinstance(error, (LookupError, UnpicklingError, EOFError)) or not text:
        return "it is damaged, or a file of another kind"
    return text.splitlines()[0].partition(". ")[0][:160]


def has_format(path: Path, format: str) -> bool:
    """Whether a file is a safetensors file whose metadata say this format."""
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("format") == format)
    except (SafetensorError, OSError):
        return False


def require_format(metadata: Mapping[str, str], format: str, version: str, place: str) -> None:
    """Refuse a file of another format or version than ``format`` and ``version``.

    Raises:
        InputError: it is one.
    """
    if metadata.get("format") != format:
        raise InputError(f"is not a file of the format {format}", place=place)
    if metadata.get("version") != version:
        raise InputError(
            f"has format version {metadata.get('version')}, this effcli reads {version}",
            place=place,
            hint="update effcli",
        )


@contextmanager
def builtin_file(source: str, format: str) -> Iterator[Path]:
    """The file of ``builtin:NAME``.

    Args:
        source: the whole name.
        format: as its metadata must say; the hint of the error names the files of this format.

    Raises:
        InputError: there is no such file in the package.
    """
    with as_file(files("effcli.assets")) as folder:
        file = folder / f"{source.removeprefix(BUILTIN_PREFIX)}.safetensors"
        if file.parent != folder or not file.is_file():
            known = sorted(asset.stem for asset in folder.glob("*.safetensors") if has_format(asset, format))
            names = ", ".join(BUILTIN_PREFIX + name for name in known)
            raise InputError("is not in the package", place=source, hint=f"available: {names or 'none'}")
        yield file
