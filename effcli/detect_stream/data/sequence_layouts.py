"""The layouts of a sequence on disk that are understood; a new one is a file beside this one and a case here."""

from __future__ import annotations

from pathlib import Path

from effcli.core.errors import InputError, UsageError
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.folder_pairs import FolderPair
from effcli.detect_stream.data.kitti_tracking import LEFT, RIGHT, KittiSequence, sequence_names
from effcli.detect_stream.data.stereo_sequence import StereoSequence


def open_sequence(path: Path, calibration: str | None) -> StereoSequence:
    """The sequence that a path names.

    Args:
        path: a folder with left/ and right/, a folder of KITTI Tracking with one sequence, or ROOT/0000.
        calibration: its file, where that is not ``calib.txt`` beside left/ and right/.

    Raises:
        InputError: there is nothing, or a layout that is not understood.
        UsageError: there are several sequences.
    """
    if not path.exists() and not (path.parent / "training").exists() and not (path.parent / LEFT).exists():
        raise InputError("no such folder", place=str(path))
    for names in (("left", "right"), (LEFT, RIGHT)):
        left, right = (path / name for name in names)
        if left.is_dir() and right.is_dir() and any(one.is_file() for one in left.iterdir()):
            beside = path / "calib.txt"
            return FolderPair(left, right, read_calibration(Path(calibration) if calibration else beside))
    if any((folder / LEFT).is_dir() for folder in (path, path / "training")):
        names_there = sequence_names(path)
        if len(names_there) != 1:
            raise UsageError(
                f"holds {len(names_there)} sequences",
                place=str(path),
                hint=f"name one: {path}/{names_there[0]}",
            )
        return KittiSequence(path, names_there[0])
    for root in (path.parent, path.parent.parent, path.parent.parent.parent):
        if any((folder / LEFT / path.name).is_dir() for folder in (root, root / "training")):
            return KittiSequence(root, path.name)
    raise InputError(
        "is neither a sequence of KITTI Tracking nor a folder with left/ and right/",
        place=str(path),
        hint="name ROOT/0000, a folder with left/, right/ and calib.txt, or two folders and --calib FILE",
    )
