"""Checkpoints of a run: atomic, versioned, loaded weights-only, the previous one kept as a spare."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effcli.core.errors import RunError, UsageError
from effcli.core.files import atomic_path, write_error

log = logging.getLogger(__name__)

VERSION = 1


_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class SaveEvery:
    """How much work a power cut may cost: seconds or steps between checkpoints."""

    seconds: float | None = 600.0
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> SaveEvery:
        """Read ``10min``, ``90s``, ``2h`` or ``500steps``.

        Raises:
            UsageError: anything else.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)|(\d+)steps", text, re.ASCII)
        if match and match[3] and int(match[3]) > 0:
            return cls(seconds=None, steps=int(match[3]))
        if match and match[1] and float(match[1]) > 0:
            return cls(seconds=float(match[1]) * _UNITS_S[match[2]])
        raise UsageError(
            f"cannot read {text!r}", place="--save-every", hint="for example 10min, 90s, 2h or 500steps"
        )


class CheckpointStore:
    """The ``checkpoints/`` folder: for each name ``<name>.pt`` and the one before, ``<name>.previous.pt``.

    Args:
        folder: made on the first save.
        recipe: text of the resolved recipe, kept inside each checkpoint.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self.folder = folder
        self.recipe = recipe
        self._damaged: set[Path] = set()

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Write ``content`` under ``name``; what was written is read back before it replaces anything.

        At every moment one of the two files is whole: the new one is complete on the disk before the old one
        becomes the spare, and a damaged old one never replaces a spare.

        Raises:
            RunError: the disk is full or read-only, or ``content`` holds more than tensors and plain values;
                earlier checkpoints are intact.
        """
        path, previous = self._path(name), self._path(f"{name}.previous")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, self.folder) from None
        with atomic_path(path) as temporary:
            _write({"version": VERSION, "recipe": self.recipe, **content}, temporary, path)
            if path.exists() and path not in self._damaged:
                path.replace(previous)
        self._damaged.discard(path)

    def load(self, name: str) -> dict[str, Any] | None:
        """Read the newest intact checkpoint called ``name``; None if there is none.

        Raises:
            UsageError: files are there, but none can be read, or they come from a newer version.
        """
        for path in (self._path(name), self._path(f"{name}.previous")):
            if not path.exists():
                continue
            content = _read(path)
            if content is not None:
                return content
            log.warning("%s is damaged", path)
            self._damaged.add(path)
        damaged = [
            path for path in (self._path(name), self._path(f"{name}.previous")) if path in self._damaged
        ]
        if damaged:
            raise UsageError(
                "this checkpoint is damaged, and no other one is left",
                place=str(damaged[0]),
                hint="delete the run directory and start again",
            )
        return None

    def has(self, name: str) -> bool:
        """Whether there is a file, whole or damaged, called ``name``."""
        return self._path(name).exists() or self._path(f"{name}.previous").exists()

    def remove(self, name: str) -> None:
        """Delete the files called ``name``, the spare first."""
        for path in (self._path(f"{name}.previous"), self._path(name)):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pt"


def _write(content: dict[str, Any], temporary: Path, path: Path) -> None:
    try:
        torch.save(content, temporary)
    except RuntimeError as error:  # the zip writer's form of a full disk
        raise RunError(
            f"the checkpoint cannot be written: {error}", place=str(path), hint="is the disk full?"
        ) from None
    with temporary.open("rb+") as file:  # a power cut must not leave a name without its content
        os.fsync(file.fileno())
    if _read(temporary) is None:
        raise RunError("the checkpoint cannot be read back; the one before it is kept", place=str(path))


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a checkpoint; None when it is damaged.

    The checksums are looked at here because ``torch.load`` does not: it takes tensors with flipped bits.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise RunError(f"cannot be read: {error.strerror}", place=str(path)) from None
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                intact = archive.testzip() is None
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True) if intact else None
        except Exception:  # a damaged file can fail in any way
            return None
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        return None
    if content["version"] > VERSION:
        raise UsageError("was written by a newer effcli", place=str(path), hint="upgrade effcli")
    return content
