"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from effcli.core.errors import EffcliError, RunError
from effcli.core.progress import NOTICE
from effcli.core.text import printable

if TYPE_CHECKING:
    from effcli.core.recipe import Recipe


def is_main_process() -> bool:
    """True in the one process that prints and writes, among those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def print_result(result: dict[str, Any], paths: Iterable[str], *, as_json: bool) -> None:
    """Print one JSON object, or one path per line; in the main process only."""
    if not is_main_process():
        return
    if as_json:
        print_json(result)
    else:
        is_seen = sys.stdout.isatty()
        print_lines(printable(path) if is_seen else path for path in paths)


def print_json(content: dict[str, Any]) -> None:
    """Print an object as one line of ASCII, which is valid whatever the names of files and the locale are.

    A byte of a name that is no UTF-8 is a lone surrogate, as Python has it: ``os.fsencode`` gives the name back.
    """
    print_lines([json.dumps(content)])


def print_lines(lines: Iterable[str]) -> None:
    """Print on stdout, at once.

    Raises:
        RunError: stdout is closed or full.
        BrokenPipeError: its reader left.
    """
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_error(error) from None


def print_bytes(content: bytes) -> None:
    """Write a file's content on stdout, at once.

    Raises:
        RunError: stdout is closed or full.
        BrokenPipeError: its reader left.
    """
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_error(error) from None


def stdout_error(error: OSError) -> RunError:
    """What is said when stdout does not take a result; nothing more goes there."""
    give_up_stdout()
    return RunError(f"cannot be written: {error.strerror or error}", place="stdout")


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
    cells = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print_lines(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print metrics as a table; nested ones as ``outer.inner``, one per line."""
    print_table([[name, text_of(value)] for name, value in _dotted(metrics)], ["metric", "value"])


def _dotted(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """Values by name; those inside another name one by one, as ``outer.inner``."""
    pairs = []
    for name, value in values.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        pairs += [(f"{name}.{key}".rstrip("."), one) for key, one in inner]
    return pairs


def text_of(value: Any) -> str:
    """A value as text; floats to five digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def prepare_streams() -> None:
    """Let stdout take any name of a file, and a process that was started without stdout or stderr have them closed.

    Otherwise the next file that is opened gets the number 1, and what is printed ends in it.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass  # writing to a file that is open for reading fails, as it should
    os.close(number)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are not UTF-8, byte by byte


def give_up_stdout() -> None:
    """Nobody reads stdout, or it cannot be written: what is still in its buffer goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(error: EffcliError) -> None:
    """Print ``error: …``, once per mistake where the message lists several, and the hint, on stderr."""
    prefix = f"{error.place}: " if error.place else ""
    messages = error.message.split("\n") if error.is_list else [error.message]
    for line in messages:
        print_note(f"error: {prefix}{line}")
    if error.hint:
        print_note(f"hint: {error.hint}")


def print_note(text: str) -> None:
    """Print one line on stderr, with nothing in it that a terminal would obey."""
    print(printable(text), file=sys.stderr, flush=True)


def print_error_json(error: EffcliError) -> None:
    """Print the failure as the one JSON object on stdout; in the main process only."""
    if not is_main_process():
        return
    content = {"code": error.code, "place": error.place, "message": error.message, "hint": error.hint}
    print_json({"error": content})


_NOISY = ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""Loggers of others that warn while they import torchao, which diffusers does wherever it is installed."""


class _Printable(logging.Formatter):
    """Messages with nothing in them that a terminal would obey."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        return "\n".join(map(printable, super().formatMessage(record).split("\n")))


def configure_logging(*, quiet: bool, verbose: bool) -> None:
    """Send the library's log to stderr: notices and warnings, with ``-v`` everything, with ``-q`` only errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.INFO if verbose else NOTICE)
    logging.raiseExceptions = False  # a log that cannot be written must not end the work
    logger = logging.getLogger("effcli")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def print_traceback(error: BaseException) -> None:
    """Print the traceback of ``error`` on stderr."""
    traceback.print_exception(error, file=sys.stderr)
