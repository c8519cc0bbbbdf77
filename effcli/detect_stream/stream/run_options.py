"""What the command line says about one stream beyond the recipe, and whether it fits together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from effcli.core.errors import UsageError
from effcli.core.files import check_new_file, check_new_folder
from effcli.data.moving_pictures import check_video
from effcli.detect_stream.recipe import StreamRunSection
from effcli.detect_stream.sources.frame_source import FrameSource
from effcli.detect_stream.sources.open_source import SourceName, is_real
from effcli.detect_stream.weights import trained_on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """Where frames come from, and what is written.

    Attributes:
        source: where frames come from.
        pipe: standard input.
        latencies_s: of the virtual clock, seconds, in turn; None takes what was measured.
        most_frames: stop after this many; None at the end.
        output: folder for streaming.jsonl and results in KITTI's form.
        video: moving picture to write.
        depth: folder for a 16-bit picture of the depth of each frame.
        depth_video: moving picture of the depth to write.
        log: recording for the rerun viewer to write.
        force: overwrite them.
    """

    source: SourceName = field(default_factory=SourceName)
    pipe: BinaryIO | None = None
    latencies_s: tuple[float, ...] | None = None
    most_frames: int | None = None
    output: Path | None = None
    video: Path | None = None
    depth: Path | None = None
    depth_video: Path | None = None
    log: Path | None = None
    force: bool = False

    @property
    def wants_depth(self) -> bool:
        """Whether anything is useless without the depth of the pixels."""
        return self.depth is not None or self.depth_video is not None


def read_latencies(text: str) -> tuple[float, ...]:
    """Latencies in seconds from milliseconds on the command line, or from a file with one number per line.

    Raises:
        UsageError: it is neither.
    """
    try:
        words = [text] if not Path(text).is_file() else Path(text).read_text(encoding="utf-8").split()
        values = tuple(float(word) / 1000 for word in words)
    except (ValueError, OSError):
        values = ()
    if not values or not all(0 <= value < 3600 for value in values):
        raise UsageError("expected milliseconds, or a file with one number per line", place=text)
    return values


def check_options(options: RunOptions, settings: StreamRunSection, source: FrameSource) -> None:
    """Make sure, before any work, that everything can be written and fits together.

    Raises:
        UsageError: it does not.
    """
    for video in (options.video, options.depth_video):
        if video is not None:
            check_video(video)
            check_new_file(video, force=options.force)
    if options.log is not None:
        _check_log(options.log)
        check_new_file(options.log, force=options.force)
    for folder in (options.output, options.depth):
        if folder is not None:
            check_new_folder(folder, force=options.force)
    _check_all_differ(options)
    if settings.clock == "sim" and source.is_live:
        raise UsageError("live sources need --clock wall", place="--clock sim")
    if options.latencies_s is not None and settings.clock != "sim":
        raise UsageError(
            "latencies are simulated on the virtual clock only",
            place="--simulate-latency",
            hint="--clock sim",
        )


def _check_all_differ(options: RunOptions) -> None:
    """Make sure that no two things are to be written at one place."""
    named = {
        "-o": options.output,
        "--video": options.video,
        "--depth": options.depth,
        "--depth-video": options.depth_video,
        "--log": options.log,
    }
    seen: dict[Path, str] = {}
    for option, path in named.items():
        if path is None:
            continue
        other = seen.setdefault(path.absolute(), option)
        if other != option:
            raise UsageError(f"{other} and {option} name the same place", place=str(path))


def _check_log(path: Path) -> None:
    """Make sure that a recording can be written."""
    if path.suffix.lower() != ".rrd":
        raise UsageError(f"unknown file extension {path.suffix!r}", place=str(path), hint="name a .rrd file")
    try:
        from rerun import RecordingStream  # noqa: F401
    except ImportError:
        raise UsageError("needs rerun-sdk", place="--log", hint="pip install 'effcli[rerun]'") from None


def say_if_not_learned(weights: str, options: RunOptions) -> None:
    """Log that a built-in detector has seen no real road, if the pictures may be of one."""
    if is_real(options.source) and (data := trained_on(weights)):
        log.warning(
            "%s has learned from %s: it finds fewer objects on real roads; train on your own data",
            weights,
            data,
        )
