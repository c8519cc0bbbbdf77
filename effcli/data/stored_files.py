"""Encoded files: on the disk, or members of uncompressed tars, which are read in place and never extracted."""

from __future__ import annotations

import logging
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from effcli.core.errors import InputError

log = logging.getLogger(__name__)

Split: TypeAlias = Literal["train", "eval"]

SPLITS: tuple[Split, Split] = ("train", "eval")


@dataclass(frozen=True)
class StoredFile:
    """One encoded image: a file, or a member of an uncompressed tar given by its place in it."""

    path: Path
    member: str | None = None
    offset_bytes: int = 0
    size_bytes: int = 0

    @property
    def place(self) -> str:
        """The file, and the member inside it, as named in messages."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            InputError: it is not there, or cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset_bytes)
                return stream.read(-1 if self.member is None else self.size_bytes)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", place=self.place) from None


def index_tar(source: Path) -> list[StoredFile]:
    """The regular files of an uncompressed tar, in its order.

    Raises:
        InputError: it is missing, may not be read, is not an uncompressed tar, or is truncated or damaged.
    """
    try:
        with tarfile.open(source, "r:") as archive:
            members = archive.getmembers()
            _check_end(source, archive.offset, len(members))
            return [
                StoredFile(source, member.name, member.offset_data, member.size)
                for member in members
                if member.isreg() and not member.issparse()
            ]
    except (tarfile.TarError, OSError) as error:
        hint = "uncompress a compressed tar first; a single image is no set of pairs"
        raise InputError(f"cannot be read as a tar: {error}", place=str(source), hint=hint) from error


def _check_end(source: Path, end: int, n_members: int) -> None:
    """Whether what follows the last member is the end of a tar; ``tarfile`` ends at anything else too, in silence.

    Raises:
        InputError: it is something else: half a member, or another tar.
    """
    with source.open("rb") as stream:
        stream.seek(end)
        block = stream.read(tarfile.BLOCKSIZE)
        if not block:
            _warn_once(f"{source}: has no end mark behind its {n_members} members; it may be truncated")
        elif block.count(0) != tarfile.BLOCKSIZE:
            raise InputError(
                f"truncated or damaged after its first {n_members} members, at byte {end:,}",
                place=str(source),
                hint="fetch or write it again",
            )
        while more := stream.read(1 << 20):
            if more.count(0) != len(more):
                raise InputError(
                    f"has data after its end mark, at byte {end:,}, which is not read",
                    place=str(source),
                    hint="if tars were joined with cat, give them one by one",
                )


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)
