"""Where frames come from: sequences on the disk, two folders, two videos, standard input, synthetic drives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from effcli.core.errors import InputError, UsageError
from effcli.data.images import read_rgb
from effcli.detect_stream.data.kitti_tracking import (
    LEFT,
    RIGHT,
    KittiSequence,
    paired_pictures,
    read_pair,
    sequence_names,
)
from effcli.detect_stream.data.labelled_sequences import drawn, parse_synthetic
from effcli.detect_stream.data.stereo_calibration import StereoCalibration, read_calibration
from effcli.detect_stream.data.stereo_drives import Drive
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame, StereoSequence

VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
_LARGEST_PX = 8192
_DEFAULT_FRAMES = 60
_DEFAULT_SEED = 2_000_000


@dataclass(frozen=True)
class Arrival:
    """A frame as it comes.

    Attributes:
        number: from 0; numbers of damaged frames are used up.
        frame: None where it is damaged.
        damage: what is wrong with it.
    """

    number: int
    frame: StereoFrame | None
    damage: str | None = None


class FrameSource(Protocol):
    """A stream of frames.

    Attributes:
        name: for people.
        calibration: of the cameras.
        fps: frames a second.
        n_frames: how many come; None where that is not known.
        is_live: frames come when they come; else one is due every 1 / fps seconds.
        sequence: labels and poses, where they are known.
    """

    name: str
    calibration: StereoCalibration
    fps: float
    n_frames: int | None
    is_live: bool
    sequence: StereoSequence | None

    def frames(self) -> Iterator[Arrival]:
        """All frames once."""


def has_labels(source: FrameSource) -> bool:
    """Whether the truth is known."""
    return source.sequence is not None and source.sequence.has_labels


def limited(arrivals: Iterator[Arrival], most: int | None) -> Iterator[Arrival]:
    """Only frames with numbers below ``most``; None: all."""
    for arrival in arrivals:
        if most is not None and arrival.number >= most:
            return
        yield arrival


class SequenceSource:
    """A labelled or unlabelled sequence; a damaged picture is named and left out."""

    is_live = False

    def __init__(self, sequence: StereoSequence, fps: float | None = None) -> None:
        self.name, self.calibration = sequence.name, sequence.calibration
        self.fps = fps or sequence.fps
        self.n_frames: int | None = len(sequence)
        self.sequence: StereoSequence | None = sequence

    def frames(self) -> Iterator[Arrival]:
        """All frames."""
        assert self.sequence is not None
        for i in range(len(self.sequence)):
            try:
                yield Arrival(i, self.sequence.frame(i))
            except InputError as error:
                yield Arrival(i, None, str(error))


class FolderPair:
    """Two folders of pictures as a sequence without labels."""

    has_labels = False

    def __init__(self, left: Path, right: Path, calibration: StereoCalibration) -> None:
        self.name, self.calibration, self.fps = left.parent.name or "stream", calibration, FPS
        self.left, self.right = paired_pictures(left, right)

    def __len__(self) -> int:
        return len(self.left)

    def frame(self, i: int) -> StereoFrame:
        """The pair."""
        return read_pair(self.left[i], self.right[i])

    def objects(self, i: int) -> Any:
        """Nothing is known."""
        from effcli.detect_stream.data.kitti_labels import no_objects

        return no_objects()

    def depth(self, i: int) -> None:
        """Nothing is known."""

    def pose(self, i: int) -> None:
        """Nothing is known."""


class VideoSource:
    """Two videos of the same length; needs PyAV, ``pip install effcli[video]``."""

    is_live = False

    def __init__(self, left: Path, right: Path, calibration: StereoCalibration, fps: float | None) -> None:
        self.name, self.calibration = left.stem, calibration
        self._paths = (left, right)
        containers = [_open_video(path) for path in self._paths]
        streams = [container.streams.video[0] for container in containers]
        sizes = [(stream.height, stream.width) for stream in streams]
        counts = [stream.frames for stream in streams]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"is {sizes[1][1]}x{sizes[1][0]}, the left video {sizes[0][1]}x{sizes[0][0]}",
                place=str(right),
            )
        if counts[0] != counts[1]:
            raise InputError(f"has {counts[1]} frames, the left video {counts[0]}", place=str(right))
        self.fps = fps or float(streams[0].average_rate or FPS)
        self.n_frames: int | None = counts[0] or None
        self.sequence: StereoSequence | None = None
        for container in containers:
            container.close()

    def frames(self) -> Iterator[Arrival]:
        """All frames, up to where one of the videos is damaged."""
        import av

        number = 0
        with _open_video(self._paths[0]) as left, _open_video(self._paths[1]) as right:
            try:
                for pair in zip(left.decode(video=0), right.decode(video=0), strict=False):
                    yield Arrival(number, StereoFrame(*(one.to_ndarray(format="rgb24") for one in pair)))
                    number += 1
            except av.FFmpegError as error:
                yield Arrival(number, None, f"a video cannot be read any further: {error}")


def _open_video(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise UsageError("videos need PyAV", place=str(path), hint="pip install 'effcli[video]'") from None
    try:
        container = av.open(str(path))
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"cannot be read as a video: {error}", place=str(path)) from None
    if not container.streams.video:
        raise InputError("holds no video", place=str(path))
    return container


class PipeSource:
    """Frames from a pipe.

    Each begins with a line of JSON. ``{"w": 1242, "h": 375}`` is followed by the left and the right picture as raw RGB
    bytes, ``{"left_bytes": 81234, "right_bytes": 80111}`` by both as PNG or JPEG files of these sizes.
    """

    is_live = True
    name = "stdin"

    def __init__(self, pipe: BinaryIO, calibration: StereoCalibration, fps: float | None) -> None:
        self._pipe, self.calibration, self.fps = pipe, calibration, fps or FPS
        self.n_frames: int | None = None
        self.sequence: StereoSequence | None = None

    def frames(self) -> Iterator[Arrival]:
        """Frames until the pipe is closed; one that is cut off by its end is not counted."""
        number = 0
        while line := self._pipe.readline():
            if not line.strip():
                continue
            header = _header(line, number)
            if "w" in header:
                width, height = header["w"], header["h"]
                n_bytes = width * height * 3
                raw = [self._read(n_bytes), self._read(n_bytes)]
                if None in raw:
                    return
                shaped = [np.frombuffer(part or b"", np.uint8).reshape(height, width, 3) for part in raw]
                yield Arrival(number, StereoFrame(*shaped))
            else:
                files = [self._read(header["left_bytes"]), self._read(header["right_bytes"])]
                if None in files:
                    return
                yield _decoded(number, [part or b"" for part in files])
            number += 1

    def _read(self, n_bytes: int) -> bytes | None:
        data = self._pipe.read(n_bytes)
        return data if len(data) == n_bytes else None


def _header(line: bytes, number: int) -> dict[str, Any]:
    place = f"stdin, frame {number}"
    try:
        content = json.loads(line)
    except ValueError:
        raise InputError("the line before a frame is no JSON", place=place) from None
    for names, most in ((("w", "h"), _LARGEST_PX), (("left_bytes", "right_bytes"), 2**28)):
        values: list[Any] = [content.get(name) for name in names] if isinstance(content, dict) else []
        if values and all(isinstance(v, int) and 0 < v <= most for v in values):
            return dict(zip(names, values, strict=True))
    raise InputError(
        "the line before a frame has neither w and h nor left_bytes and right_bytes", place=place
    )


def _decoded(number: int, files: list[bytes]) -> Arrival:
    try:
        pictures = [read_rgb(one, place=f"stdin, frame {number}") for one in files]
    except InputError as error:
        return Arrival(number, None, f"a picture is damaged: {error.message}")
    if pictures[0].shape != pictures[1].shape:
        return Arrival(number, None, "left and right have not the same size")
    return Arrival(number, StereoFrame(*pictures))


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
        fps: frames a second; None as the source says, else 10.
        pipe: standard input.
        most_frames: of a synthetic drive.

    Raises:
        InputError: there is no such thing, or it is damaged.
        UsageError: something is missing on the command line.
    """
    if source is None or parse_synthetic(source) is not None:
        return SequenceSource(drawn([_drive(source, most_frames)], 1)[0], fps)
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
    return SequenceSource(_on_disk(path, calibration), fps)


