"""From what the command line names to a source of frames. A new source is a file beside this one, and a case here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from effcli.core.errors import UsageError
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.drive_sets import drawn_sequences, drive_of, parse_synthetic
from effcli.detect_stream.data.picture_pairs import PairSequence, PicturePair, folder_pair, pictures_in
from effcli.detect_stream.data.sequence_layouts import open_sequence
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.data.town.drive import TownDrive
from effcli.detect_stream.sources.frame_source import FrameSource, SequenceSource
from effcli.detect_stream.sources.pipe_source import PipeSource
from effcli.detect_stream.sources.video_source import VIDEO_ENDINGS, LiveSource, VideoSource, is_live_name

_DEFAULT_FRAMES = 60


_DEFAULT_SEED = 2_000_000


@dataclass(frozen=True)
class SourceName:
    """What the command line names.

    Attributes:
        source: None for a synthetic drive, ``synthetic:N`` for drive N, a folder of a layout that is read, a left
            folder, picture or video, a camera or the address of a stream, or ``-``.
        right: the right folder, picture or video.
        calibration: file of the calibration; None looks where it should be.
        fps: frames per second; None as the source says, else 10.
        side_by_side: ``source`` has both eyes in each picture, the left one at the left.
    """

    source: str | None = None
    right: str | None = None
    calibration: str | None = None
    fps: float | None = None
    side_by_side: bool = False


def open_source(name: SourceName, pipe: BinaryIO, most_frames: int | None = None) -> FrameSource:
    """The stream that the command line names.

    Args:
        name: what it names.
        pipe: standard input.
        most_frames: of a synthetic drive.

    Raises:
        InputError: the source does not exist, or it is damaged.
        UsageError: something is missing on the command line.
    """
    source, fps = name.source, name.fps
    if name.side_by_side and name.right is not None:
        raise UsageError("is one source with both views: leave the right one out", place="--side-by-side")
    if name.side_by_side and (source in (None, "-") or parse_synthetic(str(source)) is not None):
        raise UsageError("a pipe and synthetic drives have two pictures per frame", place="--side-by-side")
    if source is None or parse_synthetic(source) is not None:
        return SequenceSource(drawn_sequences([partial(_drive, source, most_frames)], 1)[0], fps)
    if source == "-":
        return PipeSource(pipe, _calibration(name), fps)
    if is_live_name(source):
        if not name.side_by_side:
            raise UsageError(
                "a camera must have both views in one picture: separate ones do not say which frames belong together",
                place=source,
                hint="--side-by-side; or pair the frames yourself and send them through a pipe (-)",
            )
        return LiveSource(source, _calibration(name), fps)
    return _of_files(name, Path(source))


def is_real(name: SourceName) -> bool:
    """Whether the pictures may be of a real camera."""
    return name.source is not None and parse_synthetic(name.source) is None


def _of_files(name: SourceName, path: Path) -> FrameSource:
    if path.suffix.lower() in VIDEO_ENDINGS and not path.is_dir():
        if name.right is None and not name.side_by_side:
            raise UsageError(
                "is one video",
                place=str(path),
                hint="name the right one after it, or --side-by-side if it has both views",
            )
        return VideoSource(path, Path(name.right) if name.right else None, _calibration(name), name.fps)
    if name.side_by_side:
        pairs = [PicturePair(one, None, True) for one in ([path] if path.is_file() else pictures_in(path))]
        folder = path.parent if path.is_file() else path
        times = () if path.is_file() else (folder, folder.parent)
        return SequenceSource(PairSequence(path.stem, pairs, _calibration(name), times), name.fps)
    if name.right is None:
        return SequenceSource(open_sequence(path, name.calibration), name.fps)
    known, right = _calibration(name), Path(name.right)
    if path.is_file() and right.is_file():
        return SequenceSource(PairSequence(path.stem, [PicturePair(path, right)], known), name.fps)
    return SequenceSource(folder_pair(path, right, known), name.fps)


def _drive(source: str | None, most_frames: int | None) -> Drive | TownDrive:
    name = parse_synthetic(source) if source else None
    n_frames = max(3, min(_DEFAULT_FRAMES, most_frames or _DEFAULT_FRAMES))
    if name is None:
        return Drive(_DEFAULT_SEED, n_frames, "crowded")
    return drive_of(_DEFAULT_SEED + name.n_drives, name.presets[0], n_frames)


def _calibration(name: SourceName) -> StereoCalibration:
    if name.calibration is None:
        raise UsageError(
            "needs a calibration",
            place=name.source,
            hint="--calib FILE: lines P2: and P3: of 12 numbers, or another form of "
            "docs/tasks/detect-stream.md",
        )
    return read_calibration(Path(name.calibration))
