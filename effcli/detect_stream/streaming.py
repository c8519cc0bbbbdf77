"""The steps of `effcli detect-stream`: open a stream, detect in it, say how fresh and how good the boxes were."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.errors import InputError, UsageError
from effcli.core.files import check_new_file, check_new_folder, make_folder, write_text
from effcli.core.result import Result
from effcli.core.runtime import Runtime
from effcli.data.kitti_labels import Objects, no_objects, object_lines, tracking_lines
from effcli.data.moving_pictures import check_video, write_video
from effcli.detect_stream.detection import Limits
from effcli.detect_stream.drawing import draw
from effcli.detect_stream.evaluation import Scored, of_pairing, summary
from effcli.detect_stream.recipe import StreamSection
from effcli.detect_stream.rectification import row_offset
from effcli.detect_stream.runner import Output, Stream, json_line, run_simulated, run_wall, warm_up
from effcli.detect_stream.stream_detector import StreamDetector
from effcli.detect_stream.stream_source import Arrival, FrameSource
from effcli.detect_stream.streamdsgn import n_parameters
from effcli.detect_stream.weights import Detector
from effcli.metrics.kitti_ap import height_scale
from effcli.metrics.streaming import pair_outputs, percentiles

log = logging.getLogger(__name__)

_NOT_COUNTED = 5
_MOST_ROWS_OFF = 1.0
_MOST_NAMED = 10
_RECENT = 10


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


@dataclass
class _Recorder:
    """Left pictures of the frames that go by, if somebody wants them later."""

    wanted: bool
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    def watch(self, arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
        for arrival in arrivals:
            if self.wanted and arrival.frame is not None:
                self.pictures[arrival.number] = arrival.frame.left
            yield arrival


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
        "has_labels": _labels(source),
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
    recorder = _Recorder(options.video is not None)
    arrivals = _limited(recorder.watch(source.frames()), options.most_frames)
    first = _first_good(arrivals)
    frame = first[-1].frame
    assert frame is not None
    size = (frame.left.shape[0], frame.left.shape[1])
    limits = Limits(score=min(settings.score, 0.1) if _labels(source) else settings.score)
    machine = StreamDetector(
        detector, source.calibration, size, runtime, source.fps, limits, use_poses=settings.ego_motion
    )
    if machine.use_poses and (source.sequence is None or source.sequence.pose(0) is None):
        log.warning("the motion of the cameras is not known (no oxts), so it is not taken out")
    _check_rectified(machine, first[-1])
    warm_up(machine, first[-1])
    checked = _same_size(chain(first, arrivals), size)
    teller = _Teller(source, options, publish)
    if settings.clock == "sim":
        stream = run_simulated(source, machine, checked, options.latencies_s, teller)
    else:
        stream = run_wall(source, machine, checked, teller)
    for number, reason in stream.damaged[:_MOST_NAMED]:
        log.warning("frame %d is left out: %s", number, reason)
    files = _write(source, stream, options, recorder, teller.lines)
    return Result(
        task="detect-stream",
        verb="run",
        method="streamdsgn",
        recipe="",
        output=str(options.output or options.video or ""),
        metrics={**_metrics(source, stream, machine), "files": files},
        timing={"total_s": round(stream.outputs[-1].finished_s, 3) if stream.outputs else 0.0},
        environment={**runtime.describe(), "load_average": round(os.getloadavg()[0], 2)},
    )


@dataclass
class _Teller:
    """Makes a line of JSON of each output and publishes it."""

    source: FrameSource
    options: StreamOptions
    publish: Callable[[str], None]
    lines: list[str] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)

    def __call__(self, output: Output) -> None:
        self.ages_ms.append(output.age_ms)
        horizon = self.options.settings.horizon
        horizon_ms = float(np.mean(self.ages_ms[-_RECENT:])) if horizon == "auto" else horizon
        shown = _shown(output, self.options.settings.score)
        self.lines.append(json.dumps(json_line(shown, self.source.name, self.source.fps, horizon_ms)))
        self.publish(self.lines[-1])


def _labels(source: FrameSource) -> bool:
    return source.sequence is not None and source.sequence.has_labels


def _limited(arrivals: Iterator[Arrival], most: int | None) -> Iterator[Arrival]:
    for arrival in arrivals:
        if most is not None and arrival.number >= most:
            return
        yield arrival


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
    prepared = machine.prepare(arrival.frame)
    offset = row_offset(prepared.left, prepared.right)
    if abs(offset) > _MOST_ROWS_OFF:
        rows = offset * arrival.frame.left.shape[0] / machine.fit.scaled[0]
        log.warning(
            "left and right do not look rectified: the same things are about %.0f rows apart; distances will be wrong",
            abs(rows),
        )


def _shown(output: Output, least: float) -> Output:
    """Only boxes of a score; those below are kept for the evaluation."""
    detected = output.detected
    keep = detected.objects.scores >= least
    kept = replace(detected, objects=detected.objects.pick(keep), velocities=detected.velocities[keep])
    return replace(output, detected=kept)


def _metrics(source: FrameSource, stream: Stream, machine: StreamDetector) -> dict[str, Any]:
    counted = stream.outputs[_NOT_COUNTED:] or stream.outputs
    latencies, ages = ([getattr(one, name) for one in counted] for name in ("latency_ms", "age_ms"))
    stages = {name: [one.detected.stages_ms[name] for one in counted] for name in _stage_names(counted)}
    metrics: dict[str, Any] = {
        "frames": stream.frames,
        "processed": len(stream.outputs),
        "dropped": stream.mailbox_drops,
        "damaged": len(stream.damaged),
        "scene_changes": machine.scene_changes,
        "interrupted": stream.was_stopped,
        "fps": source.fps,
        "deadline_misses": sum(age > 1000 / source.fps for age in ages),
        "latency_ms": percentiles(latencies),
        "age_ms": percentiles(ages),
        "stages_ms": {
            "read_ms": percentiles([one.read_ms for one in counted])["p50"],
            **{name: percentiles(values)["p50"] for name, values in stages.items()},
        },
    }
    if not _labels(source) or not stream.outputs:
        return metrics
    return metrics | _quality(source, stream)


def _stage_names(outputs: list[Output]) -> list[str]:
    return list(outputs[0].detected.stages_ms) if outputs else []


def _quality(source: FrameSource, stream: Stream) -> dict[str, Any]:
    """sAP, and AP of the outputs for their own moment."""
    assert source.sequence is not None
    truth = [source.sequence.objects(i) for i in range(stream.frames)]
    scale = height_scale(float(source.calibration.left[0, 0]))
    outputs = [one.detected.objects for one in stream.outputs]
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


def _write(
    source: FrameSource, stream: Stream, options: StreamOptions, recorder: _Recorder, lines: list[str]
) -> list[str]:
    files: list[str] = []
    if options.output is not None:
        folder = options.output
        make_folder(folder / "data")
        write_text(folder / "streaming.jsonl", "".join(f"{line}\n" for line in lines))
        rows: list[str] = []
        for one in stream.outputs:
            objects = _shown(one, options.settings.score).detected.objects
            write_text(
                folder / "data" / f"{one.target_frame:06d}.txt",
                "".join(f"{row}\n" for row in object_lines(objects)),
            )
            rows += tracking_lines(one.target_frame, objects, with_scores=True)
        write_text(folder / f"{source.name}.txt", "".join(f"{row}\n" for row in rows))
        files += [str(folder / "streaming.jsonl"), str(folder / "data"), str(folder / f"{source.name}.txt")]
    if options.video is not None and recorder.pictures:
        make_folder(options.video.parent)
        write_video(options.video, _pictures(source, stream, options, recorder), source.fps)
        files.append(str(options.video))
    return files


def _pictures(
    source: FrameSource, stream: Stream, options: StreamOptions, recorder: _Recorder
) -> Iterator[Any]:
    """Each frame with what was known at its moment."""
    outputs = [_shown(one, options.settings.score) for one in stream.outputs]
    numbers = sorted(recorder.pictures)
    pairing = pair_outputs(
        [one.finished_s for one in outputs], [one.frame for one in outputs], stream.frames, source.fps
    )
    for number in numbers:
        if number >= len(pairing):
            return
        k = pairing[number]
        known: Objects = no_objects() if k is None else outputs[k].detected.objects
        truth = source.sequence.objects(number) if source.sequence is not None and _labels(source) else None
        made = (
            "nothing yet"
            if k is None
            else f"boxes made of frame {outputs[k].frame}, {outputs[k].age_ms:.0f} ms old when there"
        )
        yield draw(recorder.pictures[number], source.calibration, known, truth, f"frame {number}: {made}")


def stdin_pipe() -> Any:
    """Standard input as bytes."""
    return sys.stdin.buffer
