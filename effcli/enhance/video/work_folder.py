"""The unfinished output of a video, in a hidden folder beside it, from which a killed command goes on.

`settings.json` says what is made; `frames.jsonl` has a line per frame that is done, in the order of the frames, and is
the only record of progress. The samples of a frame lie in `frame-N.npy` until a segment is full, which is then encoded
into `segment-N.mp4`. Whatever moment the process is killed at, what has no line is computed again, and segments begin
at the same frames as without the interruption.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from effcli.core.errors import InputError, RunError, UsageError
from effcli.core.files import LOCK_FILE, lock_folder, make_folder, read_json, write_error, write_text
from effcli.data.video.yuv import Planes
from effcli.enhance.video.plan import FRAMES_FILE, unfinished
from effcli.enhance.video.steady import FrameLevels

SEGMENT_FRAMES = 48
"""Some two seconds: each begins with a frame that is encoded for itself, to which players can jump."""

_SETTINGS, _SEGMENT_END = "settings.json", ".mp4"
_ANEW = "--force starts anew"


@dataclass(frozen=True)
class DoneFrame:
    """A frame that is done.

    Attributes:
        pts: its time stamp, in units of the input's time base.
        duration: in the same units; 0 where the file does not say.
        levels: what was measured.
    """

    pts: int
    duration: int
    levels: FrameLevels


class WorkFolder:
    """The unfinished output of one video; held by one process at a time. Use as a context manager.

    Args:
        destination: the output.
        settings: what decides the result; a folder of other settings is not continued.
        resume: go on with what is there.
        force: begin anew with what cannot be continued.

    Attributes:
        path: the folder.
        n_frames: frames that are done.
        last: the last of them.

    Raises:
        UsageError: another process works on it, or what is there is of other settings.
        RunError: it cannot be written.
    """

    def __init__(self, destination: Path, settings: dict[str, Any], *, resume: bool, force: bool) -> None:
        self.path = make_folder(unfinished(destination))
        self._lock = lock_folder(self.path)
        self.n_frames, self._n_encoded = 0, 0
        self.last: DoneFrame | None = None
        self._lines: BinaryIO | None = None
        try:
            self._settle(settings, resume=resume, force=force)
            self._take_up()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._lock.close()

    def _settle(self, settings: dict[str, Any], *, resume: bool, force: bool) -> None:
        """Leave in the folder what belongs to these settings, or nothing."""
        file = self.path / _SETTINGS
        if resume and file.exists():
            begun = read_json(file, hint=_ANEW)
            other = sorted(
                name for name in settings.keys() | begun.keys() if settings.get(name) != begun.get(name)
            )
            if not other:
                return
            if not force:
                said = ", ".join(f"{name} was {begun.get(name)}, is {settings.get(name)}" for name in other)
                raise UsageError(f"was begun with other settings: {said}", place=str(self.path), hint=_ANEW)
        remove_content(self.path)
        write_text(file, json.dumps(settings))

    def _take_up(self) -> None:
        """Find what is done; a line that is not whole, and what follows a frame that is not there, does not count."""
        file = self.path / FRAMES_FILE
        n_bytes = 0
        if file.exists():
            with file.open("rb") as lines:
                for line in lines:
                    frame = _parsed(line)
                    if frame is None or not self._is_kept(self.n_frames):
                        break
                    self.n_frames, self.last = self.n_frames + 1, frame
                    n_bytes += len(line)
        self._lines = file.open("ab")
        self._lines.truncate(n_bytes)

    def _is_kept(self, number: int) -> bool:
        return self._segment(number // SEGMENT_FRAMES).exists() or self._frame(number).exists()

    def add(self, planes: Planes, frame: DoneFrame) -> None:
        """Keep the next frame.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        assert self._lines is not None
        try:
            with self._frame(self.n_frames).open("wb") as file:
                for plane in planes:
                    np.save(file, plane)
            self._lines.write(json.dumps(asdict(frame)).encode() + b"\n")
            self._lines.flush()
        except OSError as error:
            raise write_error(error, self.path) from error
        self.n_frames, self.last = self.n_frames + 1, frame

    def encode(self, encode: Callable[[Path, Iterator[Planes]], None], *, is_end: bool) -> None:
        """Encode segments that are full, at the end the last one too.

        Args:
            encode: writes frames to a file.
            is_end: no more frames will come.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        n_full, n_rest = divmod(self.n_frames, SEGMENT_FRAMES)
        for number in range(self._n_encoded, n_full + (is_end and n_rest > 0)):
            segment = self._segment(number)
            own = range(number * SEGMENT_FRAMES, min((number + 1) * SEGMENT_FRAMES, self.n_frames))
            if not segment.exists():
                partial = segment.with_suffix(".tmp")
                try:
                    encode(partial, (self._planes(one) for one in own))
                    partial.replace(segment)
                except OSError as error:
                    raise write_error(error, segment) from error
            if self._frame(own[0]).exists() or self._frame(own[-1]).exists():
                for one in own:
                    self._frame(one).unlink(missing_ok=True)
            self._n_encoded = number + 1

    def segments(self) -> list[Path]:
        """The encoded segments, in order."""
        return [self._segment(number) for number in range(-(-self.n_frames // SEGMENT_FRAMES))]

    def frames(self) -> Iterator[DoneFrame]:
        """All frames that are done, one after the other."""
        with (self.path / FRAMES_FILE).open("rb") as lines:
            for line in lines:
                frame = _parsed(line)
                if frame is None:
                    raise InputError("is damaged", place=str(self.path / FRAMES_FILE), hint=_ANEW)
                yield frame

    def remove(self) -> None:
        """Remove the folder, when the output is there or nothing is to be kept."""
        self._close()
        shutil.rmtree(self.path, ignore_errors=True)

    def _segment(self, number: int) -> Path:
        return self.path / f"segment-{number:06d}{_SEGMENT_END}"

    def _frame(self, number: int) -> Path:
        return self.path / f"frame-{number:08d}.npy"

    def _planes(self, number: int) -> Planes:
        planes: Planes = []
        try:
            with self._frame(number).open("rb") as file:
                end = os.fstat(file.fileno()).st_size
                while file.tell() < end:
                    planes.append(np.load(file, allow_pickle=False))
        except (ValueError, EOFError):
            raise RunError("is damaged", place=str(self._frame(number)), hint=_ANEW) from None
        return planes


def remove_content(folder: Path) -> None:
    """Remove what is in a folder of unfinished output, but the lock."""
    for entry in folder.iterdir():
        if entry.name != LOCK_FILE:
            entry.unlink()


def _parsed(line: bytes) -> DoneFrame | None:
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
        return DoneFrame(content["pts"], content["duration"], FrameLevels(**content["levels"]))
    except (ValueError, TypeError, KeyError):
        return None
