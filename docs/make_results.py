"""Write docs/results.md and docs/results/<task>.md from the JSON files under docs/results/.

python docs/make_results.py            # writes the pages
python docs/make_results.py --check    # exit code 1 when one is stale

A question of ``docs/results/<task>.yaml`` names a JSON file, ``docs/results/<task>/<id>.json``, as `effcli verify` or a
benchmark's ``--json`` wrote it. Tables, verdicts of claims, commands, dates and machines come from that file;
``[[row | column]]`` and ``[[expectation of a claim]]`` in the words of a question are filled in from it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effcli.core.text import counted

DOCS = Path(__file__).parent
TASKS = ("enhance", "quantize", "distill", "continual", "detect-stream", "rl-distill", "threads")
_COUNTED = {"holds": "held", "does not hold": "not held", "not decided": "not decided"}
ANCHOR = '<a id="{}"></a>'
INTRO = """# Results

One line per question: verdict, figure, and a page with the tables, the command to copy, machine, date and commit.
Written by `make docs` from the JSON files in `docs/results/`, which `effcli verify` and the scripts in `benchmarks/`
write; a test compares. Times were measured on small machines, often beside other work: ratios inside one run are worth
comparing, seconds are not.

"Holds" and "does not hold" mean that the mean difference over the seeds is farther from the expected value than the
spread of the seeds; "not decided" means that it is not. Entries marked as transcribed quote what a command printed;
their JSON files were not kept.
"""
OUTRO = """
## Add a row

    effcli verify TASK/NAME --data DIR -o out/ && cp out/claim.json docs/results/TASK/NAME.json
    python benchmarks/NAME.py --json docs/results/TASK/NAME.json

Copy one of them, put the question into `docs/results/TASK.yaml` (`id: NAME`), and run `make docs`. Where the row is
there already, the new file replaces its tables; check that the text beside them still holds.
"""
PAGE = """# Results: {task}

Written by `make docs` from `{task}.yaml` and `{task}/`; [all results](../results.md).

"""


@dataclass(frozen=True)
class Table:
    """What is printed of a record: cells are text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def markdown(self) -> str:
        """As GitHub and mkdocs read it."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        text = "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)
        return f"{self.caption}:\n\n{text}" if self.caption else text

    def cell(self, row: str, column: str) -> str | None:
        """The cell in a row, by its first cell or its first two with a comma, and a column, by name or ``#number``."""
        number = int(column[1:]) - 1 if column.startswith("#") else None
        if number is None:
            number = self.columns.index(column) if column in self.columns else None
        found = [cells for cells in self.rows if row in (cells[0], ", ".join(cells[:2]))]
        return found[0][number] if number is not None and found else None


@dataclass(frozen=True)
class Question:
    """A question with the record that answers it."""

    task: str
    words: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The name of its file and its anchor."""
        return str(self.words["id"])

    @property
    def is_claim(self) -> bool:
        """Whether `effcli verify` answered it."""
        return "findings" in self.record

    @property
    def verdict(self) -> str:
        """Of the claim; the question's own where there is none, or a single seed, which decides nothing."""
        if self.is_claim and (len(self.record["seeds"]) > 1 or "verdict" not in self.words):
            return str(self.record["verdict"])
        return str(self.words["verdict"])

    @property
    def tables(self) -> list[Table]:
        """Those of its record; ``columns`` chooses the metrics of a claim's arms."""
        return tables_of(self.record, self.words.get("columns"))

    def fill(self, text: str) -> str:
        """Replace every ``[[...]]``."""
        return re.sub(r"\[\[(.+?)\]\]", lambda found: self._figure(found[1]), text)

    def _figure(self, name: str) -> str:
        for finding in self.record.get("findings", ()):
            if finding["expectation"] == name:
                return difference(finding)
        row, _, column = (part.strip() for part in name.rpartition("|"))
        cells = {cell for table in self.tables if (cell := table.cell(row, column)) is not None}
        if len(cells) != 1:
            raise SystemExit(
                f"docs/results/{self.task}.yaml: {self.id}: [[{name}]] names {len(cells)} figures"
            )
        return cells.pop().strip("*")


def difference(finding: Mapping[str, Any]) -> str:
    """Mean and spread of a finding, as `effcli verify` prints them."""
    spread = "one seed" if finding["spread"] is None else f"± {finding['spread']:.3g}"
    return f"{finding['mean']:+.3g} {spread}"


def text_of(value: Any) -> str:
    """A cell."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables_of(record: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> list[Table]:
    """The tables of a record: its own, those of a claim's arms, or those made of a benchmark's figures.

    Args:
        record: a JSON file.
        columns: metric of a claim's arms -> heading; None takes those that the expectations name.
    """
    if "tables" in record:
        return [Table(one["columns"], one["rows"], one.get("caption", "")) for one in record["tables"]]
    if "findings" not in record:
        return list(_tables(record["figures"], ""))
    arms = record.get("arms", {})
    names = dict.fromkeys(metric for arm in arms.values() for metric in arm)
    expected = " ".join(finding["expectation"] for finding in record["findings"]).split()
    headings = columns or {name: name for name in names if name in expected}
    rows = [[arm, *(_seeds(found.get(name)) for name in headings)] for arm, found in arms.items()]
    return [Table(["arm", *headings.values()], rows)] if rows else []


def _seeds(values: Sequence[float] | None) -> str:
    """Mean over the seeds, and their values."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{sum(values) / len(values):.4g} ({', '.join(f'{value:.4g}' for value in values)})"


