"""How good detections are: offline, each for its own moment, and streaming, each when it was there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects
from effcli.detect_stream.evaluation.kitti_ap import (
    LEVELS,
    LOOSE,
    STRICT,
    Measure,
    Rule,
    average_precision,
    precision_curve,
)
from effcli.detect_stream.network.config import CLASSES

CENTRE_DISTANCES_M = (0.5, 1.0, 2.0, 4.0)
LEVEL = 1
_SURE = 0.3


@dataclass(frozen=True)
class Scored:
    """Detections beside the truth they are measured against, frame by frame.

    Attributes:
        found: detections.
        true: labels.
    """

    found: Sequence[FrameObjects]
    true: Sequence[FrameObjects]


def of_pairing(
    outputs: Sequence[FrameObjects], pairing: Sequence[int | None], truth: Sequence[FrameObjects]
) -> Scored:
    """What a frame's truth meets: the output it is paired with, or nothing."""
    found = [no_objects() if k is None else outputs[k] for k in pairing]
    return Scored(found, truth)


def joined(parts: Sequence[Scored]) -> Scored:
    """Several sequences as one."""
    return Scored([x for part in parts for x in part.found], [x for part in parts for x in part.true])


def precision_table(scored: Scored, height_scale: float) -> dict[str, Any]:
    """All that KITTI's evaluation gives.

    Returns:
        Per class and ``all``: ``center_2m`` and other distances (``center_0_5m`` ...), and for 3D and BEV with strict
        and loose thresholds the three levels at 40 points of recall, ``3d_strict{easy,moderate,hard}``, and at 11 as
        ``3d_strict_r11{...}``; None where a class has no objects.
    """
    table: dict[str, Any] = {kind.lower(): _of_class(scored, kind, height_scale) for kind in CLASSES}
    table["all"] = _means(list(table.values()))
    return table


def _of_class(scored: Scored, kind: str, height_scale: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for distance in CENTRE_DISTANCES_M:
        rule = Rule("centre", distance, LEVEL, height_scale)
        row[_distance_name(distance)] = _value(precision_curve(scored.found, scored.true, kind, rule), 40)
    measures: tuple[Measure, ...] = ("3d", "bev")
    for measure in measures:
        for name, thresholds in (("strict", STRICT), ("loose", LOOSE)):
            curves = [
                precision_curve(
                    scored.found, scored.true, kind, Rule(measure, thresholds[kind], level, height_scale)
                )
                for level in range(len(LEVELS))
            ]
            key = f"{measure}_{name}"
            row[key] = {level: _value(c, 40) for level, c in zip(LEVELS, curves, strict=True)}
            row[f"{key}_r11"] = {level: _value(c, 11) for level, c in zip(LEVELS, curves, strict=True)}
    return row


def summary(scored: Scored, height_scale: float, distance_m: float = 2.0) -> dict[str, float | None]:
    """AP by distance of the centres at the moderate level: ``car, pedestrian, cyclist`` and ``all``, their mean."""
    rule = Rule("centre", distance_m, LEVEL, height_scale)
    found = {
        kind.lower(): _value(precision_curve(scored.found, scored.true, kind, rule), 40) for kind in CLASSES
    }
    return {**found, "all": _mean(list(found.values()))}


def _distance_name(distance: float) -> str:
    return f"center_{distance:g}m".replace(".", "_")


def _value(curve: np.ndarray | None, n_points: Any) -> float | None:
    return None if curve is None else round(average_precision(curve, n_points), 3)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 3) if known else None


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in rows[0].items():
        if isinstance(value, dict):
            found[key] = {level: _mean([row[key][level] for row in rows]) for level in value}
        else:
            found[key] = _mean([row[key] for row in rows])
    return found


def velocity_error(
    outputs: Sequence[FrameObjects], truth: Sequence[FrameObjects], ahead: int
) -> float | None:
    """Mean error of the displacement from frame t to t+1 of the objects that are found, metres per frame.

    An object counts if a box of its class and at least 0.3 is within 2 m of it at t+1; None where none does.

    Args:
        outputs: of all frames.
        truth: labels of all frames.
        ahead: 1 for outputs of the next frame.
    """
    errors = []
    for t, output in enumerate(outputs[: len(truth) - 1]):
        if not ahead:
            break
        following, now = truth[t + 1], truth[t]
        for i, kind in enumerate(following.kinds):
            past = np.nonzero((now.track_ids == following.track_ids[i]) & (now.track_ids >= 0))[0]
            same = np.array([one == kind for one in output.kinds], bool) & (output.scores >= _SURE)
            if not len(past) or not same.any():
                continue
            boxes = output.boxes[same, :2]
            distances = np.linalg.norm(boxes - following.boxes[i, :2], axis=1)
            if distances.min() < 2.0:
                step = boxes[distances.argmin()] - now.boxes[past[0], :2]
                errors.append(np.linalg.norm(step - (following.boxes[i, :2] - now.boxes[past[0], :2])))
    return round(float(np.mean(errors)), 4) if errors else None
