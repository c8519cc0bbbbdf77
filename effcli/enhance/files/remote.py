"""Pictures in object stores and on servers, by URL: ``s3://bucket/in/a.png``, through fsspec.

A picture is read and written whole, one after the other. Errors that may pass (time-outs, lost connections, a server
that is busy) are retried with growing pauses. Object stores show an object when its upload is complete, not before;
elsewhere a file is uploaded under a hidden name beside its own and then renamed.
"""

from __future__ import annotations

import errno
import io
import logging
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeAlias, TypeVar

from effcli.core.errors import InputError, RunError, UsageError
from effcli.core.files import PART
from effcli.enhance.files.claimed_output import TakenError

log = logging.getLogger(__name__)

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://(.*)", re.DOTALL)
_LOCAL = {"file", "local"}
_EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "memory"}
"""Protocols that can refuse to write an object that is there, in one step."""
_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf", "memory"}
"""Protocols whose objects appear whole."""
READ_ONLY = {"http", "https"}
_PACKAGES = {
    "s3": "effcli[remote]",
    "s3a": "effcli[remote]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
}
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that trying again does not mend, as are those of these numbers:"""
_FINAL_NUMBERS = {errno.EINVAL, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM}

T = TypeVar("T")


@dataclass(frozen=True)
class RemotePath:
    """A file or folder by URL, with what is needed of pathlib.

    Attributes:
        protocol: ``s3`` and the like.
        path: what follows ``://``, without a slash at its end.
    """

    protocol: str
    path: PurePosixPath

    def __str__(self) -> str:
        return f"{self.protocol}://{self.path}"

    def __truediv__(self, below: str | PurePath) -> RemotePath:
        return RemotePath(self.protocol, self.path / PurePosixPath(*PurePath(below).parts))

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The last part without its extension."""
        return self.path.stem

    @property
    def suffix(self) -> str:
        """The extension, with its dot."""
        return self.path.suffix

    @property
    def parent(self) -> RemotePath:
        """The folder it is in."""
        return RemotePath(self.protocol, self.path.parent)

    def with_name(self, name: str) -> RemotePath:
        """Another file of the same folder."""
        return RemotePath(self.protocol, self.path.with_name(name))

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        """The path below a folder."""
        return self.path.relative_to(folder.path)


Location: TypeAlias = Path | RemotePath
"""Where a picture is: a local file, or one by URL."""


def location(text: str | Path) -> Location:
    """A path or URL as it was typed; ``file://`` is local.

    Raises:
        UsageError: as :func:`parse_url`.
    """
    if isinstance(text, Path):
        return text
    if is_url(text):
        return parse_url(text)
    found = _URL.fullmatch(text)
    return Path(found[2]) if found is not None else Path(text)


def is_url(text: str) -> bool:
    """Whether this is a URL of something that is not a local file."""
    found = _URL.fullmatch(text)
    return found is not None and found[1].lower() not in _LOCAL


def parse_url(text: str) -> RemotePath:
    """Read a URL and make sure that what it needs is installed.

    Raises:
        UsageError: its kind is not known, its package is missing, or it names nothing.
    """
    found = _URL.fullmatch(text)
    assert found is not None
    if not found[2].strip("/"):
        raise UsageError("names no bucket or host", place=text)
    remote = RemotePath(found[1].lower(), PurePosixPath(found[2]))
    _filesystem(remote.protocol)
    return remote


def list_files(folder: RemotePath) -> list[RemotePath]:
    """All files below a folder, in the order of their paths; none if the folder does not exist.

    Raises:
        InputError: the folder cannot be listed.
    """
    filesystem = _filesystem(folder.protocol)
    try:
        found = _retried(lambda: filesystem.find(_key(folder)), str(folder))
    except FileNotFoundError:
        return []
    except Exception as error:
        raise InputError(f"cannot be listed: {_reason(error)}", place=str(folder)) from None
    root = _key(folder).rstrip("/")
    keys = (
        key for key in found if key.startswith(f"{root}/") and not key.endswith("/")
    )  # "sub/" stands for a folder
    return [folder / path for path in sorted(PurePosixPath(key[len(root) :].lstrip("/")) for key in keys)]


def kind_of(remote: RemotePath) -> str | None:
    """``file``, ``directory``, or None where nothing is there; what is on a web server is a file.

    Raises:
        InputError: the server cannot be asked.
    """
    if remote.protocol in READ_ONLY:
        return "file"
    filesystem = _filesystem(remote.protocol)
    try:
        return str(_retried(lambda: filesystem.info(_key(remote))["type"], str(remote)))
    except FileNotFoundError:
        return None
    except Exception as error:
        raise InputError(f"cannot be read: {_reason(error)}", place=str(remote)) from None


