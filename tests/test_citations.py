"""Every source that code, tests, recipes and documents name can be opened: pages of ours by file and heading."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
SOURCES = sorted(
    file
    for pattern in ("effcli/**/*.py", "cli/**/*.py", "tests/**/*.py", "benchmarks/*.py", "recipes/**/*.yaml")
    for file in ROOT.glob(pattern)
    if file != Path(__file__).resolve()
)
TEXTS = [*SOURCES, *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md"))]

CITATION = re.compile(r"docs/methods/([\w-]+)\.md(?=(?:, (.{0,60}))?)")
NOT_OURS = re.compile(
    r"\bspec(?:ification)? sheet|\bthe sheet\b|\bsheet \d|\bspec section|\btraps? \d", re.IGNORECASE
)


@cache
def headings(page: str) -> tuple[str, ...]:
    """The headings of a page, longest first."""
    text = (ROOT / "docs" / "methods" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return tuple(sorted(found, key=len, reverse=True))


def citations(file: Path) -> list[tuple[str, str]]:
    """(page, what follows the comma) of each citation; line breaks and comment signs do not count."""
    text = re.sub(r"\s*\n\s*(?:#+ ?)?", " ", file.read_text(encoding="utf-8"))
    return CITATION.findall(text)


def test_there_is_a_page_for_each_method() -> None:
    names = {
        "walmafa",
        "mpq-dm",
        "ranpac",
        "rdd",
        "cd",
        "shortcut",
        "clip-kd",
        "clfd",
        "e2net",
        "ir",
        "egor",
        "slca",
        "ease",
        "streamdsgn",
        "opd-da",
    }
    assert {page.stem for page in PAGES} == names
    for page in PAGES:
        for heading in ("What the paper says", "What the released code does", "What effcli does, and why"):
            assert heading in headings(page.stem), f"{page.name}: {heading}"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_cited_headings_are_on_the_page(file: Path) -> None:
    for page, rest in citations(file):
        assert (ROOT / "docs" / "methods" / f"{page}.md").is_file(), f"no page {page}.md"
        if rest and rest[0].isupper():
            found = any(rest.startswith(heading) for heading in headings(page))
            assert found, f"docs/methods/{page}.md has no heading at the start of {rest!r}"


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_cites_what_a_reader_cannot_open(file: Path) -> None:
    found = NOT_OURS.findall(file.read_text(encoding="utf-8"))
    assert found == []


def test_the_citations_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("# See docs/methods/rdd.md, Relation\n# losses, and docs/methods/ir.md, Prototypes.")
    (first, rest), second = citations(file)
    assert first == "rdd" and rest.startswith("Relation losses, and")
    assert second == ("ir", "Prototypes.")
