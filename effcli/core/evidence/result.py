"""``result.json``: what a run reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from effcli.core.errors import UsageError
from effcli.core.files import read_json

if TYPE_CHECKING:
    from effcli.core.runtime import Runtime

SCHEMA = 1
_KEYS = {"schema", "task", "verb", "method", "recipe", "output", "metrics", "timing", "environment"}


@dataclass(frozen=True)
class Result:
    """What a run reports; :meth:`to_json` is the object that ``--json`` prints."""

    task: str
    verb: str
    method: str
    recipe: str
    output: str
    metrics: dict[str, Any]
    timing: dict[str, float]
    environment: dict[str, Any]
    schema: int = SCHEMA
    figures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; numbers that JSON lacks (NaN, inf) become None."""
        content: dict[str, Any] = finite(asdict(self))
        return content


def result_of_verb(
    task: str,
    verb: str,
    method: str,
    *,
    recipe: str,
    output: str | Path,
    metrics: Mapping[str, Any],
    runtime: Runtime,
    total_s: float,
) -> Result:
    """The result of a verb that fills no run directory, such as ``eval``.

    Args:
        task, verb, method: what was called.
        recipe: what says the settings: a recipe's name, or the name of the run, file or model that was used.
        output: what was measured or made; empty where it went to stdout.
        metrics: the task's numbers, by their contract names.
        runtime: where it was computed.
        total_s: seconds of work.
    """
    assert recipe, "a result names what its settings come from"
    return Result(
        task=task,
        verb=verb,
        method=method,
        recipe=recipe,
        output=str(output),
        metrics=dict(metrics),
        timing={"total_s": round(total_s, 3)},
        environment=runtime.describe(),
    )


class _ResultFile(BaseModel):
    """The types of what is in ``result.json``."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    task: str
    verb: str
    method: str
    recipe: str
    output: str
    metrics: dict[str, Any]
    timing: dict[str, float | None]
    environment: dict[str, Any]
    schema_: int = Field(alias="schema")
    figures: dict[str, str] = Field(default_factory=dict)


def finite(value: Any) -> Any:
    """Make ``value`` fit for JSON at any depth: NaN and inf become None, arrays and tensors lists or numbers."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if hasattr(value, "tolist"):  # NumPy's and PyTorch's values
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield ``(dotted name, value)`` for every number in nested metrics; None (NaN, inf) and lists are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def read_result(path: Path) -> dict[str, Any]:
    """Read ``result.json`` of a run directory.

    Raises:
        UsageError: the directory holds no finished run.
    """
    file = path / "result.json"
    if not file.is_file():
        state = "an unfinished run" if (path / "recipe.yaml").exists() else "not a run directory"
        raise UsageError(f"{state}: there is no result.json", place=str(path))
    content = read_json(file)
    if content.keys() >= _KEYS and content["schema"] != SCHEMA:
        raise UsageError("was written by another version of effcli", place=str(file))
    try:
        _ResultFile.model_validate(content)
        found = dict(numbers(content["metrics"]))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        what = f"is not the result of an effcli run: {where}: {error.errors()[0]['msg']}"
        raise UsageError(what, place=str(file)) from None
    except (OverflowError, RecursionError):
        raise UsageError("is not the result of an effcli run", place=str(file)) from None
    for name, value in found.items():
        if not math.isfinite(value):
            raise UsageError(f"{name} is {value}", place=str(file))
    return content
