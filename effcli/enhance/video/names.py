"""Names of videos: which files are taken for videos, and which container is written to a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from effcli.data.video.names import CONTAINERS, is_video_name

INSTEAD = ".mkv"
"""What is written for these: it holds streams of nearly any kind."""


def asks_for_video(inputs: Sequence[str | Path], output: str | None) -> bool:
    """Whether a command line is about videos: an input, or the output, is named like one."""
    return any(map(is_video_name, inputs)) or (output is not None and is_video_name(output))


def video_hint(left_out: Mapping[str, int]) -> str | None:
    """What to do about videos among files that a folder of pictures leaves out."""
    found = sorted(ending for ending in left_out if is_video_name(f"a{ending}") and ending != ".ts")
    return f"videos are named one by one: effcli enhance NAME{found[0]}" if found else None


def container_of(path: Path) -> str | None:
    """The container that is written to a file of this name, None for other extensions."""
    return CONTAINERS.get(path.suffix.lower())
