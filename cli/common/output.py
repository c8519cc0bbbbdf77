"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from effcli.core.errors import EffcliError
from effcli.core.progress import NOTICE

if TYPE_CHECKING:
    from effcli.core.recipe import Recipe


def is_main_process() -> bool:
    """True in the one process that prints and writes, among those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def print_result(result: dict[str, Any], paths: Iterable[str], *, as_json: bool) -> None:
    """Print one JSON object, or the path of each thing made, one a line; in the main process only."""
    if not is_main_process():
        return
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        for path in paths:
            print(path)


def print_plan(recipe: Recipe, plan: dict[str, Any], *, as_json: bool) -> None:
    """Print what ``--dry-run`` found: the resolved recipe and the plan."""
    from effcli.core.recipe import dump_recipe

    lines = [f"#   {key}: {value}" for key, value in _dotted(plan)]
    content = {"recipe": recipe.model_dump(mode="json"), "plan": plan}
    print_result(content, [*dump_recipe(recipe).splitlines(), "# plan", *lines], as_json=as_json)


def print_table(rows: list[list[str]], header: list[str]) -> None:
    """Print an aligned plain table on stdout; in the main process only."""
    if not is_main_process():
        return
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print numbers by name as a table; those inside another name one a line."""
    print_table([[name, text_of(value)] for name, value in _dotted(metrics)], ["metric", "value"])


def _dotted(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """Values by name; those inside another name one by one, as ``outer.inner``."""
    pairs = []
    for name, value in values.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        pairs += [(f"{name}.{key}".rstrip("."), one) for key, one in inner]
    return pairs


def text_of(value: Any) -> str:
    """A value for people; numbers to five digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def give_up_stdout() -> None:
    """Nobody reads stdout, or it cannot be written: what is still in its buffer goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(error: EffcliError) -> None:
    """Print ``error: …`` for each line of the message and the hint, on stderr."""
    prefix = f"{error.place}: " if error.place else ""
    for line in error.message.splitlines():
        print(f"error: {prefix}{line}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def print_error_json(error: EffcliError) -> None:
    """Print the failure as the one JSON object on stdout; in the main process only."""
    if not is_main_process():
        return
    content = {"code": error.code, "place": error.place, "message": error.message, "hint": error.hint}
    print(json.dumps({"error": content}, ensure_ascii=False))


def configure_logging(*, quiet: bool, verbose: bool) -> None:
    """Send the library's log to stderr: notices and warnings, with ``-v`` everything, with ``-q`` only errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.INFO if verbose else NOTICE)
    logging.raiseExceptions = False  # a log that cannot be written must not end the work
    logger = logging.getLogger("effcli")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def print_traceback(error: BaseException) -> None:
    """Print the traceback of ``error`` on stderr."""
    traceback.print_exception(error, file=sys.stderr)
