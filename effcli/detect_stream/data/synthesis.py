"""Synthetic drives written as a data set of KITTI Tracking."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from effcli.core.errors import UsageError
from effcli.core.files import check_new_folder, make_folder
from effcli.core.progress import progress_bar
from effcli.detect_stream.data.kitti_tracking import write_sequence
from effcli.detect_stream.data.stereo_drives import Drive, Preset, drives_of


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
            f"no preset {preset!r}", place="--preset", hint=f"there are: {', '.join(get_args(Preset))}"
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
