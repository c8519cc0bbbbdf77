"""The pages of results are what the script makes of the JSON files."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_results"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date(script: ModuleType) -> None:
    pages = script.pages()
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make docs`"
    assert {path.stem for path in (ROOT / "docs" / "results").glob("*.md")} == set(script.TASKS)


def test_every_file_answers_a_question(script: ModuleType) -> None:
    asked = {f"{one.task}/{one.id}.json" for task in script.TASKS for one in script.questions(task)}
    folder = ROOT / "docs" / "results"
    assert asked == {str(path.relative_to(folder)) for path in folder.glob("*/*.json")}


def test_every_record_says_how_when_where_and_from_what(script: ModuleType) -> None:
    for task in script.TASKS:
        for one in script.questions(task):
            assert script.commands(one.record)[0].split()[0] in {"effcli", "python"}, one.id
            assert {"date", "machine", "commit"} <= one.record.keys(), one.id


def question(script: ModuleType, words: dict[str, Any], record: dict[str, Any]) -> Any:
    basis = {
        "date": "2026-01-02",
        "machine": {"processor": "x", "cores": 2, "memory_gib": 8.0, "python": "3.11"},
        "commit": "abc",
        "command": "effcli x",
    }
    return script.Question(
        "enhance", {"id": "a", "question": "Does it?", "figure": "so", **words}, basis | record
    )


def test_one_seed_of_a_claim_has_the_words_of_its_question(script: ModuleType) -> None:
    finding = {"expectation": "b: x above a", "differences": [1.0], "mean": 1.0, "spread": None}
    claim = {
        **{"title": "b is better", "source": "ours", "seeds": [0], "verdict": "not decided", "arms": {}},
        **{"findings": [finding | {"verdict": "not decided"}], "timing": {"total_s": 1.0}},
        "environment": {"device": "cpu", "threads": 1, "precision": "fp32"},
    }
    text = script.section(question(script, {"verdict": "one seed: b leads"}, claim))
    assert "**One seed: b leads**" in text and "Source: ours. 1 seed.\n" in text
    assert "**Not decided**" in script.section(question(script, {}, claim))


def test_a_claim_as_verify_writes_it(script: ModuleType) -> None:
    finding = {
        "expectation": "b: x above a",
        "differences": [1.0, 2.0],
        "mean": 1.5,
        "spread": 0.7,
        "verdict": "holds",
    }
    claim = {
        **{"title": "b is better", "source": "Paper, table 1", "seeds": [0, 1], "verdict": "holds"},
        **{"arms": {"a": {"x": [1.0, 2.0], "y": [5.0]}, "b": {"x": [2.0, 4.0]}}, "findings": [finding]},
        **{"environment": {"device": "cpu", "threads": 1, "precision": "fp32"}, "timing": {"total_s": 12.0}},
    }
    text = script.section(question(script, {"figure": "above by [[b: x above a]], [[b | x]]"}, claim))
    assert "**Holds**: above by +1.5 ± 0.7, 3 (2, 4)." in text
    assert "| b | 3 (2, 4) |" in text and "| b: x above a | +1.5 ± 0.7 | holds |" in text
    assert "    effcli x\n" in text and "| arm | x |\n" in text
    chosen = script.section(question(script, {"columns": {"y": "the other"}}, claim))
    assert "| arm | the other |" in chosen and "| a | 5 |" in chosen
    assert (
        "2026-01-02; x, 2 cores, 8 GiB, python 3.11; cpu, 1 thread, fp32; 12 s; commit abc; [JSON](enhance/a.json)"
        in text
    )


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        ([{"size": "8x8", "s": 0.5}], ["| size | s |", "| 8x8 | 0.5 |"]),
        ({"rows": [{"a": 1, "b": None}]}, ["rows:", "| a | b |", "| 1 | |"]),
        ({"one": {"ms": 1.23456}, "two": {"ms": 2.0, "mb": 3}}, ["| | ms | mb |", "| one | 1.235 | |"]),
        (
            {"threads": 2, "row": {"ms": 1.0, "part": {"x": 2}}},
            ["| threads | 2 |", "row, part:", "| x | 2 |"],
        ),
    ],
)
def test_figures_of_a_benchmark_become_tables(script: ModuleType, figures: Any, wanted: list[str]) -> None:
    text = "\n".join(table.markdown() for table in script.tables_of({"figures": figures}))
    assert [line for line in wanted if line not in text] == []


def test_a_figure_that_is_not_there_is_said(script: ModuleType) -> None:
    asked = question(script, {"verdict": "yes"}, {"figures": [{"size": "8x8", "s": 0.5}]})
    assert asked.fill("[[8x8 | s]] s") == "0.5 s"
    with pytest.raises(SystemExit, match=r"enhance\.yaml: a: \[\[9x9 \| s\]\] names 0 figures"):
        asked.fill("[[9x9 | s]]")


def test_the_words_name_no_record_twice(script: ModuleType) -> None:
    for task in script.TASKS:
        names = [one.id for one in script.questions(task)]
        assert len(names) == len(set(names))


def test_records_are_json_without_nan() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    for path in (ROOT / "docs" / "results").glob("*/*.json"):
        assert json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)["schema"] == 1
