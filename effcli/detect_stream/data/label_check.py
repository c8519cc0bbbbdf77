"""Whether labelled boxes in 3D, seen by the camera, cover the labelled boxes in the picture."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.boxes3d import ImageView, from_camera, to_camera
from effcli.detect_stream.data.frame_objects import FrameObjects

log = logging.getLogger(__name__)

_KINDS = ("Car", "Van", "Truck", "Pedestrian", "Person", "Cyclist")
_MOST_OBJECTS, _LEAST_OBJECTS = 500, 5
_POOR, _GOOD, _LEAST_GAIN = 0.5, 0.8, 0.1
"""Median overlaps that do not fit and that do, and by how much another form must fit better; KITTI's have 0.97."""


def check_labels(frames: Iterable[FrameObjects], view: ImageView, place: str) -> None:
    """Compare the boxes of the first objects that have both forms.

    Args:
        frames: labels, the 2D boxes as they are in the file.
        view: of the left camera.
        place: of the labels.

    Raises:
        InputError: they do not fit, but would in another form (sizes in another order, the centre of the box).
    """
    boxes, wanted = _both_forms(frames)
    if len(boxes) < _LEAST_OBJECTS:
        return
    overlap = _median_overlap(boxes, wanted, view)
    others = {form: _median_overlap(other, wanted, view) for form, other in _other_forms(boxes).items()}
    best = max(others, key=lambda form: others[form])
    if others[best] >= max(_GOOD, overlap + _LEAST_GAIN):
        raise InputError(
            f"its 3D boxes do not fit its 2D boxes (median overlap {overlap:.2f}), but would ({others[best]:.2f}) "
            f"with {best}",
            place=place,
            hint="KITTI writes height, width, length, then x, y, z of the centre of the bottom face",
        )
    if overlap >= _POOR:
        return
    log.warning(
        "%s: its 3D boxes, seen by the left camera, do not fit its 2D boxes (median overlap %.2f): check the"
        " calibration, units, and the frame of reference (camera, not LiDAR)",
        place,
        overlap,
    )


def _both_forms(frames: Iterable[FrameObjects]) -> tuple[np.ndarray, np.ndarray]:
    """3D ``[N, 7]`` and 2D ``[N, 4]`` boxes of the first objects that have both."""
    known = [
        one.pick(np.isin(one.kinds, _KINDS) & (one.image_boxes[:, 2:] > one.image_boxes[:, :2]).all(1))
        for one in frames
        if len(one)
    ]
    found = [(box, flat) for one in known for box, flat in zip(one.boxes, one.image_boxes, strict=True)]
    boxes, flat = zip(*islice(found, _MOST_OBJECTS), strict=True) if found else ((), ())
    return np.array(boxes, float).reshape(-1, 7), np.array(flat, float).reshape(-1, 4)


def _other_forms(boxes: np.ndarray) -> dict[str, np.ndarray]:
    """What the boxes would be if the file were written in another form."""
    xyz, hwl, rotation_y = to_camera(boxes)
    raised = xyz + np.stack([0 * hwl[:, 0], hwl[:, 0] / 2, 0 * hwl[:, 0]], 1)
    by_order = {
        "sizes in the order length, width, height": hwl[:, [2, 1, 0]],
        "sizes in the order width, length, height": hwl[:, [2, 0, 1]],
        "sizes in the order width, height, length": hwl[:, [1, 0, 2]],
        "sizes in the order length, height, width": hwl[:, [1, 2, 0]],
    }
    forms = {name: from_camera(xyz, sizes, rotation_y) for name, sizes in by_order.items()}
    forms["y of the centre of the box instead of its bottom face"] = from_camera(raised, hwl, rotation_y)
    return forms


def _median_overlap(boxes: np.ndarray, wanted: np.ndarray, view: ImageView) -> float:
    """Median intersection over union of what the camera sees of boxes with the 2D boxes of labels."""
    seen = view.image_boxes(boxes)
    low, high = np.maximum(seen[:, :2], wanted[:, :2]), np.minimum(seen[:, 2:], wanted[:, 2:])
    inside = np.clip(high - low, 0, None).prod(1)
    areas = [np.clip(one[:, 2:] - one[:, :2], 0, None).prod(1) for one in (seen, wanted)]
    return float(np.median(inside / np.maximum(areas[0] + areas[1] - inside, 1e-9)))
