"""Run the command as a person does: in a process of its own.

The processes are forked from a server that has imported the libraries already, which takes a second off each.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

spawner = multiprocessing.get_context("forkserver")
spawner.set_forkserver_preload(
    [
        "diffusers.models.unets.unet_2d",
        "matplotlib.figure",
        "open_clip",
        "torchmetrics.functional.image",
        "effcli.cli.main",
        "effcli.core.evidence.report",
        "effcli.continual.egor.pipeline",
        "effcli.continual.pipeline",
        "effcli.continual.weights",
        "effcli.detect_stream.pipeline",
        "effcli.detect_stream.stream.session",
        "effcli.distill.clip_kd.pipeline",
        "effcli.distill.rdd",
        "effcli.distill.trained.teacher",
        "effcli.enhance.pipeline",
        "effcli.quantize.pipeline",
        "effcli.rl_distill.pipeline",
        "effcli.rl_distill.ppo",
        "gymnasium",
    ]
)


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


def start(folder: Path, *arguments: object, cwd: Path) -> multiprocessing.process.BaseProcess:
    """Start ``effcli ARGUMENTS``; standard input is folder/0, output and errors go to folder/1 and /2."""
    (folder / "0").touch()
    process = spawner.Process(target=_effcli, args=(tuple(map(str, arguments)), str(cwd), str(folder)))
    process.start()
    return process


def effcli(*arguments: object, cwd: Path, stdin: bytes = b"", timeout_s: float = 300) -> Finished:
    """What ``effcli ARGUMENTS`` does."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "0").write_bytes(stdin)
        process = start(folder, *arguments, cwd=cwd)
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"effcli {arguments}")
        return Finished(process.exitcode, (folder / "1").read_bytes(), (folder / "2").read_text())


def _effcli(arguments: tuple[str, ...], cwd: str, folder: str) -> None:
    os.chdir(cwd)
    sys.stdin.close()
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        with Path(folder, str(number)).open(mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["effcli", *arguments]
    from effcli.cli.main import main

    try:
        main()
    finally:
        sys.stdout.flush()


def torchrun(*arguments: object, cwd: Path, n_processes: int = 2, timeout_s: float = 300) -> Finished:
    """What ``torchrun --nproc-per-node 2 -m effcli ARGUMENTS`` does."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes), "-m", "effcli"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        timeout=timeout_s,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Finished(done.returncode, done.stdout, done.stderr.decode())
