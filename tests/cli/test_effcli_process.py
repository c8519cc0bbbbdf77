"""The forked processes in which commands are tested find what a fresh one finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.effcli_on_path import effcli_on_path
from tests.cli.effcli_process import effcli
from tests.forkserver import PRELOADED, spawner


def look_around(file: str) -> None:
    import numba.np.ufunc.parallel as pool

    state = {
        "threads": threading.active_count(),
        "kernel_threads": len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self").exists() else 1,
        "numba_runs": pool._is_initialized,
        "signals": [signal.getsignal(one) is usual for one, usual in SIGNALS],
    }
    Path(file).write_text(json.dumps(state))


SIGNALS = [
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGCHLD, signal.SIG_DFL),
]


@pytest.mark.slow
def test_the_server_has_no_threads_and_usual_signals(tmp_path: Path) -> None:
    """A process that is forked from one with threads hangs in its first parallel loop."""
    process = spawner.Process(target=look_around, args=(str(tmp_path / "seen"),))
    process.start()
    process.join(120)
    seen = json.loads((tmp_path / "seen").read_text())
    can_interrupt = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # not in a shell's background
    signals = [can_interrupt, True, True]
    assert seen == {"threads": 1, "kernel_threads": 1, "numba_runs": False, "signals": signals}


def test_everything_to_be_preloaded_is_there() -> None:
    assert [name for name in PRELOADED if find_spec(name) is None] == []


@pytest.mark.slow
def test_a_command_has_our_environment_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")  # which prints nothing
    assert effcli("recipes", "ls", cwd=tmp_path).stdout == b""
    monkeypatch.delenv("RANK")
    assert effcli("recipes", "ls", cwd=tmp_path).stdout != b""


@pytest.mark.slow
def test_a_shell_finds_the_command(tmp_path: Path) -> None:
    def shell(command: str, path: str) -> subprocess.CompletedProcess[str]:
        line = ["bash", "-o", "pipefail", "-c", command]
        return subprocess.run(
            line, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )

    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with effcli_on_path(tmp_path) as path:
        for command in (
            "effcli recipes ls | head -1",
            "effcli recipes show quantize -s 'train.batch_size=3' | grep -c batch_size",
            "effcli recipes cp quantize default here.yaml && test -f here.yaml",
            "effcli recipes show nothing",
            "echo enhance | xargs effcli recipes show 2>&1 | cat",
        ):
            (tmp_path / "here.yaml").unlink(missing_ok=True)
            forked, fresh = shell(command, path), shell(command.replace("here", "there"), own)
            said = [
                (done.returncode, done.stdout.replace("there", "here"), done.stderr)
                for done in (forked, fresh)
            ]
            assert said[0] == said[1], command
