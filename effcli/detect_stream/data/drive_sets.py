"""Synthetic drives by name, ``synthetic:N:PRESET``: generated in memory, or written as a data set of KITTI Tracking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from effcli.core.errors import UsageError
from effcli.core.files import check_new_folder, make_folder
from effcli.core.progress import progress_bar
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.kitti_tracking import write_sequence
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.data.synthetic_drives import CLIP_FRAMES, Drive, Preset
from effcli.detect_stream.data.town.drive import TOWN_FRAMES, TownDrive
from effcli.detect_stream.data.town.switches import parse_town

PRESET_NAMES = (*get_args(Preset), "town", "town-GROUP-GROUP without groups of what varies")

_TRAIN_DRIVES, _EVAL_DRIVES = 1, 2
_KNOWN_EVERY = 4
"""Rows and columns of the depths that are kept, as a LiDAR would know them."""


Part = Literal["train", "eval"]

DriveMaker = Callable[[], Drive | TownDrive]
"""Makes a drive."""


class DrawnSequence:
    """A sequence kept in memory, with the depth of every fourth row and column."""

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
        """Depth in float32, 0 where it was not kept."""
        known = self._depths[i]
        if known is None:
            return None
        depth = np.zeros(self._frames[i].left.shape[:2], np.float32)
        depth[::_KNOWN_EVERY, ::_KNOWN_EVERY] = known
        return depth

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
    presets: tuple[str, ...]


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
    unknown = [name for name in presets if not _is_preset(name)]
    if not number.isdigit() or int(number) < 1 or unknown or len(rest) > 2:
        raise UsageError(
            "expected synthetic:N or synthetic:N:PRESET+PRESET",
            place=source,
            hint=f"presets: {', '.join(PRESET_NAMES)}",
        )
    return SyntheticName(int(number), tuple(presets))


def _is_preset(name: str) -> bool:
    return name in get_args(Preset) or parse_town(name) is not None


def drive_of(seed: int, preset: str, n_frames: int | None = None) -> Drive | TownDrive:
    """A drive of a known preset; by default 16 frames of the town, 40 of others."""
    switches = parse_town(preset)
    if switches is not None:
        return TownDrive(seed, n_frames or TOWN_FRAMES, switches)
    return Drive(seed, n_frames or CLIP_FRAMES, preset)  # type: ignore[arg-type]


def drives_named(name: SyntheticName, part: Part) -> list[DriveMaker]:
    """The drives of a name; those to learn from and to measure on have nothing in common."""
    first = {"train": _TRAIN_DRIVES, "eval": _EVAL_DRIVES}[part] * 1_000_000
    return [partial(drive_of, first + i, name.presets[i % len(name.presets)]) for i in range(name.n_drives)]


def drawn_sequences(
    drives: Sequence[DriveMaker], n_threads: int, check_stop: Callable[[], None] = lambda: None
) -> list[StereoSequence]:
    """Drives generated whole, several at once; ``check_stop`` may leave by an error after each.

    A drive holds the meshes of its scene, megabytes that are gone when its pictures are there: so each is made last.
    """
    pool, found = ThreadPoolExecutor(max(1, n_threads)), []
    try:
        for sequence in pool.map(_drawn, drives):
            check_stop()
            found.append(sequence)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _drawn(make: DriveMaker) -> StereoSequence:
    drive = make()
    frames, objects, depths = [], [], []
    for i in range(len(drive)):
        frames.append(drive.frame(i))
        objects.append(drive.objects(i))
        depths.append(drive.depth(i)[::_KNOWN_EVERY, ::_KNOWN_EVERY].astype(np.float16))
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
        UsageError: the preset is unknown, or the folder is not empty.
    """
    if not _is_preset(preset):
        raise UsageError(
            f"no preset {preset!r}", place="--preset", hint=f"available: {', '.join(PRESET_NAMES)}"
        )
    check_new_folder(folder, force=False)
    make_folder(folder)
    drives = [drive_of(seed * 100_000 + i, preset, n_frames) for i in range(n_drives)]
    n_objects = 0
    with progress_bar("drives", n_drives * n_frames, 0, "frames", show=show_progress) as advance:
        for number, drive in enumerate(drives):
            for i in write_sequence(folder, f"{number:04d}", drive):
                n_objects += len(drive.objects(i))
                advance()
    return {"sequences": n_drives, "frames": n_drives * n_frames, "objects": n_objects}
