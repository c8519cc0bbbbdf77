"""Sequences by name: folders of KITTI Tracking, and synthetic drives."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from effcli.core.errors import UsageError
from effcli.data.picture_folders import say_once
from effcli.detect_stream.data.drive_sets import Part, drawn_sequences, drives_named, parse_synthetic
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.frame_times import Timeline, timeline_of
from effcli.detect_stream.data.kitti_tracking import KittiSequence, sequence_names
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.frame_ranges import FrameRange, parse_frames
from effcli.detect_stream.recipe import Split

CLIP_FRAMES = 40
HELD_OUT_SEQUENCES = ("0003", "0006", "0010", "0013", "0018")
"""Of KITTI Tracking's 21: held out in the split by sequences; they have cars, pedestrians and cyclists."""


class Clip:
    """A stretch of a sequence, as a sequence."""

    def __init__(self, sequence: StereoSequence, start: int, n_frames: int) -> None:
        whole = timeline_of(sequence)
        self.name = f"{sequence.name}-{whole.numbers[start] if n_frames else start}"
        self.calibration: StereoCalibration = sequence.calibration
        self.fps = sequence.fps
        self.timeline: Timeline = whole.part(start, n_frames)
        self.sequence, self._start, self._n_frames = sequence, start, n_frames

    @property
    def has_labels(self) -> bool:
        """As the sequence."""
        return self.sequence.has_labels

    def __len__(self) -> int:
        return self._n_frames

    def frame(self, i: int) -> StereoFrame:
        """The pair."""
        return self.sequence.frame(self._start + i)

    def objects(self, i: int) -> FrameObjects:
        """Labels."""
        return self.sequence.objects(self._start + i)

    def depth(self, i: int) -> np.ndarray | None:
        """Depth."""
        return self.sequence.depth(self._start + i)

    def pose(self, i: int) -> np.ndarray | None:
        """Of the camera."""
        return self.sequence.pose(self._start + i)


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
    *,
    frames: str | None = None,
    frames_key: str = "--frames",
) -> list[StereoSequence]:
    """Sequences to learn from or to measure on.

    Args:
        source: a folder of KITTI Tracking, or synthetic drives by name.
        part: of the split, and which drives.
        split: of folders: every second clip of 40 frames held out, whole sequences held out, or no split.
        n_threads: drives that are generated at once.
        check_stop: called after each drive; may leave by an error.
        frames: which frames of a folder, as of :func:`~effcli.detect_stream.frame_ranges.parse_frames`; they replace
            the split.
        frames_key: the recipe key or option that names them.

    Raises:
        InputError: the folder is none, or damaged.
        UsageError: a name of drives is wrong, no sequence has labels, or there are no such frames.
    """
    name = parse_synthetic(source)
    if name is not None:
        if frames is not None:
            raise UsageError(
                f"{frames} selects frames of a folder, and {source} is not a folder", place=frames_key
            )
        return drawn_sequences(drives_named(name, part), n_threads, check_stop)
    root = Path(source)
    names = sequence_names(root)
    if split == "sequences" and frames is None:
        held_out = [one for one in names if one in HELD_OUT_SEQUENCES] or names[-1:]
        names = [one for one in names if (one in held_out) == (part == "eval")]
    sequences: list[StereoSequence] = [KittiSequence(root, one) for one in names]
    unlabelled = [one.name for one in sequences if not one.has_labels]
    sequences = [one for one in sequences if one.has_labels]
    if sequences and unlabelled:
        say_once(f"{source}: left out, as they have no labels: sequences {', '.join(unlabelled)}")
    if not sequences:
        by = f" (split {split})" if frames is None else ""
        raise UsageError(f"no sequence to {part} with labels{by}", place=source)
    if frames is not None:
        return chosen_frames(sequences, frames, frames_key)
    if split != "clips":
        return sequences
    return [
        Clip(one, start, length)
        for one in sequences
        for start, length, its_part in clip_starts(len(one))
        if its_part == part
    ]


def chosen_frames(sequences: Sequence[StereoSequence], frames: str, key: str) -> list[StereoSequence]:
    """Ranges of frames of labelled sequences, each as a sequence.

    Args:
        sequences: with labels.
        frames: as of :func:`~effcli.detect_stream.frame_ranges.parse_frames`.
        key: the recipe key or option that names them.

    Raises:
        UsageError: they are not a list of ranges, or not in the sequences.
    """
    try:
        ranges = parse_frames(frames)
    except ValueError as error:
        raise UsageError(str(error), place=key) from None
    return [_stretch(_sequence_of(one, sequences, key), one, key) for one in ranges]


def _sequence_of(wanted: FrameRange, sequences: Sequence[StereoSequence], key: str) -> StereoSequence:
    names = [one.name for one in sequences]
    if wanted.sequence is None:
        if len(sequences) > 1:
            raise UsageError(
                f"{wanted} does not say which of the {len(sequences)} sequences with labels",
                place=key,
                hint=f"name it: {names[0]}:{wanted}",
            )
        return sequences[0]
    if wanted.sequence not in names:
        raise UsageError(
            f"no sequence {wanted.sequence!r} with labels", place=key, hint=f"available: {', '.join(names)}"
        )
    return sequences[names.index(wanted.sequence)]


def _stretch(sequence: StereoSequence, wanted: FrameRange, key: str) -> StereoSequence:
    numbers = timeline_of(sequence).numbers
    if wanted.first < numbers[0] or wanted.last > numbers[-1]:
        raise UsageError(
            f"sequence {sequence.name} has frames {numbers[0]} to {numbers[-1]}, not {wanted}", place=key
        )
    start, end = bisect_left(numbers, wanted.first), bisect_right(numbers, wanted.last)
    if start == end:
        raise UsageError(f"no frame of sequence {sequence.name} is in {wanted}", place=key)
    return Clip(sequence, start, end - start)


def shared_frames(some: Sequence[StereoSequence], others: Sequence[StereoSequence]) -> dict[str, list[int]]:
    """Numbers of the frames that are in both lists, by the name of their sequence on the disk."""
    known = _frames_on_disk(others)
    found = {place: sorted(own & known.get(place, set())) for place, own in _frames_on_disk(some).items()}
    return {place.name: numbers for place, numbers in found.items() if numbers}


def _frames_on_disk(sequences: Sequence[StereoSequence]) -> dict[Path, set[int]]:
    found: dict[Path, set[int]] = {}
    for one in sequences:
        whole = one.sequence if isinstance(one, Clip) else one
        if isinstance(whole, KittiSequence):
            place = whole.root.resolve() / whole.name
            found.setdefault(place, set()).update(timeline_of(one).numbers)
    return found
