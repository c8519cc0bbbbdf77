"""Sequences by name: folders of KITTI Tracking, and drives that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from effcli.core.errors import UsageError
from effcli.detect_stream.data.frame_fitting import fit_of, fitted_pair
from effcli.detect_stream.data.kitti_labels import Objects
from effcli.detect_stream.data.kitti_tracking import KittiSequence, sequence_names
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_drives import HEIGHT, WIDTH, Drive, Preset
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.stream.visual_odometry import VisualOdometry

CLIP_FRAMES = 40
HELD_OUT_SEQUENCES = ("0003", "0006", "0010", "0013", "0018")
"""Of KITTI Tracking's 21: held out in the split by sequences; they have cars, pedestrians and cyclists."""

_TRAIN_DRIVES, _EVAL_DRIVES = 1, 2
Part = Literal["train", "eval"]


class DrawnSequence:
    """A sequence kept in memory."""

    def __init__(
        self,
        sequence: StereoSequence,
        frames: Sequence[StereoFrame],
        objects: Sequence[Objects],
        depths: Sequence[np.ndarray | None],
    ) -> None:
        self.name, self.calibration, self.fps = sequence.name, sequence.calibration, sequence.fps
        self.has_labels = sequence.has_labels
        self._frames, self._objects, self._depths = frames, objects, depths
        self._poses = [sequence.pose(i) for i in range(len(frames))]

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, i: int) -> StereoFrame:
        """The pair."""
        return self._frames[i]

    def objects(self, i: int) -> Objects:
        """Labels."""
        return self._objects[i]

    def depth(self, i: int) -> np.ndarray | None:
        """Depth in float32."""
        depth = self._depths[i]
        return None if depth is None else depth.astype(np.float32)

    def pose(self, i: int) -> np.ndarray | None:
        """Of the camera."""
        return self._poses[i]


class Clip:
    """A stretch of a sequence, as a sequence."""

    def __init__(self, sequence: StereoSequence, start: int, n_frames: int) -> None:
        self.name = f"{sequence.name}-{start}"
        self.calibration: StereoCalibration = sequence.calibration
        self.fps = sequence.fps
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

    def objects(self, i: int) -> Objects:
        """Labels."""
        return self._sequence.objects(self._start + i)

    def depth(self, i: int) -> np.ndarray | None:
        """Depth."""
        return self._sequence.depth(self._start + i)

    def pose(self, i: int) -> np.ndarray | None:
        """Of the camera."""
        return self._sequence.pose(self._start + i)


class PosedByPictures(Clip):
    """A sequence without poses: they are found in its pictures, all at once when the first is asked for.

    Args:
        sequence: the whole.
        config: of the network that will see the pictures; it says how large they are.
    """

    def __init__(self, sequence: StereoSequence, config: NetworkConfig) -> None:
        super().__init__(sequence, 0, len(sequence))
        self.name, self._config = sequence.name, config
        self._poses: list[np.ndarray] = []

    def pose(self, i: int) -> np.ndarray:
        """As visual odometry has it."""
        if not self._poses:
            size = self.frame(0).left.shape
            fit = fit_of((size[0], size[1]), self.calibration, self._config)
            odometry = VisualOdometry(fit.calibration, (fit.height, fit.width), self.fps)
            self._poses = [
                odometry.track(*fitted_pair(self.frame(k), fit, self._config), k) for k in range(len(self))
            ]
        return self._poses[i]


def clip_starts(n_frames: int) -> list[tuple[int, int, Part]]:
    """The paper's clips of a sequence: first frame, length, and whether it is learnt from or measured on.

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


@dataclass(frozen=True)
class SyntheticName:
    """``synthetic:N:PRESET+PRESET``.

    Attributes:
        n_drives: how many.
        presets: taken in turn.
    """

    n_drives: int
    presets: tuple[Preset, ...]


def parse_synthetic(source: str) -> SyntheticName | None:
    """The parts of a name of drives; None for another source.

    Raises:
        UsageError: the number or a preset is none.
    """
    kind, *rest = source.split(":")
    if kind != "synthetic":
        return None
    number = rest[0] if rest else "8"
    presets = rest[1].split("+") if len(rest) > 1 else ["street"]
    unknown = [name for name in presets if name not in get_args(Preset)]
    if not number.isdigit() or int(number) < 1 or unknown or len(rest) > 2:
        raise UsageError(
            "expected synthetic:N or synthetic:N:PRESET+PRESET",
            place=source,
            hint=f"presets: {', '.join(get_args(Preset))}",
        )
    return SyntheticName(int(number), tuple(presets))  # type: ignore[arg-type]


def drives_named(name: SyntheticName, part: Part) -> list[Drive]:
    """The drives of a name; those to learn from and to measure on have nothing in common."""
    first = {"train": _TRAIN_DRIVES, "eval": _EVAL_DRIVES}[part] * 1_000_000
    return [Drive(first + i, preset=name.presets[i % len(name.presets)]) for i in range(name.n_drives)]


def drawn(
    drives: Sequence[Drive], n_threads: int, check_stop: Callable[[], None] = lambda: None
) -> list[StereoSequence]:
    """Drives drawn whole, several at once; ``check_stop`` may leave by an error after each."""
    pool, found = ThreadPoolExecutor(max(1, n_threads)), []
    try:
        for sequence in pool.map(_drawn, drives):
            check_stop()
            found.append(sequence)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _drawn(drive: Drive) -> StereoSequence:
    frames, objects, depths = [], [], []
    for i in range(len(drive)):
        frames.append(drive.frame(i))
        objects.append(drive.objects(i))
        depth = np.zeros((HEIGHT, WIDTH), np.float16)  # every fourth pixel, as a LiDAR would
        depth[::4, ::4] = drive.depth(i)[::4, ::4]
        depths.append(depth)
    return DrawnSequence(drive, frames, objects, depths)


def labelled_sequences(
    source: str,
    part: Part,
    split: Literal["paper", "sequences", "all"] = "all",
    n_threads: int = 1,
    check_stop: Callable[[], None] = lambda: None,
) -> list[StereoSequence]:
    """Sequences to learn from or to measure on.

    Args:
        source: a folder of KITTI Tracking, or synthetic drives by name.
        part: of the split, and which drives.
        split: of folders: clips of 40 frames in turn, sequences held out, or no split.
        n_threads: draw so many drives at once.
        check_stop: called after each drive; may leave by an error.

    Raises:
        InputError: the folder is none, or damaged.
        UsageError: a name of drives is wrong, or no sequence has labels.
    """
    name = parse_synthetic(source)
    if name is not None:
        return drawn(drives_named(name, part), n_threads, check_stop)
    root = Path(source)
    names = sequence_names(root)
    if split == "sequences":
        held_out = [one for one in names if one in HELD_OUT_SEQUENCES] or names[-1:]
        names = [one for one in names if (one in held_out) == (part == "eval")]
    sequences: list[StereoSequence] = [KittiSequence(root, one) for one in names]
    sequences = [one for one in sequences if one.has_labels]
    if not sequences:
        raise UsageError(f"no sequence to {part} with labels (split {split})", place=source)
    if split != "paper":
        return sequences
    return [
        Clip(one, start, length)
        for one in sequences
        for start, length, its_part in clip_starts(len(one))
        if its_part == part
    ]
