"""The errors a person sees: one line that says what is wrong, where, and what to do about it.

Everything raised on purpose derives from :class:`EffcliError`. The command line prints it as
``error: PLACE: MESSAGE`` and ``hint: HINT`` and exits with the class's ``exit_code``.
"""

from __future__ import annotations

from effcli.core.text import printable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_CLAIM_FAILED = 4
EXIT_INTERRUPTED = 130


class EffcliError(Exception):
    """A failure that is explained to the user rather than traced.

    Args:
        message: what is wrong, in one line.
        place: where: a file, ``file:line``, a recipe key or an option.
        hint: what the user can do about it.

    Attributes:
        is_list: the message has one line per mistake; else it is one line.
    """

    exit_code: int = EXIT_FAILED
    code: str = "failed"
    is_list: bool = False

    def __init__(self, message: str, *, place: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class UsageError(EffcliError):
    """Wrong options: nothing was started and nothing was written."""

    exit_code = EXIT_USAGE
    code = "usage"


class InputError(UsageError):
    """An input that cannot be used: missing, unreadable, or not what it claims to be.

    What ``message`` quotes from a file (a name, a version) may hold line breaks and control characters: they are
    written out, so that it stays one line.
    """

    code = "bad-input"

    def __init__(self, message: str, *, place: str | None = None, hint: str | None = None) -> None:
        super().__init__(printable(message), place=place, hint=hint)


class RecipeError(UsageError):
    """A recipe with one or more mistakes; ``message`` has one line per mistake."""

    code = "bad-recipe"
    is_list = True


class RunError(EffcliError):
    """Something failed while running; what was finished before is kept."""

    code = "run-failed"


class NonFiniteError(RunError):
    """A loss or a weight became NaN or infinite."""

    code = "not-finite"


class InterruptedRunError(EffcliError):
    """Ctrl-C or SIGTERM: a checkpoint was written where there is something to resume."""

    exit_code = EXIT_INTERRUPTED
    code = "interrupted"
