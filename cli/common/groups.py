"""Command groups: sub-commands imported only when used, and a default verb."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


class LazyGroup(TyperGroup):
    """The root group: lists every command from a table, imports one when its name is used.

    ``table`` maps a name to ``(module with a Typer app, one-line summary)``; a subclass sets it.
    """

    table: ClassVar[dict[str, tuple[str, str]]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, (_, summary) in self.table.items():
            self.add_command(TyperCommand(name=name, help=summary, callback=lambda: None))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Swap the stub for the real command."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in self.table:
            command = typer.main.get_command(import_module(self.table[name][0]).app)
            command.name = name
        return name, command, rest


class DefaultVerbGroup(TyperGroup):
    """A task's verbs; without a verb, ``run`` is meant. A file named like a verb is written ``./train``."""

    default_verb = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default verb in front where none is given."""
        if not args:
            args = args if self.no_args_is_help else [self.default_verb]
        elif args[0] not in (*self.commands, *ctx.help_option_names) and not self._misspelt(args[0]):
            args = [self.default_verb, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The verbs, and what may follow the default one."""
        default = self.commands[self.default_verb]
        return [*super().shell_complete(ctx, incomplete), *default.shell_complete(ctx, incomplete)]

    def _misspelt(self, token: str) -> bool:
        is_word = token.replace("-", "").isalnum() and not token.startswith(
            "-"
        )  # no path, no name with a colon
        return is_word and bool(get_close_matches(token, self.commands)) and not Path(token).exists()
