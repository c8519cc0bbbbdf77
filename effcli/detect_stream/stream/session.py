"""The steps of `effcli detect-stream`: open a stream, detect in it, say how fresh and how good the boxes were."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from effcli.core.errors import InputError, UsageError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.files import check_new_file, check_new_folder
from effcli.core.runtime import Runtime
from effcli.data.moving_pictures import check_video
from effcli.detect_stream.data.frame_fitting import fitted_pair
from effcli.detect_stream.evaluation.kitti_ap import height_scale
from effcli.detect_stream.evaluation.streaming_ap import pair_outputs, percentiles
from effcli.detect_stream.evaluation.tables import Scored, of_pairing, summary
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.ego_motion import ego_motion_of
from effcli.detect_stream.network.streamdsgn import n_parameters
from effcli.detect_stream.recipe import StreamSection
from effcli.detect_stream.stream.clocks import Output, Stream, json_line, run_simulated, run_wall, warm_up
from effcli.detect_stream.stream.frame_sources import Arrival, FrameSource, has_labels, limited
from effcli.detect_stream.stream.output_files import StreamFiles
from effcli.detect_stream.stream.rectification import row_offset
from effcli.detect_stream.stream.stateful_detector import StreamDetector
from effcli.detect_stream.stream.video import Pictures, write_stream_video
from effcli.detect_stream.weights import Detector

log = logging.getLogger(__name__)

_NOT_COUNTED = 5
_MOST_ROWS_OFF = 1.0
_MOST_NAMED = 10
_LEAST_SCORE = 0.1
"""Of boxes that are followed, and counted where labels are known, though they may not be shown."""
_RECENT = 10
MOST_KEPT = 36_000
"""Outputs of a stream without an end that its summary is made of: an hour at 10 frames a second."""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is run, and what is written.

    Attributes:
        settings: the recipe's.
        latencies_s: of the virtual clock; None takes what was measured.
        most_frames: stop after so many; None at the end.
        output: folder for streaming.jsonl and results in KITTI's form.
        video: moving picture to write.
        force: overwrite them.
    """

    settings: StreamSection
    latencies_s: tuple[float, ...] | None = None
    most_frames: int | None = None
    output: Path | None = None
    video: Path | None = None
    force: bool = False


def read_latencies(text: str) -> tuple[float, ...]:
    """Latencies in seconds from milliseconds on the command line, or a file with one a line.

    Raises:
        UsageError: it is neither.
    """
    try:
        words = [text] if not Path(text).is_file() else Path(text).read_text(encoding="utf-8").split()
        values = tuple(float(word) / 1000 for word in words)
    except (ValueError, OSError):
        values = ()
    if not values or not all(0 <= value < 3600 for value in values):
        raise UsageError("expected milliseconds, or a file with one number a line", place=text)
    return values


def check_options(options: StreamOptions, source: FrameSource) -> None:
    """Make sure, before any work, that everything can be written and fits together.

    Raises:
        UsageError: it does not.
    """
    if options.video is not None:
        check_video(options.video)
        check_new_file(options.video, force=options.force)
    if options.output is not None:
        check_new_folder(options.output, force=options.force)
    if options.settings.clock == "sim" and source.is_live:
        raise UsageError("frames that come when they come need the real clock", place="--clock sim")
    if options.latencies_s is not None and options.settings.clock != "sim":
        raise UsageError(
            "latencies are given to the virtual clock", place="--simulate-latency", hint="--clock sim"
        )


def plan_stream(source: FrameSource, detector: Detector, options: StreamOptions) -> dict[str, Any]:
    """What :func:`detect_stream` would do."""
    known = source.n_frames
    return {
        "source": source.name,
        "fps": source.fps,
        "frames": known if known is None or options.most_frames is None else min(known, options.most_frames),
        "has_labels": has_labels(source),
        "target": detector.target,
        "parameters": n_parameters(detector.network, training=False),
    }


def detect_stream(
    source: FrameSource,
    detector: Detector,
    options: StreamOptions,
    runtime: Runtime,
    publish: Callable[[str], None],
) -> Result:
    """Detect in a stream until it ends.

    Args:
        source: the stream.
        detector: the network.
        options: how.
        runtime: where.
        publish: called with a line of JSON for each output.

    Raises:
        InputError: there is no frame that can be read.
    """
    settings = options.settings
    arrivals = limited(source.frames(), options.most_frames)
    pictures = None if options.video is None else Pictures(source, options.most_frames)
    if pictures is not None:
        arrivals = pictures.watch(arrivals)
    first = _first_good(arrivals)
    frame = first[-1].frame
    assert frame is not None
    size = (frame.left.shape[0], frame.left.shape[1])
    limits = Limits(score=min(settings.score, _LEAST_SCORE))
    first_pose = None if source.sequence is None else source.sequence.pose(0)
    ego_motion = ego_motion_of(settings.ego_motion, detector.network.config.ego_motion, first_pose)
    machine = StreamDetector(
        detector, source.calibration, size, runtime, source.fps, limits, ego_motion=ego_motion
    )
    _check_rectified(machine, first[-1])
    warm_up(machine, first[-1])
    checked = _same_size(chain(first, arrivals), size)
    with ExitStack() as stack:
        files = None
        if options.output is not None:
            files = stack.enter_context(StreamFiles(options.output, source.name))
        stream = _run(source, machine, checked, options, _Teller(source, options, publish, files))
    for number, reason in stream.damaged[:_MOST_NAMED]:
        log.warning("frame %d is left out: %s", number, reason)
    made = [] if files is None else files.paths
    if options.video is not None and pictures is not None:
        write_stream_video(options.video, source, stream, pictures, settings.score)
        made = [*made, str(options.video)]
    result = result_of_verb(
        "detect-stream",
        "run",
        "streamdsgn",
        recipe=settings.weights,
        output=options.output or options.video or "",
        metrics={**_metrics(source, stream, machine), "files": made},
        runtime=runtime,
        total_s=stream.outputs[-1].finished_s if stream.outputs else 0.0,
    )
    result.environment["load_average"] = round(os.getloadavg()[0], 2)
    return result


