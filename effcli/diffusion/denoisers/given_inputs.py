"""A file of inputs for a network: a safetensors file with a tensor per input, one row per image."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.tensor_file import read_tensors
from effcli.diffusion.denoisers.classes import Condition
from effcli.diffusion.denoisers.needs import NeededInput

NULL_PREFIX = "null."
"""Of what stands for "without condition" in guidance: one row, or none."""


def read_inputs(file: str | None, needs: list[NeededInput], source: str) -> tuple[Condition, Condition]:
    """What a file gives of the inputs that a network needs, and what stands for none of it.

    Args:
        file: with tensors ``NAME [N, ...]``, and perhaps ``null.NAME [...]``; None: nothing is given.
        needs: of the network.
        source: its name in messages.

    Raises:
        InputError: the file cannot be read, has no rows or unequal numbers of them, a tensor that is not an input, or
            one of another shape; or an input that only a file can give is missing.
    """
    rows, null = _read(Path(file), needs) if file is not None else ({}, {})
    for need in needs:
        if need.source == "file" and need.name not in rows:
            raise InputError(
                f"its network needs {need}, {need.what}", place=source,
                hint="run with -s condition.inputs=FILE, a .safetensors file (samples use that of the run); "
                + _names(needs),
            )  # fmt: skip
    return rows, null


def _names(needs: list[NeededInput]) -> str:
    return "it may hold " + ", ".join(str(need) for need in needs)


def _read(file: Path, needs: list[NeededInput]) -> tuple[Condition, Condition]:
    place = str(file)
    if not file.is_file():
        raise InputError("no such file", place=place, hint="a .safetensors file of the network's inputs")
    known = {need.name: need for need in needs}
    rows: dict[str, Tensor] = {}
    null: dict[str, Tensor] = {}
    for name, value in read_tensors(file, place)[1].items():
        is_null = name.startswith(NULL_PREFIX)
        own = name.removeprefix(NULL_PREFIX)
        if own not in known:
            raise InputError(f"{own} is not an input of this network", place=place, hint=_names(needs))
        need = known[own]
        if is_null and not need.fits(tuple(value.shape)) and value.shape[:1] == (1,):
            value = value[0]
        if (not is_null and value.ndim == 0) or not need.fits(tuple(value.shape[0 if is_null else 1 :])):
            raise InputError(
                f"{name} has the shape {list(value.shape)}, the network needs {need}", place=place
            )
        (null if is_null else rows)[own] = value.float() if value.is_floating_point() else value
    counts = {name: len(value) for name, value in rows.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        listed = ", ".join(f"{name} {n}" for name, n in counts.items())
        raise InputError(f"its inputs do not have the same number of rows: {listed or 'none'}", place=place)
    return rows, null
