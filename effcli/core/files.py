"""Writing files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from effcli.core.errors import InputError, RunError, UsageError

PART = ".part-"
"""What the name of a file that is being written begins with."""
LOCK_FILE = ".lock"
"""Held by the process that works in a folder."""


@contextlib.contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``destination``; on success it is renamed to it, else removed.

    Raises:
        RunError: the disk is full or the place cannot be written.
    """
    temporary = destination.parent / f"{PART}{secrets.token_hex(6)}{destination.suffix}"
    try:
        temporary.touch(exist_ok=False)  # with the permissions that the user's umask gives
        yield temporary
        temporary.replace(destination)
    except OSError as error:
        raise write_error(error, destination) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(destination: Path, text: str) -> None:
    """Write ``text`` atomically as UTF-8; names of files that are not UTF-8 are written with escapes."""
    with atomic_path(destination) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def decoded(data: bytes, place: str) -> str:
    """UTF-8, or UTF-16 with a byte order mark.

    Raises:
        InputError: it is neither; the place has the line.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError("is not UTF-8", place=f"{place}:{line}", hint=_conversion(data)) from None
    if text.count("\0") > len(text) / 4:
        raise InputError("is not UTF-8, or UTF-16 with its mark", place=f"{place}:1", hint=_conversion(data))
    return text


def _conversion(data: bytes) -> str:
    """How text that is not UTF-8 is converted, by where its zeros are."""
    n_even, n_odd = data[::2].count(0), data[1::2].count(0)
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "iconv -f utf-32 -t utf-8 converts it"
    if n_even + n_odd > len(data) / 8:
        return f"iconv -f utf-16{'le' if n_odd > n_even else 'be'} -t utf-8 converts it"
    return "iconv -f cp1252 -t utf-8 converts it, if its language is a Western European one"


def read_text(file: Path) -> str:
    """A text file.

    Raises:
        InputError: it cannot be read, or :func:`decoded` fails.
    """
    try:
        return decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", place=str(file)) from None


def read_json(file: Path, *, hint: str | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        file: where.
        hint: of the error, what the file should be.

    Raises:
        InputError: it is not there, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=str(file), hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}", place=str(file), hint=hint) from None
    if not isinstance(content, dict):
        raise InputError("is not a JSON object", place=str(file), hint=hint)
    return content


def remove_parts(folder: Path) -> None:
    """Remove, at any depth, the temporary files of a process that was killed while it wrote."""
    for part in list(folder.rglob(f"{PART}*")):
        with contextlib.suppress(OSError):
            part.unlink()


def is_vacant(folder: Path) -> bool:
    """Whether ``folder`` is not there, or holds nothing but what a killed process left."""
    if folder.exists() and not folder.is_dir():
        return False
    return not folder.exists() or all(
        entry.name == LOCK_FILE or entry.name.startswith(PART) for entry in folder.iterdir()
    )


def lock_folder(folder: Path) -> IO[str]:
    """Hold ``folder`` for this process until the returned file is closed or the process ends, however it ends.

    Raises:
        UsageError: another process holds it.
        RunError: it cannot be written.
    """
    try:
        file = (folder / LOCK_FILE).open("a", encoding="utf-8")
    except OSError as error:
        raise write_error(error, folder) from None
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(
            "another process is working in this directory", place=str(folder), hint="wait for it, or stop it"
        ) from None
    except (ImportError, OSError):  # a system or a file system without locks
        pass
    return file


def write_error(error: OSError, destination: Path) -> RunError:
    """The user-facing form of a failed write."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return RunError("the disk is full", place=str(destination), hint="free some space and run again")
    return RunError(f"cannot be written: {error.strerror or error}", place=str(destination))


def check_writable(folder: Path) -> None:
    """Make sure, before any work starts, that files can be written in ``folder``, or where it would be made.

    Raises:
        UsageError: it or a folder above it is a file, or cannot be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError("is a file, not a folder", place=str(existing)) from None
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror or error}", place=str(folder)) from None


def make_folder(folder: Path) -> Path:
    """Make ``folder``, and those above it, where they are not there; returns it.

    Raises:
        RunError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder cannot be made: {error.strerror}", place=str(folder)) from error
    return folder


def check_new_file(file: Path, *, force: bool) -> None:
    """Make sure, before any work starts, that ``file`` can be written and that nothing is lost by it.

    Raises:
        UsageError: it is a folder, it is there already (unless ``force``), or its folder cannot be written.
    """
    if file.is_dir():
        raise UsageError("is a folder; name a file", place=str(file))
    if file.exists() and not force:
        raise UsageError("exists", place=str(file), hint="--force overwrites it")
    check_writable(file.parent)


def check_new_folder(folder: Path, *, force: bool) -> None:
    """The same for a folder of files; one that is there may be empty.

    Raises:
        UsageError: it is a file, it is not empty (unless ``force``), or it cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UsageError("is not empty", place=str(folder), hint="--force writes into it")
    check_writable(folder)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(name: str) -> Path:
    """``effcli/NAME`` in ``$XDG_CACHE_HOME``, by default ``~/.cache``; it may not be there yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "effcli" / name
