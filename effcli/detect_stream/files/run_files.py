"""Everything that the command line asks to be written of one stream."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from effcli.detect_stream.files.background import Background
from effcli.detect_stream.files.depth_files import DepthFiles
from effcli.detect_stream.files.depth_video import DepthVideo
from effcli.detect_stream.files.output_files import StreamFiles
from effcli.detect_stream.files.rerun_log import RerunLog
from effcli.detect_stream.sources.frame_source import FrameSource, numbers_of
from effcli.detect_stream.stream.clocks import StreamRecord
from effcli.detect_stream.stream.publishing import OutputWriter
from effcli.detect_stream.stream.run_options import RunOptions


class RunFiles:
    """What is written while a stream runs; leaving the context finishes all of it.

    Args:
        options: what is asked for.
        source: the stream, with the calibration of its pictures.
        size: height and width of its pictures.
        depth_range: nearest and farthest depth of the detector, metres.

    Attributes:
        writers: shown each output.

    Raises:
        RunError: a folder or a file cannot be written.
    """

    def __init__(
        self,
        options: RunOptions,
        source: FrameSource,
        size: tuple[int, int],
        depth_range: tuple[float, float],
    ) -> None:
        self._options, self._source = options, source
        self._size, self._depth_range = size, depth_range
        self._stack = ExitStack()
        self._results: StreamFiles | None = None
        self.writers: list[OutputWriter] = []

    def __enter__(self) -> RunFiles:
        options, source = self._options, self._source
        if options.output is not None:
            files = StreamFiles(options.output, source.name, numbers_of(source))
            self._results = self._stack.enter_context(files)
            self.writers.append(files)
        background = Background()
        if options.log is not None:
            log = RerunLog(options.log, source.name, source.calibration, self._size, background)
            self.writers.append(self._stack.enter_context(log))
        if options.depth is not None:
            self.writers.append(DepthFiles(options.depth, background))
        self._stack.enter_context(background)  # finished before what it writes
        if options.depth_video is not None:
            video = DepthVideo(options.depth_video, source.fps, self._depth_range)
            self.writers.append(self._stack.enter_context(video))
        return self

    def ended(self, record: StreamRecord) -> None:
        """The stream has ended: write what waited for frames to come."""
        if self._results is not None and record.moments:
            self._results.came(record.moments[-1][0])

    @property
    def paths(self) -> list[str]:
        """Of everything that was written."""
        results = [] if self._results is None else self._results.paths
        others = (self._options.depth, self._options.depth_video, self._options.log)
        return [*results, *(str(path) for path in others if path is not None)]

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