def _tables(figures: Any, caption: str) -> Iterator[Table]:
    """One table per list or dictionary of rows; single numbers share one."""
    items = list(figures.items()) if isinstance(figures, Mapping) else [("", row) for row in figures]
    if items and all(isinstance(row, Mapping) and not _is_deep(row) for _, row in items):
        columns = list(dict.fromkeys(key for _, row in items for key in row))
        named = isinstance(figures, Mapping)
        rows = [[name] * named + [text_of(row.get(key)) for key in columns] for name, row in items]
        yield Table([""] * named + columns, rows, caption)
        return
    single = [[name, text_of(value)] for name, value in items if not _is_nested(value)]
    if single:
        yield Table(["", "figure"], single, caption)
    for name, value in items:
        if _is_nested(value):
            yield from _tables(value, f"{caption}, {name}".strip(", "))


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )


def _is_deep(row: Mapping[str, Any]) -> bool:
    return any(_is_nested(value) for value in row.values())


def questions(task: str) -> list[Question]:
    """All questions of a task's page, in order."""
    content = yaml.safe_load((DOCS / "results" / f"{task}.yaml").read_text(encoding="utf-8"))
    return [
        Question(
            task, words, json.loads((DOCS / "results" / task / f"{words['id']}.json").read_text("utf-8"))
        )
        for words in content["questions"]
    ]


def section(question: Question) -> str:
    """A question on its task's page."""
    words, tables = question.words, [table.markdown() for table in question.tables]
    parts = [
        f"{ANCHOR.format(question.id)}\n\n## {words['question']}",
        f"**{question.verdict[:1].upper()}{question.verdict[1:]}**: {question.fill(words['figure'])}.",
        question.fill(words.get("about", "")),
        *tables[:1],
        words.get("between", ""),
        *tables[1:],
        findings(question.record) if question.is_claim else "",
        question.fill(words.get("says", "")),
        "\n".join(f"    {command}" for command in commands(question.record)),
        provenance(question),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part)


def findings(record: Mapping[str, Any]) -> str:
    """What a claim expected and what came out, folded."""
    rows = [[one["expectation"], difference(one), one["verdict"]] for one in record["findings"]]
    counts = Counter(one["verdict"] for one in record["findings"])
    table = Table(["expected", "mean and spread of the seeds' differences", "verdict"], rows).markdown()
    what = ", ".join(f"{counts[verdict]} {words}" for verdict, words in _COUNTED.items() if counts[verdict])
    summary = f"{record['title']}: {counted(len(rows), 'expectation')}, {what}"
    return (
        f'<details markdown="1"><summary>{summary}</summary>\n\nSource: {record["source"]}. '
        f"{_seeds_counted(len(record['seeds']))}.\n\n{table}\n\n</details>"
    )


def commands(record: Mapping[str, Any]) -> list[str]:
    """What to type for the same record."""
    return record["commands"] if "commands" in record else [record["command"]]


def provenance(question: Question) -> str:
    """Date, time, machine, commit and file, in one line."""
    record = question.record
    parts = [record["date"], machine_of(record)]
    if question.is_claim:
        environment = record["environment"]
        parts.append(
            f"{environment['device']}, {_threads(environment['threads'])}, {environment['precision']}"
        )
        parts.append(f"{record['timing']['total_s']:.0f} s")
    transcribed = record.get("transcribed")
    parts.append(f"{'recorded in ' if transcribed else ''}commit {record['commit'] or 'unknown'}")
    link = f"[{'transcribed' if transcribed else 'JSON'}]({question.task}/{question.id}.json)"
    return f"<sub>{'; '.join(parts)}; {link}</sub>"


def machine_of(record: Mapping[str, Any]) -> str:
    """Where it was measured."""
    machine = record["machine"]
    if isinstance(machine, str):  # transcribed
        return machine
    memory = f", {machine['memory_gib']:g} GiB" if machine["memory_gib"] else ""
    libraries = [f"{name} {machine[name]}" for name in ("python", "torch") if name in machine]
    threads = [_threads(machine["threads"])] if "threads" in machine else []
    return ", ".join([f"{machine['processor']}, {machine['cores']} cores{memory}", *libraries, *threads])


def _seeds_counted(number: int) -> str:
    return f"{number} seed{'s' * (number != 1)}"


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"


def pages() -> dict[Path, str]:
    """Every page and its text."""
    made = {}
    index = [INTRO]
    for task in TASKS:
        asked = questions(task)
        rows = [
            [
                f"[{one.words['question']}](results/{task}.md#{one.id})",
                one.verdict,
                one.fill(one.words["figure"]),
            ]
            for one in asked
        ]
        table = Table(["question", "verdict", "figure"], rows).markdown()
        index.append(f"\n## {task}\n\n[{task}, with tables](results/{task}.md)\n\n{table}\n")
        made[DOCS / "results" / f"{task}.md"] = (
            PAGE.format(task=task) + "\n\n".join(map(section, asked)) + "\n"
        )
    made[DOCS / "results.md"] = "".join([*index, OUTRO])
    return made


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    made = pages()
    if parser.parse_args().check:
        stale = [page for page, text in made.items() if not page.exists() or page.read_text("utf-8") != text]
        for page in stale:
            print(f"stale: {page}", file=sys.stderr)
        return int(bool(stale))
    for page, text in made.items():
        page.write_text(text, encoding="utf-8")
    print(DOCS / "results.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
