"""Records of benchmarks: figures with the command, date, machine and commit, for docs/results."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effcli.core.evidence.result import finite
from effcli.core.files import write_text
from effcli.core.machine import commit, describe_machine


def write_record(
    file: Path | None, figures: Mapping[str, Any] | Sequence[Mapping[str, Any]], words: Sequence[str]
) -> None:
    """Write what a benchmark measured; nothing where no file was asked for.

    Args:
        file: what ``--json`` gives.
        figures: rows (dictionaries of numbers), or named rows or numbers, nested as deep as needed.
        words: the command line, ``sys.argv``.
    """
    if file is None:
        return
    import torch

    record = {
        "schema": 1,
        "command": shlex.join(["python", *_without_json(words)]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"torch": str(torch.__version__), "threads": torch.get_num_threads()},
        "commit": commit(),
        "figures": figures,
    }
    write_text(file, json.dumps(finite(record), indent=1) + "\n")


def _without_json(words: Sequence[str]) -> list[str]:
    """The command line without the file of ``--json``."""
    kept = [word for word in words if not word.startswith("--json=")]
    if "--json" in kept:
        at = kept.index("--json")
        kept[at : at + 2] = []
    return kept
