"""A stream as a moving picture: every frame with the boxes that were there at its moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from effcli.core.files import make_folder
from effcli.data.moving_pictures import write_video
from effcli.detect_stream.data.frame_objects import no_objects
from effcli.detect_stream.sources.frame_source import Arrival, FrameSource, has_labels, limited
from effcli.detect_stream.stream.clocks import StreamRecord
from effcli.detect_stream.stream.drawing import draw
from effcli.detect_stream.stream.output_pairing import pair_outputs

log = logging.getLogger(__name__)

MOST_BYTES = 2**30
"""Pictures of a stream that cannot be read twice, kept until they are drawn on."""


class Pictures:
    """Left pictures of a stream: read once more, or where that cannot be done, kept as they go by.

    Args:
        source: the stream.
        most_frames: of it; None: all.
    """

    def __init__(self, source: FrameSource, most_frames: int | None) -> None:
        self._source, self._most_frames = source, most_frames
        self._kept: dict[int, np.ndarray] = {}
        self._n_bytes = 0

    def watch(self, arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
        """The same frames."""
        for arrival in arrivals:
            if self._source.is_live and arrival.frame is not None and not self.is_full:
                self._kept[arrival.number] = arrival.frame.left
                self._n_bytes += arrival.frame.left.nbytes
            yield arrival

    @property
    def is_full(self) -> bool:
        """Whether frames went by that could not be kept any more."""
        return self._n_bytes >= MOST_BYTES

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number and picture of each frame that could be read."""
        if self._source.is_live:
            yield from self._kept.items()
            return
        for arrival in limited(self._source.frames(), self._most_frames):
            if arrival.frame is not None:
                yield arrival.number, arrival.frame.left


def write_stream_video(
    path: Path, source: FrameSource, stream: StreamRecord, pictures: Pictures, score: float
) -> None:
    """Draw what was known at the moment of each frame.

    Args:
        path: GIF, WebP or MP4.
        source: the stream, with its truth where that is known.
        stream: all outputs.
        pictures: to draw on.
        score: least one of a box.
    """
    make_folder(path.parent)
    write_video(path, _drawn(source, stream, pictures, score), source.fps)
    if pictures.is_full:
        log.warning("the video has only the first %d MiB of pictures", MOST_BYTES // 2**20)


def _drawn(
    source: FrameSource, stream: StreamRecord, pictures: Pictures, score: float
) -> Iterator[Image.Image]:
    outputs = [one.above(score) for one in stream.outputs]
    pairing = pair_outputs(
        [one.finished_s for one in outputs],
        [one.captured_s for one in outputs],
        [captured_s for _, captured_s in stream.moments],
    )
    places = {number: place for place, (number, _) in enumerate(stream.moments)}
    for number, picture in pictures:
        if number not in places:
            return
        place = places[number]
        k = pairing[place]
        truth = source.sequence.objects(place) if source.sequence and has_labels(source) else None
        if k is None:
            known, title = no_objects(), "nothing yet"
        else:
            known = outputs[k].objects
            title = f"boxes made of frame {outputs[k].frame}, {outputs[k].age_ms:.0f} ms old when there"
        yield draw(picture, source.calibration, known, truth, f"frame {number}: {title}")
