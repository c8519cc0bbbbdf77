"""A detector that always takes the newest frame, as a short loop of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def simulate(latencies_s: Sequence[float], n_frames: int, fps: float) -> list[tuple[int, float, float]]:
    """A detector that always takes the newest frame, on a virtual clock.

    Args:
        latencies_s: of its outputs in turn; taken again from the start where there are too few.
        n_frames: of the sequence.
        fps: frames a second.

    Returns:
        Frame, start and finish of each output, seconds after the first frame.
    """
    outputs: list[tuple[int, float, float]] = []
    free, last = 0.0, -1
    while last < n_frames - 1:
        newest = min(int(np.floor(free * fps + 1e-6)), n_frames - 1)
        frame = max(newest, last + 1)
        start = max(free, frame / fps)
        finish = start + latencies_s[len(outputs) % len(latencies_s)]
        outputs.append((frame, start, finish))
        free, last = finish, frame
    return outputs
