"""Streaming stereo 3D detection: boxes for the moment in which they are received.

detector = effcli.detect_stream.load(calibration="calib.txt")
objects = detector.detect(left, right)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effcli.detect_stream.stereo_detector import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import :func:`load`, and torch with it, on first use only."""
    if name == "load":
        from effcli.detect_stream.stereo_detector import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
