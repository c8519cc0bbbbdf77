"""Teacher embeddings, computed once and kept on the disk.

One folder for each teacher, set of pairs and kind of view, in the user's cache; its name is a checksum of all of these,
by their content and not by their names, so embeddings of another teacher or another set are never used. Embeddings are
stored in fp16; an interrupted computation continues where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.core.errors import NonFiniteError, RunError
from effcli.core.files import make_folder, write_error, write_text
from effcli.core.progress import progress_bar
from effcli.core.run import Run

CHUNK_ROWS = 64
"""Rows that are embedded, written and marked as done together."""

VERSION = 2
"""Of the key: 1 had sizes of images in place of their content."""

_CHECKED_ROWS = 2**14


@dataclass(frozen=True)
class CachedItems:
    """Items of one kind whose embeddings are kept.

    Attributes:
        name: ``captions`` or ``view-0``.
        n: number of items.
        embed: from some of their indices to their embeddings, ``[n, D]``.
    """

    name: str
    n: int
    embed: Callable[[range], Tensor]


class TeacherCache:
    """A folder of embeddings.

    Args:
        root: where such folders are.
        key: everything that the embeddings depend on.
        dim: D.
        about: what a reader may want to know of them besides.
    """

    def __init__(
        self, root: Path, key: dict[str, Any], dim: int, about: Mapping[str, str] | None = None
    ) -> None:
        content = {"version": VERSION, **key}
        name = hashlib.sha256(json.dumps(content, indent=2, sort_keys=True).encode()).hexdigest()[:24]
        self._text = json.dumps({**content, "about": dict(about or {})}, indent=2, sort_keys=True)
        self.folder = root / name
        self.dim = dim

    def size_bytes(self, n_rows: int) -> int:
        """Bytes of ``n_rows`` embeddings on the disk."""
        return n_rows * self.dim * 2

    def is_there(self, items: CachedItems) -> bool:
        """Whether all embeddings of ``items`` are there."""
        return self._open(items) is not None

    def reserve(self, items: Sequence[CachedItems], run: Run) -> None:
        """Take the space that all missing embeddings will need before the first is computed.

        Raises:
            RunError: the disk has not enough.
        """

        def begin_missing() -> None:
            for one in items:
                if not self.is_there(one):
                    self._begin(one)

        run.runtime.on_main(begin_missing)

    def load(self, items: CachedItems, run: Run) -> np.ndarray:
        """All embeddings, fp16 ``[n, D]``, mapped from the disk; what is missing is computed.

        With several processes each computes its share; all of them have to see the same folder.

        Raises:
            RunError: the folder cannot be written.
            InterruptedRunError: a signal came.
        """
        if not run.runtime.on_main(lambda: self.is_there(items)):
            self._compute(items, run)
        embeddings = self._open(items)
        if embeddings is None:
            raise RunError("the teacher embeddings have been deleted during the run", place=str(self.folder))
        for first in range(0, items.n, _CHECKED_ROWS):
            if not np.isfinite(embeddings[first : first + _CHECKED_ROWS]).all():
                raise RunError(
                    f"the teacher's embeddings of {items.name} are not finite",
                    place=str(self._file(items, ".npy")),
                    hint="delete the file, and they are computed again; they should fit into fp16",
                )
        return embeddings

    def _compute(self, items: CachedItems, run: Run) -> None:
        runtime, part, marks = run.runtime, self._file(items, ".part"), self._file(items, ".done")
        runtime.on_main(lambda: self._begin(items))
        done = np.memmap(marks, np.uint8, "r+")
        embeddings = np.lib.format.open_memmap(part, "r+")
        chunks = [chunk for chunk in range(len(done)) if not done[chunk]]
        chunks = runtime.from_main(chunks)
        with progress_bar(
            f"teacher: {items.name}", len(chunks), 0, "batches", show=run.show_progress
        ) as advance:
            for start in range(0, len(chunks), runtime.world):
                run.check_stop()  # all ranks together, also one that has nothing left to do
                chunk = chunks[min(start + runtime.rank, len(chunks) - 1)]
                rows = range(chunk * CHUNK_ROWS, min((chunk + 1) * CHUNK_ROWS, items.n))
                found = items.embed(rows).half()
                if not bool(found.isfinite().all()):
                    what = f"the teacher's embeddings of {items.name} are not finite in fp16"
                    raise NonFiniteError(what, place=f"{items.name} {rows.start} to {rows.stop - 1}")
                embeddings[rows.start : rows.stop] = found.cpu().numpy()
                embeddings.flush()
                done[chunk] = 1
                for _ in chunks[start : start + runtime.world]:
                    advance()
        runtime.barrier()
        runtime.on_main(lambda: self._end(items))

    def _begin(self, items: CachedItems) -> None:
        part, marks = self._file(items, ".part"), self._file(items, ".done")
        make_folder(self.folder)
        write_text(self.folder / "key.json", self._text + "\n")
        n_chunks = -(-items.n // CHUNK_ROWS)
        is_begun = self._has_shape(part, items) and marks.is_file() and marks.stat().st_size == n_chunks
        try:
            if not is_begun:
                np.lib.format.open_memmap(part, "w+", np.float16, (items.n, self.dim)).flush()
            take_space(part)
            if not is_begun:
                marks.write_bytes(bytes(n_chunks))
        except OSError as error:
            if not is_begun:
                part.unlink(missing_ok=True)
            raise write_error(error, part) from None

    def _end(self, items: CachedItems) -> None:
        self._file(items, ".part").replace(self._file(items, ".npy"))
        self._file(items, ".done").unlink()

    def _open(self, items: CachedItems) -> np.ndarray | None:
        file = self._file(items, ".npy")
        if not self._has_shape(file, items):
            return None
        embeddings: np.ndarray = np.lib.format.open_memmap(file, mode="r")
        return embeddings

    def _has_shape(self, file: Path, items: CachedItems) -> bool:
        try:
            found = np.lib.format.open_memmap(file, mode="r")
        except Exception:  # a damaged header can fail in any way; what is damaged is computed again
            return False
        return bool(found.shape == (items.n, self.dim) and found.dtype == np.float16)

    def _file(self, items: CachedItems, suffix: str) -> Path:
        return self.folder / f"{items.name}{suffix}"


def take_space(file: Path) -> None:
    """Let a file have the space on the disk that its size says, so that writing to its pages cannot fail.

    Raises:
        OSError: there is not enough.
    """
    if hasattr(os, "posix_fallocate") and (size := file.stat().st_size):
        with file.open("r+b") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, size)
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # a file system without such a call
                    raise


def unit_rows(embeddings: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """Some stored embeddings in float32, normalised again, ``[n, D]``."""
    wide = torch.from_numpy(np.asarray(embeddings[rows], np.float32))
    return F.normalize(wide.to(device), dim=1)
