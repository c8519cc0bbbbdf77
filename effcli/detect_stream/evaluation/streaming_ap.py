"""Streaming evaluation: which output is there when a frame's truth is asked for (spec sheet 5.3), and percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Pairing = Literal["streaming", "paper"]


def pair_outputs(
    finishes_s: Sequence[float],
    source_frames: Sequence[int],
    n_frames: int,
    fps: float,
    pairing: Pairing = "streaming",
) -> list[int | None]:
    """For each frame the number of the output that is valid at its moment; None where there is none yet.

    ``streaming``: the latest output that was finished when the frame was captured (sAP, Li et al. 2020). ``paper``: the
    same, but never one of the frame itself, however fast (the released code's and ASAP's convention).

    Args:
        finishes_s: when each output was finished, in order, seconds after the first frame.
        source_frames: the frame that each output was computed from.
        n_frames: of the sequence.
        fps: frames a second.
        pairing: the rule.
    """
    found: list[int | None] = []
    latest = -1
    for frame in range(n_frames):
        moment = frame / fps + 1e-9
        while latest + 1 < len(finishes_s) and finishes_s[latest + 1] <= moment:
            if pairing == "paper" and source_frames[latest + 1] >= frame:
                break
            latest += 1
        found.append(latest if latest >= 0 else None)
    return found


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


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """``mean, p50, p95, p99, max`` by linear interpolation; None of nothing."""
    if not len(values):
        return dict.fromkeys(("mean", "p50", "p95", "p99", "max"))
    numbers = np.asarray(values, float)
    quantiles = np.percentile(numbers, [50, 95, 99])
    names = ("p50", "p95", "p99")
    found: dict[str, float | None] = {"mean": round(float(numbers.mean()), 3)}
    found |= {name: round(float(value), 3) for name, value in zip(names, quantiles, strict=True)}
    return found | {"max": round(float(numbers.max()), 3)}
