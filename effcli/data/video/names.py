"""Names of videos."""

from __future__ import annotations

from pathlib import Path

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""File extension -> the container that is written."""

_READ_ONLY = {".avi", ".mts", ".m2ts", ".ts", ".3gp", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv"}


def is_video_name(name: str | Path) -> bool:
    """Whether a name ends as those of videos do."""
    return Path(name).suffix.lower() in CONTAINERS.keys() | _READ_ONLY
