"""What mkdocs does beside its settings: pages from the top of the checkout, links to code, equations as MathML."""

from __future__ import annotations

import html
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/effcli/effcli/blob/main/"
FROM_THE_TOP = {
    "CONTRIBUTING.md": "contributing/index.md",
    "CHANGELOG.md": "contributing/changelog.md",
    "examples/README.md": "contributing/examples.md",
}
"""Page of the checkout -> page of the site."""

LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r":(?:class|meth|func|data|mod|attr):(?=<code)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


FETCHED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>")
LOG = logging.getLogger("mkdocs.effcli")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, target in FROM_THE_TOP.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Have each link lead to a page of the site, or to the repository where the site has none."""
    target_of_page = page.file.src_uri
    source = {target: source for source, target in FROM_THE_TOP.items()}.get(
        target_of_page, f"docs/{target_of_page}"
    )

    def relinked(match: re.Match[str]) -> str:
        aim = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if not (ROOT / aim).exists():
            return match[0]  # mkdocs names it
        return f"{match[1]}{_address(aim, target_of_page)}{match[3] or ''})"

    parts = CODE.split(markdown)
    return "".join(part if CODE.fullmatch(part) else LINK.sub(relinked, part) for part in parts)


def on_page_content(content: str, **_: Any) -> str:
    """Write equations as MathML, which browsers show without a script; leave out the roles of docstrings.

    The backslash before a pipe in the code of a table, which GitHub needs, is left out: Markdown shows it here.
    """
    content = re.sub(r"<td[^>]*>.*?</td>", lambda cell: cell[0].replace("\\|", "|"), content, flags=re.DOTALL)

    def mathml(match: re.Match[str]) -> str:
        if match[2] == "(":
            return convert(html.unescape(match[3]))
        return f'<div class="equation">{convert(html.unescape(match[3]), display="block")}</div>'

    return ROLE.sub("", EQUATION.sub(mathml, content))


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Warn, which fails the build, of whatever a page would fetch from elsewhere when it is read."""
    for element in FETCHED.findall(output):
        if 'rel="canonical"' not in element:
            LOG.warning("%s: is fetched from elsewhere: %s", page.file.src_uri, element)
    return output


def _address(aim: str, page: str) -> str:
    """What a link on ``page`` of the site to the file ``aim`` of the checkout is written as."""
    if aim in FROM_THE_TOP:
        return posixpath.relpath(FROM_THE_TOP[aim], posixpath.dirname(page))
    if aim.startswith("docs/") and (ROOT / aim).is_file() and not aim.endswith(".py"):
        return posixpath.relpath(aim.removeprefix("docs/"), posixpath.dirname(page))
    return REPOSITORY + aim
