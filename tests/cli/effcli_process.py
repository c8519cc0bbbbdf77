"""Run the command as a person does: in a process of its own.

The processes are forked from the server of tests/forkserver.py; what a process finds of its own is in
test_effcli_process.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.forkserver import spawner


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


def start(folder: Path, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> BaseProcess:
    """Start ``effcli ARGUMENTS``; standard input is folder/0, output and errors go to folder/1 and /2.

    The process has the environment of this one and `env`; what libraries read while they are imported, such as
    ``OMP_NUM_THREADS``, was read by the server.
    """
    (folder / "0").touch()
    environment = {**os.environ, **(env or {})}
    process: BaseProcess = spawner.Process(
        target=_effcli, args=(tuple(map(str, arguments)), str(cwd), str(folder), environment)
    )
    process.start()
    return process


def effcli(*arguments: object, cwd: Path, stdin: bytes = b"", timeout_s: float = 300) -> Finished:
    """What ``effcli ARGUMENTS`` does."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "0").write_bytes(stdin)
        return _finished(start(folder, *arguments, cwd=cwd), folder, timeout_s)


def two_ranks(*arguments: object, cwd: Path, timeout_s: float = 300) -> Finished:
    """What ``effcli ARGUMENTS`` does in two processes, which find each other as those of torchrun do.

    Returns:
        Rank 0, or the one that failed; the other is killed then.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    with TemporaryDirectory() as name:
        folders, processes = [Path(name, rank) for rank in "01"], []
        for rank, folder in enumerate(folders):
            folder.mkdir()
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            processes.append(start(folder, *arguments, cwd=cwd, env=place | ranks))
        while any(process.is_alive() for process in processes):
            waiting = [process.sentinel for process in processes if process.is_alive()]
            if not wait(waiting, timeout_s) or any(process.exitcode for process in processes):
                for process in processes:
                    process.kill()
        ended = [_finished(*one, timeout_s) for one in zip(processes, folders, strict=True)]
        return next((one for one in ended if one.code > 0), ended[0])


def _finished(process: BaseProcess, folder: Path, timeout_s: float) -> Finished:
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"after {timeout_s:g} s, stderr: {(folder / '2').read_text()}")
    return Finished(process.exitcode, (folder / "1").read_bytes(), (folder / "2").read_text())


def _effcli(arguments: tuple[str, ...], cwd: str, folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.stdin.close()
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        with Path(folder, str(number)).open(mode) as file:
            os.dup2(file.fileno(), number)
    run_here(arguments)


def run_here(arguments: tuple[str, ...]) -> None:
    """Be ``effcli ARGUMENTS``, on the standard streams that this process has."""
    sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["effcli", *arguments]
    from effcli.cli.main import main

    try:
        main()
    finally:
        sys.stdout.flush()


def torchrun(*arguments: object, cwd: Path, n_processes: int = 2, timeout_s: float = 300) -> Finished:
    """What ``torchrun --nproc-per-node 2 -m effcli ARGUMENTS`` does: interpreters of their own, which takes long."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes), "-m", "effcli"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        timeout=timeout_s,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Finished(done.returncode, done.stdout, done.stderr.decode())