def read_bytes(remote: RemotePath) -> bytes:
    """The content of a file.

    Raises:
        InputError: it is not there or cannot be read.
    """
    filesystem = _filesystem(remote.protocol)
    try:
        content: bytes = _retried(lambda: filesystem.cat_file(_key(remote)), str(remote))
        return content
    except FileNotFoundError:
        raise InputError("no such file", place=str(remote)) from None
    except Exception as error:
        raise InputError(f"cannot be read: {_reason(error)}", place=str(remote)) from None


@contextmanager
def remote_output(destination: RemotePath, *, overwrite: bool) -> Iterator[io.BytesIO]:
    """What is written to the stream becomes the content of a file at the end, whole.

    Args:
        destination: the file.
        overwrite: put it in the place of one that is there; otherwise that one stays.

    Raises:
        TakenError: it is there by now.
        RunError: it cannot be written.
    """
    content = io.BytesIO()
    yield content
    write_bytes(destination, content.getvalue(), overwrite=overwrite)


def write_bytes(destination: RemotePath, content: bytes, *, overwrite: bool) -> None:
    """Write a file whole or not at all; errors as :func:`remote_output`."""
    write = _put if destination.protocol in _STORES else _upload_and_rename
    attempts = iter(range(len(_PAUSES_S) + 1))
    try:
        _retried(lambda: write(destination, content, overwrite, next(attempts)), str(destination))
    except FileExistsError:
        raise TakenError("was written by another process in the meantime", place=str(destination)) from None
    except NotImplementedError:
        raise RunError(f"{destination.protocol} can only be read", place=str(destination)) from None
    except Exception as error:
        raise RunError(f"cannot be written: {_reason(error)}", place=str(destination)) from None


def _put(destination: RemotePath, content: bytes, overwrite: bool, attempt: int) -> None:
    """Write an object; where another one is there, it is left, unless an earlier attempt of ours made it."""
    filesystem, key = _filesystem(destination.protocol), _key(destination)
    if overwrite:
        filesystem.pipe_file(key, content)
        return
    try:
        if destination.protocol in _EXCLUSIVE:
            filesystem.pipe_file(key, content, mode="create")
            return
    except OSError as error:
        is_there = (
            isinstance(error, FileExistsError) or error.errno == errno.EINVAL
        )  # a failed precondition of S3
        if is_there and filesystem.exists(key):
            if attempt == 0 or filesystem.cat_file(key) != content:
                raise FileExistsError(key) from None
            return
        if error.errno != errno.ENOSYS:
            raise
    if filesystem.exists(key):  # a store that cannot refuse
        raise FileExistsError(key)
    filesystem.pipe_file(key, content)


def _upload_and_rename(destination: RemotePath, content: bytes, overwrite: bool, attempt: int) -> None:
    filesystem, key = _filesystem(destination.protocol), _key(destination)
    hidden = _key(destination.with_name(f"{PART}{secrets.token_hex(6)}{destination.suffix}"))
    filesystem.makedirs(_key(destination.parent), exist_ok=True)
    try:
        filesystem.pipe_file(hidden, content)
        if not overwrite and filesystem.exists(key):
            raise FileExistsError(key)
        filesystem.mv(hidden, key)
    except BaseException:
        with _quiet():
            filesystem.rm_file(hidden)
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.info("not removed: %s", error)


def _retried(call: Callable[[], T], place: str) -> T:
    """The value of a call that is repeated after errors that may pass."""
    for pause_s in _PAUSES_S:
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
            log.warning("%s: %s; trying again", place, _reason(error))
            time.sleep(pause_s * random.uniform(0.75, 1.25))  # many jobs at once should not come back at once
    return call()


def _may_pass(error: Exception) -> bool:
    """Whether an error is of the network or the server, not of what was asked for."""
    if isinstance(error, _FINAL):
        return False
    if isinstance(error, OSError):
        return error.errno not in _FINAL_NUMBERS
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ConnectionError"})


def _reason(error: BaseException) -> str:
    """An error of a library in one line."""
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__


def _key(remote: RemotePath) -> str:
    """The path as the file system of its kind has it."""
    key = _filesystem(remote.protocol)._strip_protocol(str(remote))
    return str(key)


@cache
def _filesystem(protocol: str) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        hint = f"pip install {package}" if package else None
        raise UsageError(
            f"{protocol}:// needs a package that is not installed ({_reason(error)})",
            place=f"{protocol}://",
            hint=hint,
        ) from None
    except ValueError:
        hint = "known: s3://, gs://, hf:// and the other protocols of fsspec"
        raise UsageError(f"unknown protocol {protocol!r}", place=f"{protocol}://", hint=hint) from None
