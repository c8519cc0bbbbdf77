"""Encoded files: on the disk, or members of uncompressed tars, which are read in place and never extracted."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from effcli.core.errors import InputError

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
        InputError: it is missing, may not be read, or is no uncompressed tar.
    """
    try:
        with tarfile.open(source, "r:") as archive:
            return [
                StoredFile(source, member.name, member.offset_data, member.size)
                for member in archive.getmembers()
                if member.isreg() and not member.issparse()
            ]
    except (tarfile.TarError, OSError) as error:
        hint = "uncompress a compressed tar first; a single image is no set of pairs"
        raise InputError(f"cannot be read as a tar: {error}", place=str(source), hint=hint) from error
