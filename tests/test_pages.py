"""The code blocks of tutorials and how-tos run in the order of the page; the commands of all pages have real options.

Before a block of a tutorial or how-to a comment may stand, which the site does not show:

    <!-- not run: REASON -->           the block is left out
    <!-- tested with: OPTIONS -->      its `effcli` commands get these options too, which make them short
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from effcli.cli.main import _Root

from tests.cli.effcli_on_path import effcli_on_path
from tests.documented_files import save_documented_files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RUN = [*sorted((DOCS / "tutorials").glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
ALL = [ROOT / "README.md", DOCS / "index.md", *RUN, *sorted((DOCS / "tasks").glob("*.md"))]
OUTPUT = {"text", "json", "yaml", "console"}
"""Languages of blocks that show what is printed or what a file holds."""

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|tested with): (?P<text>[^\n]*?) -->\n+)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^(?P<effcli>effcli [^|#<>\n]*?)(?P<rest>\s*(?:[|#<>].*)?)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block: its language, the file it is saved as, its code, and the comment before it."""

    language: str
    title: str | None
    code: str
    mark: str | None
    text: str | None

    def typed(self) -> str:
        """What the test runs for the block."""
        if self.mark == "tested with":
            return COMMAND.sub(lambda m: f"{m['effcli']} {self.text} {m['rest']}", self.code)
        return self.code


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(BLOCK.findall(text)), f"{page}: a block that is not read"
    found = BLOCK.finditer(text)
    return [Block(m["language"], m["title"], m["code"], m["mark"], m["text"]) for m in found]


def commands(page: Path) -> Iterator[str]:
    """The `effcli` commands of a page: in blocks of bash, and indented ones; without comments and pipes."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    code = "".join(re.findall(r"^```bash[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for line in [*code.splitlines(), *re.findall(r"^    (effcli .*)$", text, re.MULTILINE)]:
        for part in re.split(r"\||&&|<|>|;| #", line)[:1]:
            if part.strip().startswith("effcli ") and part.strip() != "effcli doctor":
                yield part.strip()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    save_documented_files(tmp_path)
    with effcli_on_path(tmp_path_factory.mktemp("bin")) as path:
        environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        for block in blocks(page):
            if block.mark == "not run" or block.language in OUTPUT:
                continue
            if block.title:
                (tmp_path / block.title).write_text(block.code, encoding="utf-8")
                continue
            assert block.language in {"bash", "python"}, f"{page.name}: {block.language}: {block.code}"
            start = ["bash", "-e", "-o", "pipefail"] if block.language == "bash" else [sys.executable]
            command = [*start, "-c", block.typed()]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{block.typed()}\n{done.stderr}"


@pytest.mark.parametrize("page", RUN, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        assert block.language in {"bash", "python", *OUTPUT}, f"{block.language}: {block.code}"
        if block.mark == "not run":
            assert block.text and len(block.text) > 10


@pytest.mark.parametrize("page", ALL, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_the_commands_of_a_page_have_options_that_exist(page: Path) -> None:
    wrong = []
    for command in commands(page):
        try:
            parse(shlex.split(command)[1:])
        except Exception as error:
            wrong.append(f"{command}: {error}")
    assert wrong == []


def parse(words: list[str]) -> None:
    """Have the parser of the command read the words; neither values are converted nor callbacks called."""
    group = typer.main.get_command(_app_of(words[0]))
    verbs = getattr(group, "commands", {})
    rest, command = words[1:], group
    if verbs:
        verb = rest[0] if rest and rest[0] in verbs else getattr(group, "default_verb", "")
        rest, command = (rest[1:] if rest and rest[0] in verbs else rest), verbs[verb]
    context = type(command).context_class(command, info_name=words[0])
    command.make_parser(context).parse_args(args=list(rest))


def _app_of(name: str) -> typer.Typer:
    from importlib import import_module

    module, _ = _Root.table[name]
    app: typer.Typer = import_module(module).app
    return app
