"""Features of a frozen backbone, computed once per image and kept on the disk.

One SQLite file per backbone, in the user's cache; a row per image, found by a checksum of its pixels. So the order of
the classes, further tasks, other folders with the same images and a killed run cost nothing twice. Features are kept in
fp16, and are rounded to it also when they have just been computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effcli.core.errors import NonFiniteError, RunError
from effcli.core.files import cache_folder, make_folder
from effcli.core.progress import progress_bar
from effcli.core.run import Run

BATCH = 64
"""Images whose features are computed, and written, together."""

_ASKED = 500
"""Checksums per query."""


class KeptFeatures:
    """Features by image.

    Args:
        file: of the database.
        dim: numbers per image.
        compute: from uint8 images ``[B, C, S, S]`` to their features ``[B, D]``.
    """

    def __init__(self, file: Path, dim: int, compute: Callable[[Tensor], Tensor]) -> None:
        self.file = file
        self.dim = dim
        self._compute = compute

    def of(self, images: Tensor, run: Run | None = None) -> Tensor:
        """Features ``[N, D]``, float32 on the CPU; those that are missing are computed first.

        Args:
            images: uint8 ``[N, C, S, S]``.
            run: shows the progress, and is asked to stop between two batches; its processes, which must have the same
                images, share the missing ones out.

        Raises:
            RunError: the file cannot be written.
            NonFiniteError: a feature is NaN or infinite in fp16.
        """
        names = [_checksum(image) for image in images]
        with self._open() as database:
            missing = self._missing(database, names)
            if run is not None:  # processes may have files of their own, on other machines
                missing = sorted(set().union(*run.runtime.gather(missing)))
            show = run is not None and run.show_progress and len(missing) > BATCH
            together = BATCH * (1 if run is None else run.runtime.world)
            with progress_bar("features", len(missing), 0, "images", show=show) as advance:
                for start in range(0, len(missing), together):
                    if run is not None:
                        run.check_stop()
                    rows = missing[start : start + together]
                    found = self._shared_out(images, rows, run)
                    if not bool(found.isfinite().all()):
                        raise NonFiniteError(
                            "the features of images are not finite in fp16", place=str(self.file)
                        )
                    kept = [(names[row], one.numpy().tobytes()) for row, one in zip(rows, found, strict=True)]
                    with database:
                        database.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", kept)
                    for _ in rows:
                        advance()
            return self._read(database, names)

    def _shared_out(self, images: Tensor, rows: Sequence[int], run: Run | None) -> Tensor:
        """Features of some images in fp16, each process ``BATCH`` of them in turn."""
        if run is None or run.runtime.world == 1:
            return self._compute(images[torch.tensor(rows)]).cpu().half()
        own = rows[run.runtime.rank * BATCH : (run.runtime.rank + 1) * BATCH]
        found = (
            self._compute(images[torch.tensor(own)]).cpu().half() if own else torch.zeros(0, self.dim).half()
        )
        return torch.cat(run.runtime.gather(found))

    def _missing(self, database: sqlite3.Connection, names: Sequence[bytes]) -> list[int]:
        """The first row of each image that is not there."""
        first = {name: row for row, name in reversed(list(enumerate(names)))}
        return sorted(
            first[name] for name in first.keys() - dict(_rows(database, list(first), "name, NULL")).keys()
        )

    def _read(self, database: sqlite3.Connection, names: Sequence[bytes]) -> Tensor:
        known = dict(_rows(database, list(dict.fromkeys(names)), "name, feature"))
        whole = np.frombuffer(b"".join(known[name] for name in names), np.float16)
        return torch.from_numpy(whole.reshape(len(names), self.dim).astype(np.float32))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        make_folder(self.file.parent)
        try:
            with contextlib.closing(sqlite3.connect(self.file, timeout=60)) as database:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS features (name BLOB PRIMARY KEY, feature BLOB NOT NULL) WITHOUT ROWID"
                )
                yield database
        except sqlite3.Error as error:
            raise RunError(
                f"the cached features cannot be used: {error}",
                place=str(self.file),
                hint="delete the file, and they are computed again; or name another folder with network.features",
            ) from None


def features_file(folder: str | None, backbone: nn.Module, *about: str) -> Path:
    """Where the features of a backbone are kept: its name is a checksum of its weights and of what else they depend on.

    Args:
        folder: that holds such files; None: ``effcli/features`` in the user's cache.
        backbone: of the features.
        about: how images are prepared, and in which precision features are computed.
    """
    digest = hashlib.blake2b("\0".join(("1", *about)).encode(), digest_size=12)
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    root = Path(folder) if folder else cache_folder("features")
    return root / f"{digest.hexdigest()}.sqlite"


def _rows(
    database: sqlite3.Connection, names: Sequence[bytes], columns: str
) -> Iterator[tuple[bytes, bytes]]:
    for start in range(0, len(names), _ASKED):
        asked = names[start : start + _ASKED]
        marks = ",".join("?" * len(asked))
        yield from database.execute(f"SELECT {columns} FROM features WHERE name IN ({marks})", asked)


def _checksum(image: Tensor) -> bytes:
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().data)
    return digest.digest()
