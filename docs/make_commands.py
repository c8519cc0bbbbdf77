"""Write docs/reference/commands.md: the help of every command, as the command prints it.

python docs/make_commands.py            # writes the page
python docs/make_commands.py --check    # exit code 1 when it is stale
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

PAGE = Path(__file__).parent / "reference" / "commands.md"
HEADER = """# Commands

Every command with its options, as `--help` prints them. Written by `python docs/make_commands.py`; a test compares.
"""


def commands() -> Iterator[list[str]]:
    """The words of every command: the root, each command of its table, each verb of those."""
    from effcli.cli.main import _Root

    yield []
    for name, (module, _) in _Root.table.items():
        yield [name]
        command = typer.main.get_command(importlib.import_module(module).app)
        yield from ([name, verb] for verb in getattr(command, "commands", {}))


def help_of(words: list[str]) -> str:
    """What ``effcli WORDS --help`` prints, 100 columns wide, without colours."""
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [str(Path(sys.executable).with_name("effcli")), *words, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """The whole page."""
    parts = [HEADER]
    for words in commands():
        parts.append(f"\n## {' '.join(['effcli', *words])}\n\n```\n{help_of(words)}\n```\n")
    return "".join(parts)


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    text = page()
    if parser.parse_args().check:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
