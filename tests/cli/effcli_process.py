"""Run the installed command as a person does: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode().splitlines()

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; anything else there fails."""
        return json.loads(self.stdout)


def effcli(*arguments: str | Path, cwd: Path, stdin: bytes = b"", timeout_s: float = 300) -> Finished:
    command = [sys.executable, "-m", "effcli", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, timeout=timeout_s)
    return Finished(done.returncode, done.stdout, done.stderr.decode())
