"""Sequences by name: folders of KITTI Tracking, and synthetic drives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from effcli.core.errors import UsageError
from effcli.detect_stream.data.drive_sets import Part, drawn_sequences, drives_named, parse_synthetic
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.frame_times import Timeline, timeline_of
from effcli.detect_stream.data.kitti_tracking import KittiSequence, sequence_names
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.recipe import Split

CLIP_FRAMES = 40
HELD_OUT_SEQUENCES = ("0003", "0006", "0010", "0013", "0018")
"""Of KITTI Tracking's 21: held out in the split by sequences; they have cars, pedestrians and cyclists."""


class Clip:
    """A stretch of a sequence, as a sequence."""

    def __init__(self, sequence: StereoSequence, start: int, n_frames: int) -> None:
        self.name = f"{sequence.name}-{start}"
        self.calibration: StereoCalibration = sequence.calibration
        self.fps = sequence.fps
        self.timeline: Timeline = timeline_of(sequence).part(start, n_frames)
        self._sequence, self._start, self._n_frames = sequence, start, n_frames

    @property
    def has_labels(self) -> bool:
        """As the sequence."""
        return self._sequence.has_labels

    def __len__(self) -> int:
        return self._n_frames

    def frame(self, i: int) -> StereoFrame:
        """The pair."""
        return self._sequence.frame(self._start + i)

    def objects(self, i: int) -> FrameObjects:
        """Labels."""
        return self._sequence.objects(self._start + i)

    def depth(self, i: int) -> np.ndarray | None:
        """Depth."""
        return self._sequence.depth(self._start + i)

    def pose(self, i: int) -> np.ndarray | None:
        """Of the camera."""
        return self._sequence.pose(self._start + i)


def clip_starts(n_frames: int) -> list[tuple[int, int, Part]]:
    """The released code's clips of a sequence: first frame, length, and whether it is learned from or measured on.

    Two halves if there are fewer than 80 frames; else clips of 40, and the rest as a last one. The released rule loses
    the last 40 frames where the length is a multiple of 40; so does this.
    """
    if n_frames < 2 * CLIP_FRAMES:
        half = n_frames // 2
        return [(0, half, "train"), (half, n_frames - half, "eval")]
    n_whole = n_frames // CLIP_FRAMES - 1
    lengths = [CLIP_FRAMES] * n_whole
    if n_frames % CLIP_FRAMES:
        lengths.append(n_frames - n_whole * CLIP_FRAMES)
    return [(i * CLIP_FRAMES, length, "eval" if i % 2 else "train") for i, length in enumerate(lengths)]


def labelled_sequences(
    source: str,
    part: Part,
    split: Split = "all",
    n_threads: int = 1,
    check_stop: Callable[[], None] = lambda: None,
) -> list[StereoSequence]:
    """Sequences to learn from or to measure on.

    Args:
        source: a folder of KITTI Tracking, or synthetic drives by name.
        part: of the split, and which drives.
        split: of folders: every second clip of 40 frames held out, whole sequences held out, or no split.
        n_threads: drives that are generated at once.
        check_stop: called after each drive; may leave by an error.

    Raises:
        InputError: the folder is none, or damaged.
        UsageError: a name of drives is wrong, or no sequence has labels.
    """
    name = parse_synthetic(source)
    if name is not None:
        return drawn_sequences(drives_named(name, part), n_threads, check_stop)
    root = Path(source)
    names = sequence_names(root)
    if split == "sequences":
        held_out = [one for one in names if one in HELD_OUT_SEQUENCES] or names[-1:]
        names = [one for one in names if (one in held_out) == (part == "eval")]
    sequences: list[StereoSequence] = [KittiSequence(root, one) for one in names]
    sequences = [one for one in sequences if one.has_labels]
    if not sequences:
        raise UsageError(f"no sequence to {part} with labels (split {split})", place=source)
    if split != "clips":
        return sequences
    return [
        Clip(one, start, length)
        for one in sequences
        for start, length, its_part in clip_starts(len(one))
        if its_part == part
    ]
