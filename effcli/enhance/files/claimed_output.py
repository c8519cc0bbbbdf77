"""An output that two processes cannot both write.

While a picture is computed, its process holds a hidden file beside the output, ``.part-`` and a name that follows from
the output's, by a lock of the system, which ends with the process however it ends. The finished picture is written into
that file, which then takes the output's name. What a killed process left is taken over by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeAlias

from effcli.core.errors import RunError
from effcli.core.files import PART, make_folder, write_error

Stamp: TypeAlias = tuple[int, int, int, int]
"""What a file is recognised by: device, inode, time of its last change, size."""

_OWNER = re.compile(rb"process (\d+) on (\S+)\n")


class TakenError(RunError):
    """Another process writes this output, or wrote it since the plan was made."""

    code = "taken"


def stamp_of(path: Path) -> Stamp | None:
    """What the file at ``path`` is recognised by; None where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def claimed_output(destination: Path, replaces: Stamp | None) -> Iterator[io.BytesIO]:
    """Claim an output for the time inside; what is written to the stream becomes its content at the end.

    Args:
        destination: the output; its folder is made.
        replaces: the file that was there when the plan was made, or None.

    Raises:
        TakenError: another process is writing it, or something else is there by now.
        RunError: the disk is full or the place cannot be written.
    """
    make_folder(destination.parent)
    with _held_part(destination) as (part, file, is_locked):
        _check_unchanged(destination, replaces)
        content = io.BytesIO()
        yield content
        try:
            file.seek(0)
            file.truncate()
            file.write(content.getbuffer())
            file.flush()
            _check_unchanged(destination, replaces)
            if replaces is not None or is_locked or not _linked(part, destination):
                part.replace(destination)
        except OSError as error:
            raise write_error(error, destination) from None


def _check_unchanged(destination: Path, replaces: Stamp | None) -> None:
    if stamp_of(destination) != replaces:
        raise TakenError("was written by another process in the meantime", place=str(destination))


@contextlib.contextmanager
def _held_part(destination: Path) -> Iterator[tuple[Path, IO[bytes], bool]]:
    """The file that becomes the output, open, and whether a lock holds it; it is removed unless it was renamed."""
    name = hashlib.sha256(os.fsencode(os.path.normcase(destination.name))).hexdigest()[:16]
    part = destination.parent / f"{PART}{name}{destination.suffix}"
    try:
        file = _locked(part)
        is_locked = file is not None
        if file is None:  # a file system without locks: a name of our own
            part = part.with_name(f"{PART}{secrets.token_hex(8)}{destination.suffix}")
            file = part.open("xb")
    except BlockingIOError as error:
        raise TakenError(f"is being written by {error}", place=str(destination)) from None
    except OSError as error:
        raise write_error(error, destination) from None
    own = os.fstat(file.fileno()).st_ino
    try:
        yield part, file, is_locked
    finally:
        with contextlib.suppress(OSError):
            if part.stat().st_ino == own:
                part.unlink()
        file.close()


def _locked(part: Path) -> IO[bytes] | None:
    """The file ``part``, made or taken over, under a lock; None where there are no locks.

    Raises:
        BlockingIOError: another process holds it; the error says which.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise BlockingIOError(_owner(file)) from None
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                part.unlink()
            return None
        with contextlib.suppress(FileNotFoundError):
            if part.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()  # the process that held it renamed or removed it between the two calls
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    file.flush()
    return file


def _owner(file: IO[bytes]) -> str:
    found = _OWNER.match(file.read(300))
    return (
        "another process"
        if found is None
        else f"process {int(found[1])} on {found[2].decode(errors='replace')}"
    )


def _linked(part: Path, destination: Path) -> bool:
    """Give the output its name by a link, which fails where there is one by now; False where links do not exist."""
    try:
        os.link(part, destination)
    except FileExistsError:
        raise TakenError("was written by another process in the meantime", place=str(destination)) from None
    except OSError:
        return False
    return True
