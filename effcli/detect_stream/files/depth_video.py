"""The depth of a stream as a moving picture, coloured, below the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from queue import Full, Queue
from typing import Any

from PIL import Image

from effcli.core.files import make_folder
from effcli.core.runtime import use_one_thread
from effcli.data.moving_pictures import write_video
from effcli.detect_stream.stream.drawing import draw_depth
from effcli.detect_stream.stream.output import StreamOutput

_MOST_WAITING = 16
_POLL_S = 0.5


class DepthVideo:
    """A moving picture that is written while outputs come; it is there, whole, when the context has been left.

    A frame that was left out shows the one before, and of several within 1 / ``fps`` seconds the first is shown: so the
    time of the video is that of the stream.

    Args:
        path: GIF, WebP or MP4.
        fps: frames per second.
        depth_range: nearest and farthest depth that the colours tell apart, metres.
    """

    def __init__(self, path: Path, fps: float, depth_range: tuple[float, float]) -> None:
        make_folder(path.parent)
        self._fps, self._range = fps, depth_range
        self._queue: Queue[StreamOutput | None] = Queue(_MOST_WAITING)
        self._pool = ThreadPoolExecutor(1, "depth-video", initializer=use_one_thread)
        self._written = self._pool.submit(write_video, path, self._pictures(), fps)

    def add(self, line: str, output: StreamOutput) -> None:
        """Append the frame that an output was made of."""
        self._put(output)

    def _put(self, output: StreamOutput | None) -> None:
        while not self._written.done():
            try:
                self._queue.put(output, timeout=_POLL_S)
                return
            except Full:
                pass
        self._written.result()

    def _pictures(self) -> Iterator[Image.Image]:
        n_shown, first_s, last = 0, 0.0, None
        while (output := self._queue.get()) is not None:
            images = output.detected.images
            first_s = output.captured_s if last is None else first_s
            place = round((output.captured_s - first_s) * self._fps)
            if images is None or images.depth is None or place < n_shown:
                continue
            if last is not None:
                yield from repeat(last, place - n_shown)
            last = draw_depth(images.left, images.depth, self._range, f"frame {output.frame}")
            yield last
            n_shown = place + 1

    def __enter__(self) -> DepthVideo:
        return self

    def __exit__(self, *error: Any) -> None:
        """Finish the file."""
        try:
            self._put(None)
            self._written.result()
        finally:
            self._pool.shutdown()
