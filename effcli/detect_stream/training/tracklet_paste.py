"""Copy-paste of tracks in training: objects of another moment, in both pictures and all frames
(docs/methods/streamdsgn.md, Augmentation).

An object comes with its pixels at its own place, so its disparity stays right; that needs a donor seen by the same
cameras. It stands on the donor's ground, which is taken to be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from effcli.detect_stream.data.boxes3d import cut_to_image, image_boxes
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.network.config import CLASSES
from effcli.detect_stream.training.clips import Clips, Sample
from effcli.nn.rotated_boxes import intersection_area

MOST_PER_CLASS = 7
_TRIES = 5
_MOST_HIDDEN, _LEAST_DEPTHS, _LEAST_PIXELS = 0.7, 5, 4
_DEPTH_SLACK_M = 0.3
_FOREIGN_IDS = 1_000_000


@dataclass(frozen=True)
class _Track:
    """One object of a donor: its row in each of the frames of a sample."""

    kind: str
    rows: tuple[int, ...]


def with_tracklets(sample: Sample, item: int, clips: Clips, rng: np.random.Generator) -> Sample:
    """A sample and what a donor can lend it, up to seven objects per class; itself where no donor fits.

    Args:
        sample: the one with the number ``item``, before any other augmentation.
        item: its number.
        clips: where donors come from.
        rng: random numbers.
    """
    calibration = clips.calibration(item)
    for _ in range(_TRIES):
        other = int(rng.integers(len(clips)))
        theirs = clips.calibration(other)
        same = np.array_equal(theirs.left, calibration.left) and np.array_equal(
            theirs.right, calibration.right
        )
        if other == item or not same:
            continue
        donor = clips.sample(other)
        if donor.frames[0].left.shape == sample.frames[0].left.shape:
            return paste(sample, donor, calibration, rng)
    return sample


def paste(sample: Sample, donor: Sample, calibration: StereoCalibration, rng: np.random.Generator) -> Sample:
    """Paste objects of ``donor`` in random order, each if it overlaps nothing and hides little.

    Args:
        sample: where they go.
        donor: where they come from: pictures of the same size, of the same cameras.
        calibration: of these cameras, in pixels of these pictures.
        rng: random numbers.
    """
    frames = [StereoFrame(f.left.copy(), f.right.copy()) for f in sample.frames]
    depth = None if sample.depth is None else sample.depth.copy()
    objects = list(sample.objects)
    tracks = _tracks(donor)
    for i in rng.permutation(len(tracks)):
        track = tracks[i]
        new = [_foreign(one.pick([row])) for one, row in zip(donor.objects, track.rows, strict=True)]
        if objects[1].kinds.count(track.kind) >= MOST_PER_CLASS:
            continue
        if not _seen(donor, new[1], calibration) or not _stands_free(objects, new):
            continue
        if not _in_front(objects[1:3], new[1:3], calibration, donor.frames[0].left.shape[:2]):
            continue
        for frame, source, one in zip(frames, donor.frames, new[1:3], strict=True):
            _copy(frame.left, source.left, one, calibration.left)
            _copy(frame.right, source.right, one, calibration.right)
        if depth is not None and donor.depth is not None:
            _copy_depth(depth, donor.depth, new[1], calibration)
        objects = [_joined(old, one) for old, one in zip(objects, new, strict=True)]
    return replace(
        sample,
        frames=(frames[0], frames[1]),
        depth=depth,
        objects=tuple(objects),
    )


def _tracks(donor: Sample) -> list[_Track]:
    """Objects that are in all frames, unhidden and whole in the two that have pictures."""
    rows = [{int(t): i for i, t in enumerate(one.track_ids) if t >= 0} for one in donor.objects]
    found = []
    for number in rows[1]:
        if not all(number in frame for frame in rows):
            continue
        places = tuple(frame[number] for frame in rows)
        clear = all(
            donor.objects[when].occluded[places[when]] == 0
            and donor.objects[when].truncated[places[when]] == 0
            for when in (1, 2)
        )
        kind = donor.objects[1].kinds[places[1]]
        if clear and kind in CLASSES:
            found.append(_Track(kind, places))
    return found


def _foreign(one: FrameObjects) -> FrameObjects:
    return replace(one, track_ids=one.track_ids + _FOREIGN_IDS)


def _seen(donor: Sample, one: FrameObjects, calibration: StereoCalibration) -> bool:
    """Whether enough of the donor's depth lies on the object, and the object is large enough to matter."""
    rows, columns = _rectangle(one, calibration.left, donor.frames[0].left.shape[:2])
    if rows.stop - rows.start < _LEAST_PIXELS or columns.stop - columns.start < _LEAST_PIXELS:
        return False
    if donor.depth is None:
        return True
    return int(_on_object(donor.depth[rows, columns], one).sum()) >= _LEAST_DEPTHS


