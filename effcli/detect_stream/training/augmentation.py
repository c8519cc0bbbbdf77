"""Random changes of training samples, the same for all frames (docs/methods/streamdsgn.md, Augmentation)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from effcli.detect_stream.data.boxes3d import wrap_angle
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.training.clips import Sample

TURN_RAD, SCALES = 0.1, (0.97, 1.03)

_HIDES_PX = 4
"""How far known points may be apart, so that those behind them count as hidden."""

_SLOPE_PX = 2.0
"""By how much disparities of one surface may differ over so many pixels."""


def mirrored(sample: Sample) -> Sample:
    """The scene with its left and right exchanged: pictures mirrored, cameras in each other's place."""
    size = sample.frames[0].left.shape[:2]
    frames = tuple(
        StereoFrame(np.ascontiguousarray(f.right[:, ::-1]), np.ascontiguousarray(f.left[:, ::-1]))
        for f in sample.frames
    )
    fit = replace(sample.fit, calibration=sample.fit.calibration.mirrored(sample.fit.width))
    objects = tuple(mirrored_objects(one, size[1]) for one in sample.objects)
    depth = None
    if sample.depth is not None:
        factor = sample.fit.scaled[1] / size[1]
        depth = seen_from_right(sample.depth, sample.fit.calibration.focal_baseline / factor)[:, ::-1]
    motion = None if sample.motion is None else sample.motion * np.array([-1, 1, -1], np.float32)
    return Sample((frames[0], frames[1]), depth, objects, fit, motion)


def seen_from_right(depth: np.ndarray, focal_baseline: float) -> np.ndarray:
    """Depths of the left picture where the right one has them.

    Points move to the left by their disparity; of those that fall together the nearest stays, and what a nearer point
    beside it hides, between points that are a few pixels apart, goes.

    Args:
        depth: metres, 0 where unknown, ``[H, W]``.
        focal_baseline: disparity times depth, pixels times metres.

    Returns:
        Metres, 0 where unknown, ``[H, W]``.
    """
    rows, columns = np.nonzero(depth > 0)
    disparity = focal_baseline / depth[rows, columns]
    places = np.rint(columns - disparity).astype(int)
    inside = places >= 0
    nearest = np.zeros_like(depth)
    np.maximum.at(nearest, (rows[inside], places[inside]), disparity[inside])
    beside = nearest.copy()
    for k in range(1, _HIDES_PX + 1):
        np.maximum(beside[:, k:], nearest[:, :-k], out=beside[:, k:])
        np.maximum(beside[:, :-k], nearest[:, k:], out=beside[:, :-k])
    seen = (nearest > 0) & (nearest > beside - _SLOPE_PX)
    found: np.ndarray = np.divide(focal_baseline, nearest, out=np.zeros_like(depth), where=seen)
    return found


def mirrored_objects(objects: FrameObjects, width: int) -> FrameObjects:
    """Objects of a mirrored scene; 2D boxes are mirrored in the same picture, as KITTI's tools do."""
    boxes = objects.boxes.copy()
    boxes[:, 1] *= -1
    boxes[:, 6] = wrap_angle(-boxes[:, 6])
    left, top, right, bottom = objects.image_boxes.T
    flat = np.stack([width - 1 - right, top, width - 1 - left, bottom], 1)
    return replace(objects, boxes=boxes, image_boxes=flat)


def random_turn(rng: np.random.Generator) -> np.ndarray:
    """A rotation about the vertical axis by up to 0.1 rad and a scaling by up to 3 %, 3x3."""
    angle, scale = rng.uniform(-TURN_RAD, TURN_RAD), rng.uniform(*SCALES)
    cos, sin = np.cos(angle), np.sin(angle)
    return scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
