"""The objects of one frame: boxes in the ground frame of the cameras, and what labels know about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

UNKNOWN_2D = (-1.0, -1.0, -1.0, -1.0)


@dataclass(frozen=True)
class FrameObjects:
    """The objects of one frame.

    Attributes:
        kinds: ``Car``, ``Pedestrian``, ``Cyclist``, ``Van``, ``DontCare`` and so on.
        boxes: in the ground frame of :mod:`effcli.detect_stream.data.boxes3d`, ``[N, 7]``.
        image_boxes: left, top, right, bottom in pixels of the left image, ``[N, 4]``.
        track_ids: the same number for the same object over time, -1 for none, ``[N]``.
        truncated: KITTI Tracking has the whole numbers 0, 1 and 2 here, KITTI Object a share, ``[N]``.
        occluded: 0 visible, 1 partly, 2 largely occluded, 3 unknown, ``[N]``.
        scores: of detections, 1 for labels, ``[N]``.
    """

    kinds: tuple[str, ...]
    boxes: np.ndarray
    image_boxes: np.ndarray
    track_ids: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    def pick(self, chosen: np.ndarray | Sequence[int]) -> FrameObjects:
        """Some of them, by a mask or by numbers."""
        rows = np.arange(len(self))[np.asarray(chosen)] if len(chosen) else np.zeros(0, int)
        parts = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "kinds"}
        return FrameObjects(tuple(self.kinds[i] for i in rows), **parts)


def no_objects() -> FrameObjects:
    """An empty frame."""
    return objects_of((), np.zeros((0, 7)))


def objects_of(
    kinds: Sequence[str],
    boxes: np.ndarray,
    *,
    image_boxes: np.ndarray | None = None,
    track_ids: np.ndarray | None = None,
    truncated: np.ndarray | None = None,
    occluded: np.ndarray | None = None,
    scores: np.ndarray | None = None,
) -> FrameObjects:
    """Objects; what is not given is unknown, or 1 for scores."""
    n = len(kinds)
    return FrameObjects(
        tuple(kinds),
        np.asarray(boxes, float).reshape(n, 7),
        np.tile(UNKNOWN_2D, (n, 1)) if image_boxes is None else np.asarray(image_boxes, float).reshape(n, 4),
        np.full(n, -1) if track_ids is None else np.asarray(track_ids, int),
        np.zeros(n) if truncated is None else np.asarray(truncated, float),
        np.zeros(n, int) if occluded is None else np.asarray(occluded, int),
        np.ones(n) if scores is None else np.asarray(scores, float),
    )