def _on_object(depth: np.ndarray, one: FrameObjects) -> np.ndarray:
    middle, half = one.boxes[0, 0], np.hypot(one.boxes[0, 3], one.boxes[0, 4]) / 2 + _DEPTH_SLACK_M
    found: np.ndarray = (depth > 0) & (np.abs(depth - middle) <= half)
    return found


def _stands_free(present: list[FrameObjects], new: list[FrameObjects]) -> bool:
    """Whether it overlaps nothing in bird's-eye view, in any frame."""
    for old, one in zip(present, new, strict=True):
        if not len(old):
            continue
        a, b = torch.from_numpy(one.boxes), torch.from_numpy(old.boxes)
        if (intersection_area(a, b) > 0).any():
            return False
    return True


def _in_front(
    present: list[FrameObjects],
    new: list[FrameObjects],
    calibration: StereoCalibration,
    size: tuple[int, ...],
) -> bool:
    """Whether nothing nearer is in its way, and it hides less than 0.7 of what is farther."""
    for old, one in zip(present, new, strict=True):
        for projection in (calibration.left, calibration.right):
            ours = cut_to_image(image_boxes(old.boxes, projection), size[0], size[1])
            theirs = cut_to_image(image_boxes(one.boxes, projection), size[0], size[1])[0]
            width = np.minimum(ours[:, 2], theirs[2]) - np.maximum(ours[:, 0], theirs[0])
            height = np.minimum(ours[:, 3], theirs[3]) - np.maximum(ours[:, 1], theirs[1])
            shared = np.nan_to_num(np.clip(width, 0, None) * np.clip(height, 0, None))
            area = np.nan_to_num((ours[:, 2] - ours[:, 0]) * (ours[:, 3] - ours[:, 1]))
            nearer = old.boxes[:, 0] < one.boxes[0, 0]
            if (shared[nearer] > 0).any() or (shared > _MOST_HIDDEN * np.maximum(area, 1)).any():
                return False
    return True


def _rectangle(one: FrameObjects, projection: np.ndarray, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the pixels of an object."""
    flat = image_boxes(one.boxes, projection)
    left, top, right, bottom = np.nan_to_num(cut_to_image(flat, size[0], size[1])[0])
    return slice(int(top), int(np.ceil(bottom)) + 1), slice(int(left), int(np.ceil(right)) + 1)


def _copy(target: np.ndarray, source: np.ndarray, one: FrameObjects, projection: np.ndarray) -> None:
    place = _rectangle(one, projection, source.shape[:2])
    target[place] = source[place]


def _copy_depth(
    target: np.ndarray, source: np.ndarray, one: FrameObjects, calibration: StereoCalibration
) -> None:
    """The object's depth; what else is in the rectangle is no longer known."""
    place = _rectangle(one, calibration.left, source.shape[:2])
    patch = source[place]
    target[place] = np.where(_on_object(patch, one), patch, 0)


def _joined(old: FrameObjects, one: FrameObjects) -> FrameObjects:
    return FrameObjects(
        old.kinds + one.kinds,
        *(
            np.concatenate([getattr(old, name), getattr(one, name)])
            for name in ("boxes", "image_boxes", "track_ids", "truncated", "occluded", "scores")
        ),
    )
