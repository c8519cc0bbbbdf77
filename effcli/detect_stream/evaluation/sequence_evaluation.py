"""A detector on labelled sequences: every frame offline, and the same outputs as a stream would have had them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from effcli.core.errors import InputError
from effcli.core.runtime import Runtime
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects
from effcli.detect_stream.data.frame_times import timeline_of
from effcli.detect_stream.data.kitti_labels import grade
from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.evaluation.depth_error import DepthErrors
from effcli.detect_stream.evaluation.kitti_ap import height_scale
from effcli.detect_stream.evaluation.precision_tables import (
    Scored,
    joined,
    of_pairing,
    precision_table,
    summary,
    velocity_error,
)
from effcli.detect_stream.evaluation.stream_summary import percentiles
from effcli.detect_stream.evaluation.tracking_metrics import (
    TrackedSequence,
    require_trackeval,
    tracking_metrics,
)
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.ego_motion import EgoSetting, ego_motion_of
from effcli.detect_stream.recipe import StreamRunSection, Truncation
from effcli.detect_stream.sources.frame_source import SequenceSource
from effcli.detect_stream.stream.clocks import run_simulated
from effcli.detect_stream.stream.drawing import draw, stacked
from effcli.detect_stream.stream.output import StreamOutput
from effcli.detect_stream.stream.output_pairing import Pairing, pair_outputs
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.weights import TrainedDetector, require_depth

_SHOWN = StreamRunSection().score


@dataclass(frozen=True)
class MeasureSettings:
    """How detectors are measured.

    Attributes:
        latencies_s: of the virtual clock; None takes what was measured.
        pairing: whose output a frame's truth meets.
        truncation: how KITTI Tracking's whole numbers are read.
        ego_motion: see :func:`effcli.detect_stream.network.ego_motion.ego_motion_of`.
        depth: whether the depth of pixels is measured, too.
        tracking: whether tracks are measured, too.
    """

    latencies_s: tuple[float, ...] | None = (0.06,)
    pairing: Pairing = "sap"
    truncation: Truncation = "graded"
    ego_motion: EgoSetting = None
    depth: bool = False
    tracking: bool = False


def check_measurable(
    how: MeasureSettings,
    detector: TrainedDetector,
    weights: str,
    sequences: Sequence[StereoSequence],
    data: str,
) -> None:
    """Make sure, before any work, that all that is asked for can be measured.

    Raises:
        InputError: depth is, and the detector or all sequences know none.
        UsageError: tracks are, and TrackEval is not installed.
    """
    if how.tracking:
        require_trackeval()
    if how.depth:
        require_depth(detector, weights)
        if all(one.depth(0) is None for one in sequences):
            raise InputError(
                "has no depth to measure against", place=data, hint="it holds velodyne/ or depth_02/"
            )


@dataclass(frozen=True)
class _Seen:
    """What came of one sequence."""

    offline: Scored
    same_frame: Scored
    streaming: Scored
    constant_velocity: Scored
    outputs: list[FrameObjects]
    truth: list[FrameObjects]
    ages_ms: list[float]
    n_dropped: int
    n_missing: int
    tracked: TrackedSequence


def measure(
    detector: TrainedDetector,
    sequences: Sequence[StereoSequence],
    how: MeasureSettings,
    runtime: Runtime,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """All figures of a detector on sequences.

    Returns:
        ``ap`` (each output for its own moment) and ``sap`` (each frame's truth and the output that was there), by
        centre distance of 2 m; ``sap_constant_velocity`` (outputs moved on to the frame that asks);
        ``ap_same_frame`` (each output and the truth of the frame it was made of); ``velocity_error_m``; ``table``,
        ``sap_table`` and ``sap_constant_velocity_table`` with all of KITTI's; ``age_ms``, ``frames``, ``processed``
        and ``dropped``; where asked for ``depth``, as of
        :meth:`~effcli.detect_stream.evaluation.depth_error.DepthErrors.summary`, and ``tracking``, as of
        :func:`~effcli.detect_stream.evaluation.tracking_metrics.tracking_metrics`: of each output for its own moment,
        boxes of at least the score that `run` shows.
    """
    seen = []
    errors = DepthErrors(detector.network.config.depth) if how.depth else None
    for sequence in sequences:
        check_stop()
        seen.append(_of_sequence(detector, sequence, how, runtime, errors))
    scale = height_scale(float(sequences[0].calibration.left[0, 0]))
    parts = {
        name: joined([getattr(one, name) for one in seen])
        for name in ("offline", "streaming", "constant_velocity", "same_frame")
    }
    ahead = int(detector.target == "next")
    outputs = [x for one in seen for x in one.outputs]
    truths = [x for one in seen for x in one.truth]
    return {
        "ap": summary(parts["offline"], scale),
        "sap": summary(parts["streaming"], scale),
        "sap_constant_velocity": summary(parts["constant_velocity"], scale),
        "ap_same_frame": summary(parts["same_frame"], scale),
        "velocity_error_m": velocity_error(outputs, truths, ahead)
        if not any(one.n_dropped or one.n_missing for one in seen)
        else None,
        "table": precision_table(parts["offline"], scale),
        "sap_table": precision_table(parts["streaming"], scale),
        "sap_constant_velocity_table": precision_table(parts["constant_velocity"], scale),
        "age_ms": percentiles([age for one in seen for age in one.ages_ms]),
        "frames": len(truths),
        "processed": len(outputs),
        "dropped": sum(one.n_dropped for one in seen),
        **({} if errors is None else {"depth": errors.summary()}),
        **({"tracking": tracking_metrics([one.tracked for one in seen])} if how.tracking else {}),
    }


def _machine(
    detector: TrainedDetector,
    sequence: StereoSequence,
    setting: EgoSetting,
    score: float,
    runtime: Runtime,
    *,
    depth: bool = False,
) -> StreamDetector:
    size = sequence.frame(0).left.shape
    return StreamDetector(
        detector,
        sequence.calibration,
        (size[0], size[1]),
        runtime,
        sequence.fps,
        Limits(score=score),
        ego_motion=ego_motion_of(setting, detector.network.config.ego_motion, sequence.pose(0)),
        depth=depth,
    )


def _of_sequence(
    detector: TrainedDetector,
    sequence: StereoSequence,
    how: MeasureSettings,
    runtime: Runtime,
    errors: DepthErrors | None,
) -> _Seen:
    source = SequenceSource(sequence)
    timeline = timeline_of(sequence)
    moments, places = timeline.moments(sequence.fps), {n: i for i, n in enumerate(timeline.numbers)}

    def see(output: StreamOutput) -> None:
        images = output.detected.images
        if errors is not None and images is not None and images.depth is not None:
            errors.add(images.depth, sequence.depth(places[output.frame]))

    machine = _machine(detector, sequence, how.ego_motion, 0.05, runtime, depth=how.depth)
    stream = run_simulated(source, machine, source.frames(), how.latencies_s, see)
    truth = [_read(sequence.objects(i), how.truncation) for i in range(len(sequence))]
    outputs = [one.detected.objects for one in stream.outputs]
    pairing = pair_outputs(
        [one.finished_s for one in stream.outputs],
        [one.captured_s for one in stream.outputs],
        moments,
        how.pairing,
    )
    own = [one for one in stream.outputs if one.target_frame in places]
    return _Seen(
        Scored([one.detected.objects for one in own], [truth[places[one.target_frame]] for one in own]),
        Scored(outputs, [truth[places[one.frame]] for one in stream.outputs]),
        of_pairing(outputs, pairing, truth),
        Scored(moved_on(stream.outputs, pairing, moments), truth),
        outputs,
        truth,
        [one.age_ms for one in stream.outputs],
        stream.mailbox_drops,
        timeline.n_missing,
        TrackedSequence(
            {one.target_frame: one.above(_SHOWN).detected.objects for one in own},
            {number: sequence.objects(i) for number, i in places.items()},
        ),
    )


def moved_on(
    outputs: Sequence[StreamOutput], pairing: Sequence[int | None], moments_s: Sequence[float]
) -> list[FrameObjects]:
    """What each frame's truth meets, moved at constant velocity to the moment of that frame."""
    found = []
    for moment_s, k in zip(moments_s, pairing, strict=True):
        if k is None:
            found.append(no_objects())
            continue
        found.append(outputs[k].at(moment_s).objects)
    return found


def pictures_of(
    detector: TrainedDetector, sequence: StereoSequence, runtime: Runtime, n_pictures: int = 4
) -> Image.Image:
    """Some frames of a sequence with what was detected for them one frame before, or in them, below each other."""
    source = SequenceSource(sequence)
    machine = _machine(detector, sequence, None, 0.3, runtime)
    stream = run_simulated(source, machine, source.frames(), (0.0,), lambda output: None)
    made = {one.target_frame: one.detected.objects for one in stream.outputs}
    chosen = np.linspace(1, len(sequence) - 1, n_pictures).astype(int).tolist()
    numbers = timeline_of(sequence).numbers
    return stacked(
        [
            draw(
                sequence.frame(i).left,
                sequence.calibration,
                made[numbers[i]],
                sequence.objects(i),
                f"frame {numbers[i]}",
            )
            for i in chosen
            if numbers[i] in made
        ]
    )


def _read(objects: FrameObjects, truncation: Truncation) -> FrameObjects:
    if truncation == "fraction":
        return objects
    return replace(objects, truncated=grade(objects.truncated))
