"""``effcli``: the root command. Sub-commands are imported when they are used, so help stays fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from effcli import __version__
from effcli.core.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EffcliError,
    InterruptedRunError,
    RunError,
    UsageError,
)
from effcli.core.registry import TASKS
from effcli.core.resuming.stop import interrupts_after_imports, was_interrupted
from effcli.core.threads import wait_passively

from .common.groups import LazyGroup
from .common.output import (
    give_up_stdout,
    prepare_streams,
    print_error,
    print_error_json,
    print_lines,
    print_traceback,
)

RENAMED_OPTIONS = {"--algo": "--method", "--paper": "--pairing asap"}
"""Options of version 0.1 -> what they are called now."""


class _Root(LazyGroup):
    table = {name: (task.cli, task.summary) for name, task in TASKS.items()} | {
        "recipes": ("effcli.cli.recipes", "List, show, copy and check recipes."),
        "report": ("effcli.cli.report", "Rebuild the reports of runs."),
        "compare": ("effcli.cli.compare", "Compare runs in one table: mean and spread over seeds."),
        "verify": ("effcli.cli.verify", "Test a method's claim on this machine."),
        "doctor": ("effcli.cli.doctor", "Print the devices, precision and kernels of this machine."),
    }


app = typer.Typer(cls=_Root, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_lines([f"effcli {__version__}"])
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Vision models made smaller, faster, or able to keep learning."""


def main() -> None:
    """Run the command line and leave with its exit code (0, 1, 2, 3, 4 or 130)."""
    wait_passively()
    arguments = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    prepare_streams()
    wants_json, verbose = "--json" in arguments, not {"-v", "--verbose"}.isdisjoint(arguments)
    try:
        with interrupts_after_imports():
            code = app(standalone_mode=False)
            print_lines([])  # what is still in the buffer
    except BrokenPipeError:  # the reader of our stdout left: `effcli recipes ls | head -1`
        give_up_stdout()
        raise SystemExit(EXIT_DONE) from None
    except (KeyboardInterrupt, typer.Abort):
        code = _fail(InterruptedRunError("interrupted"), wants_json, verbose)
    except Exception as error:
        if was_interrupted() or _follows_an_interrupt(error):
            code = _fail(InterruptedRunError("interrupted"), wants_json, verbose)
        elif isinstance(error, typer.TyperException):
            code = _fail(_as_usage_error(error), wants_json, verbose)
        elif isinstance(error, EffcliError):
            code = _fail(error, wants_json, verbose)
        else:
            code = _unexpected(error, wants_json, verbose)
    raise SystemExit(code if isinstance(code, int) else EXIT_DONE)


def _follows_an_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C or SIGTERM is behind the error: `__set_name__` makes a RuntimeError of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail(error: EffcliError, wants_json: bool, verbose: bool) -> int:
    if verbose and error.exit_code not in {UsageError.exit_code, EXIT_INTERRUPTED}:
        print_traceback(error)
    print_error(error)
    try:
        if wants_json:
            print_error_json(error)
        sys.stdout.flush()
    except (OSError, RunError):  # a full disk takes no JSON either
        give_up_stdout()
    return error.exit_code


def _as_usage_error(error: typer.TyperException) -> UsageError:
    message = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "effcli"
    text = " ".join(message.split()).replace("Value error, ", "")
    old = getattr(error, "option_name", None)
    if old in RENAMED_OPTIONS:
        text = f"{old} is now called {RENAMED_OPTIONS[old]}"
    return UsageError(text, hint=f"{path} --help")


def _unexpected(error: Exception, wants_json: bool, verbose: bool) -> int:
    """An unforeseen exception: one line, and how to see more."""
    if verbose:
        print_traceback(error)
    kind = type(error).__name__
    text = " ".join(str(error).split())[:300]
    failure = EffcliError(f"{kind}: {text}", hint=None if verbose else "run again with -v for the traceback")
    failure.code = "unexpected"
    return _fail(failure, wants_json, verbose=False)
