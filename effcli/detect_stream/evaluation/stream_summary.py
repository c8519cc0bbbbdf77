"""What a stream was like when it has ended: frames, latency and age of the outputs, and where labels are known, AP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from effcli.detect_stream.evaluation.kitti_ap import height_scale
from effcli.detect_stream.evaluation.precision_tables import Scored, of_pairing, summary
from effcli.detect_stream.sources.frame_source import FrameSource, has_labels
from effcli.detect_stream.stream.clocks import StreamRecord
from effcli.detect_stream.stream.output import StreamOutput
from effcli.detect_stream.stream.output_pairing import pair_outputs
from effcli.detect_stream.stream.stream_detector import StreamDetector

_NOT_COUNTED = 5


def summary_of_stream(source: FrameSource, stream: StreamRecord, machine: StreamDetector) -> dict[str, Any]:
    """Numbers of a stream that has ended.

    Returns:
        ``frames, processed, dropped, damaged, scene_changes, interrupted, fps, ego_motion, deadline_misses``,
        ``horizons`` (how many outputs were for a moment so many frames after their own), percentiles of ``latency_ms``
        and ``age_ms``, medians of ``stages_ms``, and with labels ``sap`` and ``ap``.
    """
    outputs = list(stream.outputs)
    counted = outputs[_NOT_COUNTED:] or outputs
    latencies, ages = ([getattr(one, name) for one in counted] for name in ("latency_ms", "age_ms"))
    ahead = [one.detected.ahead for one in counted]
    stages = {name: [one.detected.stages_ms[name] for one in counted] for name in _stage_names(counted)}
    metrics: dict[str, Any] = {
        "frames": stream.frames,
        "processed": stream.processed,
        "dropped": stream.mailbox_drops,
        "damaged": len(stream.damaged),
        "scene_changes": machine.scene_changes,
        "interrupted": stream.was_stopped,
        "fps": source.fps,
        "ego_motion": machine.ego_motion,
        "deadline_misses": sum(age > 1000 / source.fps for age in ages),
        "horizons": {str(one): ahead.count(one) for one in machine.horizons},
        "latency_ms": percentiles(latencies),
        "age_ms": percentiles(ages),
        "stages_ms": {
            "read_ms": percentiles([one.read_ms for one in counted])["p50"],
            **{name: percentiles(values)["p50"] for name, values in stages.items()},
        },
    }
    if not has_labels(source) or not stream.outputs:
        return metrics
    return metrics | _quality(source, stream)


def _stage_names(outputs: list[StreamOutput]) -> list[str]:
    return list(outputs[0].detected.stages_ms) if outputs else []


def _quality(source: FrameSource, stream: StreamRecord) -> dict[str, Any]:
    """sAP of what was published, and AP of the outputs for their own frame."""
    assert source.sequence is not None
    truth = [source.sequence.objects(i) for i in range(stream.frames)]
    places = {number: place for place, (number, _) in enumerate(stream.moments)}
    scale = height_scale(float(source.calibration.left[0, 0]))
    outputs = [one.objects for one in stream.outputs]
    pairing = pair_outputs(
        [one.finished_s for one in stream.outputs],
        [one.captured_s for one in stream.outputs],
        [captured_s for _, captured_s in stream.moments],
    )
    own = [one for one in stream.outputs if one.target_frame in places]
    offline = Scored([one.detected.objects for one in own], [truth[places[one.target_frame]] for one in own])
    return {
        "sap": summary(of_pairing(outputs, pairing, truth), scale),
        "ap": summary(offline, scale),
    }


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
