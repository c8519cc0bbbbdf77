"""``metrics.jsonl``: one line a logged step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effcli.core.files import write_error


class MetricsLog:
    """The file, written so that a killed and resumed run leaves the same lines as an uninterrupted one.

    A resumed run goes through its steps again, and :attr:`position` is how far it is in the file. Each checkpoint
    carries the position at which it was written; a line that is there already, because an earlier process logged it
    between two loops, is passed by; what follows the checkpoint of the loop that goes on is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def reopen(self) -> None:
        """Drop a last line that a crash cut short."""
        if self.path.exists():
            self._cut(self.path.read_bytes().rfind(b"\n") + 1)

    def go_to(self, position: int) -> None:
        """Pass by what an earlier process logged before a checkpoint."""
        self.position = min(position, self.n_bytes)

    def cut(self) -> None:
        """Drop what an earlier process logged after the checkpoint that is gone on from."""
        if self.position < self.n_bytes:
            self._cut(self.position)

    def append(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write one line, unless an earlier process wrote it.

        Raises:
            RunError: the disk is full or read-only.
        """
        row = {"stage": stage, "step": step, **numbers}
        if self.position < self.n_bytes:
            with self.path.open("rb") as file:
                file.seek(self.position)
                line = file.readline()
            if _same(line, row):
                self.position += len(line)
                return
            self.cut()
        try:
            with self.path.open("ab") as out:
                self.position += out.write((json.dumps(row) + "\n").encode())
        except OSError as error:
            raise write_error(error, self.path) from None

    def _cut(self, n_bytes: int) -> None:
        try:
            with self.path.open("rb+") as file:
                file.truncate(n_bytes)
        except OSError as error:
            raise write_error(error, self.path) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a line cut short by a crash is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _same(line: bytes, new: Mapping[str, Any]) -> bool:
    """Whether a line tells of the same event as ``new``; a measured time may differ."""
    try:
        old = json.loads(line)
    except ValueError:
        return False
    return [*old] == [*new] and (old["stage"], old["step"]) == (new["stage"], new["step"])
