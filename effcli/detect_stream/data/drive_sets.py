"""Synthetic drives by name, ``synthetic:N:PRESET``: generated in memory, or written as a data set of KITTI Tracking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from effcli.core.errors import UsageError
from effcli.core.files import check_new_folder, make_folder
from effcli.core.progress import progress_bar
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.kitti_tracking import write_sequence
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.data.synthetic_drives import HEIGHT, WIDTH, Drive, Preset, drives_of

_TRAIN_DRIVES, _EVAL_DRIVES = 1, 2


Part = Literal["train", "eval"]


class DrawnSequence:
    """A sequence kept in memory."""

    def __init__(
        self,
        sequence: StereoSequence,
        frames: Sequence[StereoFrame],
        objects: Sequence[FrameObjects],
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

    def objects(self, i: int) -> FrameObjects:
        """Labels."""
        return self._objects[i]

    def depth(self, i: int) -> np.ndarray | None:
        """Depth in float32."""
        depth = self._depths[i]
        return None if depth is None else depth.astype(np.float32)

    def pose(self, i: int) -> np.ndarray | None:
        """Of the camera."""
        return self._poses[i]


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


def drawn_sequences(
    drives: Sequence[Drive], n_threads: int, check_stop: Callable[[], None] = lambda: None
) -> list[StereoSequence]:
    """Drives generated whole, several at once; ``check_stop`` may leave by an error after each."""
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


def write_drives(
    folder: Path, n_drives: int, n_frames: int, preset: str, seed: int, show_progress: bool = False
) -> dict[str, Any]:
    """Write drives.

    Args:
        folder: a new or an empty one.
        n_drives: how many sequences.
        n_frames: of each.
        preset: what they are like.
        seed: which ones.
        show_progress: with a bar.

    Returns:
        ``sequences, frames, objects``.

    Raises:
        UsageError: there is no such preset, or the folder is not empty.
    """
    if preset not in get_args(Preset):
        raise UsageError(
            f"no preset {preset!r}", place="--preset", hint=f"available: {', '.join(get_args(Preset))}"
        )
    check_new_folder(folder, force=False)
    make_folder(folder)
    drives: list[Drive] = drives_of(n_drives, seed, preset, n_frames)  # type: ignore[arg-type]
    n_objects = 0
    with progress_bar("drives", n_drives * n_frames, 0, "frames", show=show_progress) as advance:
        for number, drive in enumerate(drives):
            for i in write_sequence(folder, f"{number:04d}", drive):
                n_objects += len(drive.objects(i))
                advance()
    return {"sequences": n_drives, "frames": n_drives * n_frames, "objects": n_objects}
