"""Records of benchmarks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from effcli.core.evidence.records import write_record


@pytest.mark.parametrize("words", [["--json", "FILE", "--size", "8 8"], ["--size", "8 8", "--json=FILE"]])
def test_a_record_has_the_command_without_its_own_file(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "x.json"
    write_record(file, [{"size": "8x8", "ms": 1.5, "ratio": math.inf}], ["benchmarks/x.py", *words])
    record = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert record["command"] == "python benchmarks/x.py --size '8 8'"
    assert record["figures"] == [{"size": "8x8", "ms": 1.5, "ratio": None}]
    assert {"schema", "date", "machine", "commit"} <= record.keys()
    assert record["machine"]["threads"] >= 1


def test_nothing_is_written_where_no_file_is_asked_for() -> None:
    write_record(None, {}, [])
