"""Random changes of training samples, the same for all frames (docs/methods/streamdsgn.md, Augmentation)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from effcli.detect_stream.data.boxes3d import wrap_angle
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.training.clips import Sample

TURN_RAD, SCALES = 0.1, (0.97, 1.03)


def mirrored(sample: Sample) -> Sample:
    """The scene with its left and right exchanged: pictures mirrored, cameras in each other's place."""
    size = sample.frames[0].left.shape[:2]
    frames = tuple(
        StereoFrame(np.ascontiguousarray(f.right[:, ::-1]), np.ascontiguousarray(f.left[:, ::-1]))
        for f in sample.frames
    )
    fit = replace(sample.fit, calibration=sample.fit.calibration.mirrored(sample.fit.width))
    objects = tuple(mirrored_objects(one, size[1]) for one in sample.objects)
    # the depth of what is now the left picture is not known
    motion = None if sample.motion is None else sample.motion * np.array([-1, 1, -1], np.float32)
    return Sample((frames[0], frames[1]), None, (objects[0], objects[1], objects[2], objects[3]), fit, motion)


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
