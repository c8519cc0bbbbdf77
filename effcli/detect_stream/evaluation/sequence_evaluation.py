"""A detector on labelled sequences: every frame offline, and the same outputs as a stream would have had them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

FRAMES_AHEAD = (1, 2, 3)
_AHEAD_DISTANCE_M = 1.0


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
    ahead: dict[int, Scored]
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

    A detector of several horizons is asked for the one that its latency calls for, and for each of them alone.

    Returns:
        ``ap`` (each output for its own moment) and ``sap`` (each frame's truth and the output that was there), by
        centre distance of 2 m; ``sap_constant_velocity`` (outputs moved on to the frame that asks);
        ``ap_same_frame`` (each output and the truth of the frame it was made of); ``horizons``, for each the first
        three; ``ap_ahead``, for the moments 1, 2 and 3 frames after the one that was looked at, by centre distance of
        1 m: outputs of that horizon, or of the last one before, moved on; ``velocity_error_m``, of the first horizon;
        ``table``, ``sap_table`` and ``sap_constant_velocity_table`` with all of KITTI's; ``age_ms``, ``frames``,
        ``processed`` and ``dropped``; where asked for ``depth``, as of
        :meth:`~effcli.detect_stream.evaluation.depth_error.DepthErrors.summary`, and ``tracking``, as of
        :func:`~effcli.detect_stream.evaluation.tracking_metrics.tracking_metrics`: of each output for its own moment,
        boxes of at least the score that `run` shows.
    """
    horizons = detector.horizons
    errors = DepthErrors(detector.network.config.depth) if how.depth else None

    def seen_with(asked_for: tuple[int, ...], errors: DepthErrors | None = None) -> list[_Seen]:
        found = []
        for sequence in sequences:
            check_stop()
            found.append(_of_sequence(detector, sequence, how, runtime, asked_for, errors))
        return found

    seen = seen_with(horizons, errors)
    alone = {one: seen if horizons == (one,) else seen_with((one,)) for one in horizons}
    scale = height_scale(float(sequences[0].calibration.left[0, 0]))
    return {
        **_summaries(seen, scale),
        "ap_same_frame": summary(_all(seen, "same_frame"), scale),
        "horizons": {str(one): _summaries(alone[one], scale) for one in horizons},
        "ap_ahead": {
            str(frames): summary(_ahead(alone, frames), scale, _AHEAD_DISTANCE_M) for frames in FRAMES_AHEAD
        },
        "velocity_error_m": _velocity_error(alone[horizons[0]], horizons[0]),
        "table": precision_table(_all(seen, "offline"), scale),
        "sap_table": precision_table(_all(seen, "streaming"), scale),
        "sap_constant_velocity_table": precision_table(_all(seen, "constant_velocity"), scale),
        "age_ms": percentiles([age for one in seen for age in one.ages_ms]),
        "frames": sum(len(one.truth) for one in seen),
        "processed": sum(len(one.outputs) for one in seen),
        "dropped": sum(one.n_dropped for one in seen),
        **({} if errors is None else {"depth": errors.summary()}),
        **({"tracking": tracking_metrics([one.tracked for one in seen])} if how.tracking else {}),
    }


def _all(seen: Sequence[_Seen], part: str) -> Scored:
    """One part of all sequences as one."""
    return joined([getattr(one, part) for one in seen])


def _summaries(seen: Sequence[_Seen], scale: float) -> dict[str, dict[str, float | None]]:
    parts = {"ap": "offline", "sap": "streaming", "sap_constant_velocity": "constant_velocity"}
    return {name: summary(_all(seen, part), scale) for name, part in parts.items()}


def _ahead(alone: Mapping[int, Sequence[_Seen]], frames: int) -> Scored:
    """What there is to say of the moment so many frames after the one that was looked at."""
    horizon = max((one for one in alone if one <= frames), default=min(alone))
    return joined([one.ahead[frames] for one in alone[horizon]])


def _velocity_error(seen: Sequence[_Seen], ahead: int) -> float | None:
    """Of outputs for the next frame; None where frames are missing."""
    if any(one.n_dropped or one.n_missing for one in seen):
        return None
    outputs, truths = ([x for one in seen for x in getattr(one, name)] for name in ("outputs", "truth"))
    return velocity_error(outputs, truths, ahead)


def _machine(
    detector: TrainedDetector,
    sequence: StereoSequence,
    setting: EgoSetting,
    score: float,
    runtime: Runtime,
    horizons: tuple[int, ...],
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
        horizons=horizons,
        depth=depth,
    )


def _of_sequence(
    detector: TrainedDetector,
    sequence: StereoSequence,
    how: MeasureSettings,
    runtime: Runtime,
    horizons: tuple[int, ...],
    errors: DepthErrors | None,
) -> _Seen:
    source = SequenceSource(sequence)
    timeline = timeline_of(sequence)
    moments, places = timeline.moments(sequence.fps), {n: i for i, n in enumerate(timeline.numbers)}

    def see(output: StreamOutput) -> None:
        images = output.detected.images
        if errors is not None and images is not None and images.depth is not None:
            errors.add(images.depth, sequence.depth(places[output.frame]))

    depth = errors is not None
    machine = _machine(detector, sequence, how.ego_motion, 0.05, runtime, horizons, depth=depth)
    stream = run_simulated(source, machine, source.frames(), how.latencies_s, see)
    for number, reason in stream.damaged:
        raise InputError(f"frame {number} cannot be measured on: {reason}", place=sequence.name)
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
        {frames: at_frame(stream.outputs, frames, moments, places, truth) for frames in FRAMES_AHEAD},
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


def at_frame(
    outputs: Sequence[StreamOutput],
    frames: int,
    moments_s: Sequence[float],
    places: Mapping[int, int],
    truth: Sequence[FrameObjects],
) -> Scored:
    """Each output and the truth so many frames after the one that it was made of, moved there if it is for another."""
    found = []
    for one in outputs:
        place = places.get(one.frame + frames)
        if place is not None:
            is_there = one.target_frame == one.frame + frames
            found.append(((one if is_there else one.at(moments_s[place])).objects, truth[place]))
    return Scored([detected for detected, _ in found], [true for _, true in found])


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
    machine = _machine(detector, sequence, None, 0.3, runtime, detector.horizons[:1])
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