def _run(
    source: FrameSource,
    machine: StreamDetector,
    arrivals: Iterator[Arrival],
    options: StreamOptions,
    teller: _Teller,
) -> Stream:
    aim = _Aim(options.settings.horizon)
    if options.settings.clock == "sim":
        return run_simulated(source, machine, arrivals, options.latencies_s, teller, aim)
    most_kept = MOST_KEPT if source.is_live and options.video is None else None
    return run_wall(source, machine, arrivals, teller, most_kept, aim)


@dataclass
class _Aim:
    """Moves boxes to ``horizon`` milliseconds after the capture; ``auto``: to the age that results have."""

    horizon: float | Literal["auto"] | None
    ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def __call__(self, output: Output) -> Output:
        self.ages_ms.append(output.age_ms)
        if self.horizon is None:
            return output
        horizon_ms = float(np.mean(self.ages_ms)) if self.horizon == "auto" else self.horizon
        return output.at(output.captured_s + horizon_ms / 1000)


@dataclass
class _Teller:
    """Makes a line of JSON of each output, publishes it and writes it."""

    source: FrameSource
    options: StreamOptions
    publish: Callable[[str], None]
    files: StreamFiles | None

    def __call__(self, output: Output) -> None:
        shown = output.above(self.options.settings.score)
        line = json.dumps(json_line(shown, self.source.name))
        self.publish(line)
        if self.files is not None:
            self.files.add(line, shown)


def _first_good(arrivals: Iterator[Arrival]) -> list[Arrival]:
    found = []
    for arrival in arrivals:
        found.append(arrival)
        if arrival.frame is not None:
            return found
    reason = f": {found[0].damage}" if found else ""
    raise InputError(f"no frame can be read{reason}", place="the stream")


def _same_size(arrivals: Iterator[Arrival], size: tuple[int, int]) -> Iterator[Arrival]:
    for arrival in arrivals:
        shape = None if arrival.frame is None else arrival.frame.left.shape[:2]
        if shape is not None and shape != size:
            reason = f"is {shape[1]}x{shape[0]}, the first frame {size[1]}x{size[0]}"
            arrival = Arrival(arrival.number, None, reason)
        yield arrival


def _check_rectified(machine: StreamDetector, arrival: Arrival) -> None:
    if arrival.frame is None:
        return
    offset = row_offset(*fitted_pair(arrival.frame, machine.fit, machine.config))
    if abs(offset) > _MOST_ROWS_OFF:
        rows = offset * arrival.frame.left.shape[0] / machine.fit.scaled[0]
        log.warning(
            "left and right do not look rectified: the same things are about %.0f rows apart; distances will be wrong",
            abs(rows),
        )


def _metrics(source: FrameSource, stream: Stream, machine: StreamDetector) -> dict[str, Any]:
    outputs = list(stream.outputs)
    counted = outputs[_NOT_COUNTED:] or outputs
    latencies, ages = ([getattr(one, name) for one in counted] for name in ("latency_ms", "age_ms"))
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


def _stage_names(outputs: list[Output]) -> list[str]:
    return list(outputs[0].detected.stages_ms) if outputs else []


def _quality(source: FrameSource, stream: Stream) -> dict[str, Any]:
    """sAP of what was published, and AP of the outputs for their own frame."""
    assert source.sequence is not None
    truth = [source.sequence.objects(i) for i in range(stream.frames)]
    scale = height_scale(float(source.calibration.left[0, 0]))
    outputs = [one.objects for one in stream.outputs]
    pairing = pair_outputs(
        [one.finished_s for one in stream.outputs],
        [one.frame for one in stream.outputs],
        len(truth),
        source.fps,
    )
    own = [one for one in stream.outputs if one.target_frame < len(truth)]
    offline = Scored([one.detected.objects for one in own], [truth[one.target_frame] for one in own])
    return {
        "sap": summary(of_pairing(outputs, pairing, truth), scale),
        "ap": summary(offline, scale),
    }


def stdin_pipe() -> Any:
    """Standard input as bytes."""
    return sys.stdin.buffer
