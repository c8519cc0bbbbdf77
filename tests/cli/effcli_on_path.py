"""An ``effcli`` for shells which starts no interpreter that imports: it asks a server to fork."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.effcli_process import run_here
from tests.forkserver import spawner

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
    socket.send_fds(server, [request.encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 1))
"""
MOST_BYTES = 1 << 18
"""Of arguments and environment together."""


@contextmanager
def effcli_on_path(folder: Path) -> Iterator[str]:
    """Make ``folder/effcli``; gives the ``PATH`` on which a shell finds it before any other."""
    path = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        server = spawner.Process(target=_serve, args=(listening,))
        server.start()
    (folder / "effcli").write_text(CLIENT.format(python=sys.executable, path=path))
    (folder / "effcli").chmod(0o755)
    try:
        yield f"{folder}{os.pathsep}{os.environ['PATH']}"
    finally:
        server.terminate()
        server.join()


def _serve(listening: socket.socket) -> None:
    """Fork an effcli for each client, with the client's streams; it answers its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        client, _ = listening.accept()
        with client:
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                client.sendall(b"%d" % _answer(client))
                os._exit(0)


def _answer(client: socket.socket) -> int:
    request, streams, _, _ = socket.recv_fds(client, MOST_BYTES, 3)
    arguments, folder, environment = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    try:
        run_here(tuple(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0