def _drive(source: str | None, most_frames: int | None) -> Drive:
    name = parse_synthetic(source) if source else None
    n_frames = max(3, min(_DEFAULT_FRAMES, most_frames or _DEFAULT_FRAMES))
    if name is None:
        return Drive(_DEFAULT_SEED, n_frames, "crowded")
    return Drive(_DEFAULT_SEED + name.n_drives, n_frames, name.presets[0])


def _required(calibration: str | None, place: str) -> Path:
    if calibration is None:
        raise UsageError("needs a calibration", place=place, hint="--calib FILE with lines P2: and P3:")
    return Path(calibration)


def _on_disk(path: Path, calibration: str | None) -> StereoSequence:
    if not path.exists() and not (path.parent / "training").exists() and not (path.parent / LEFT).exists():
        raise InputError("there is no such folder", place=str(path))
    for names in (("left", "right"), (LEFT, RIGHT)):
        left, right = (path / name for name in names)
        if left.is_dir() and right.is_dir() and any(one.is_file() for one in left.iterdir()):
            beside = path / "calib.txt"
            return FolderPair(left, right, read_calibration(Path(calibration) if calibration else beside))
    if any((folder / LEFT).is_dir() for folder in (path, path / "training")):
        names_there = sequence_names(path)
        if len(names_there) != 1:
            raise UsageError(
                f"holds {len(names_there)} sequences",
                place=str(path),
                hint=f"name one: {path}/{names_there[0]}",
            )
        return KittiSequence(path, names_there[0])
    for root in (path.parent, path.parent.parent, path.parent.parent.parent):
        if any((folder / LEFT / path.name).is_dir() for folder in (root, root / "training")):
            return KittiSequence(root, path.name)
    raise InputError(
        "is neither a sequence of KITTI Tracking nor a folder with left/ and right/",
        place=str(path),
        hint="name ROOT/0000, a folder with left/, right/ and calib.txt, or two folders and --calib FILE",
    )
