"""From what the command line names to a source of frames. A new source is a file beside this one, and a case here."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from effcli.core.errors import UsageError
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.drive_sets import drawn_sequences, parse_synthetic
from effcli.detect_stream.data.folder_pairs import FolderPair
from effcli.detect_stream.data.sequence_layouts import open_sequence
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.sources.frame_source import FrameSource, SequenceSource
from effcli.detect_stream.sources.pipe_source import PipeSource
from effcli.detect_stream.sources.video_source import VIDEO_ENDINGS, VideoSource

_DEFAULT_FRAMES = 60


_DEFAULT_SEED = 2_000_000


def open_source(
    source: str | None,
    right: str | None,
    calibration: str | None,
    fps: float | None,
    pipe: BinaryIO,
    most_frames: int | None = None,
) -> FrameSource:
    """The stream that the command line names.

    Args:
        source: None for a synthetic drive, ``synthetic:N`` for drive N, a sequence of KITTI Tracking, a folder with
            left/ and right/, a left folder or video, or ``-``.
        right: the right folder or video.
        calibration: file of the calibration; None looks where it should be.
        fps: frames per second; None as the source says, else 10.
        pipe: standard input.
        most_frames: of a synthetic drive.

    Raises:
        InputError: there is no such source, or it is damaged.
        UsageError: something is missing on the command line.
    """
    if source is None or parse_synthetic(source) is not None:
        return SequenceSource(drawn_sequences([_drive(source, most_frames)], 1)[0], fps)
    if source == "-":
        return PipeSource(pipe, read_calibration(_required(calibration, "-")), fps)
    path = Path(source)
    if right is not None:
        found = read_calibration(_required(calibration, source))
        if path.suffix.lower() in VIDEO_ENDINGS:
            return VideoSource(path, Path(right), found, fps)
        return SequenceSource(FolderPair(path, Path(right), found), fps)
    if path.suffix.lower() in VIDEO_ENDINGS:
        raise UsageError("is one video; name the right one after it", place=source)
    return SequenceSource(open_sequence(path, calibration), fps)


def _drive(source: str | None, most_frames: int | None) -> Drive:
    name = parse_synthetic(source) if source else None
    n_frames = max(3, min(_DEFAULT_FRAMES, most_frames or _DEFAULT_FRAMES))
    if name is None:
        return Drive(_DEFAULT_SEED, n_frames, "crowded")
    return Drive(_DEFAULT_SEED + name.n_drives, n_frames, name.presets[0])


def _required(calibration: str | None, place: str) -> Path:
    if calibration is None:
        raise UsageError(
            "needs a calibration", place=place, hint="--calib FILE with lines P2: and P3: of 12 numbers"
        )
    return Path(calibration)
