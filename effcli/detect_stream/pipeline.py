"""The steps of the verbs of `effcli detect-stream`: train, eval, run; each from its inputs to its result."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import chain
from typing import Any, Protocol

import torch

from effcli.core.errors import RecipeError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.plan import Plan
from effcli.core.registry import load_method
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.core.text import counted
from effcli.detect_stream.data.drive_sets import Part, parse_synthetic
from effcli.detect_stream.data.labelled_sequences import labelled_sequences
from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.evaluation.sequence_evaluation import (
    MeasureSettings,
    check_measurable,
    measure,
    pictures_of,
)
from effcli.detect_stream.evaluation.stream_summary import summary_of_stream
from effcli.detect_stream.files.run_files import RunFiles
from effcli.detect_stream.files.video import Pictures, write_stream_video
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.depth_map import has_learned_depth
from effcli.detect_stream.network.ego_motion import ego_motion_of
from effcli.detect_stream.network.frame_fitting import warn_if_horizon_is_off
from effcli.detect_stream.network.streamdsgn import StreamDsgn, n_parameters
from effcli.detect_stream.recipe import DEFAULT_WEIGHTS, Split, StreamDsgnRecipe, StreamRunSection
from effcli.detect_stream.sources.frame_source import (
    Arrival,
    FrameSource,
    has_labels,
    limited,
    of_one_size,
    up_to_first_good,
)
from effcli.detect_stream.sources.open_source import open_source
from effcli.detect_stream.stream.clocks import StreamRecord, run_simulated, run_wall, warm_up
from effcli.detect_stream.stream.eye_check import checked_eyes
from effcli.detect_stream.stream.mosaic import warn_if_mosaic
from effcli.detect_stream.stream.publishing import Aim, Publisher
from effcli.detect_stream.stream.rectification import warn_if_not_rectified, warn_if_size_is_odd
from effcli.detect_stream.stream.rig_check import check_rigs
from effcli.detect_stream.stream.run_options import RunOptions, check_options, say_if_not_learned
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.training.clips import Clips
from effcli.detect_stream.training.loop import fit
from effcli.detect_stream.training.posed_sequences import PosedByPictures
from effcli.detect_stream.training.training_data import TrainingData, training_data
from effcli.detect_stream.weights import (
    FILE_NAME,
    TrainedDetector,
    load_detector,
    require_depth,
    require_same_stereo,
    save_detector,
    starting_weights,
)

log = logging.getLogger(__name__)

_MOST_NAMED = 10
_LEAST_SCORE = 0.1
"""Of boxes that are followed, and counted where labels are known, though they may not be shown."""
MOST_KEPT = 36_000
"""Outputs of a live stream that its summary is made of: an hour at 10 frames per second."""


class StreamMethod(Protocol):
    """What the module of a method has: its network, which :class:`StreamDetector` and the training loop use."""

    create: Callable[[NetworkConfig], StreamDsgn]


# --- train ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainInputs:
    """What a training needs that is on the disk.

    Attributes:
        data: sequences to learn from and to measure on.
        init: the detector that the training starts from, if any.
        stereo: the detector whose stereo parts are kept as they are, if any.
    """

    data: TrainingData
    init: TrainedDetector | None
    stereo: TrainedDetector | None


def plan_train(recipe: StreamDsgnRecipe) -> Plan[TrainInputs]:
    """What is on the disk, loaded and checked, and what :func:`train` would do with it.

    Raises:
        RecipeError: the recipe has ``weights``, which a training does not start from.
        InputError: data or weights are not there, damaged, or of another network.
    """
    if recipe.weights != DEFAULT_WEIGHTS:
        raise RecipeError(
            f"{recipe.weights} would not be used: training starts from train.init", place="weights"
        )
    with torch.device("meta"):  # shapes alone
        network = load_method(recipe).create(recipe.architecture())
    init, stereo = (
        None if source is None else load_detector(source)
        for source in (recipe.train.init, recipe.train.frozen_stereo)
    )
    if init is not None:
        starting_weights(network, init.network, str(recipe.train.init))  # refuses another network's
    if stereo is not None:
        require_same_stereo(network.config, stereo.network.config, str(recipe.train.frozen_stereo))
    data = training_data(recipe)
    facts: dict[str, Any] = {
        "data": recipe.data.source,
        "eval_data": recipe.eval.data,
        "parameters": n_parameters(network, training=True),
        "inference_parameters": n_parameters(network, training=False),
        "steps": recipe.train.steps,
        "frames": recipe.train.steps * recipe.train.batch_size,
    }
    if data.sequences is not None:
        n_frames = sum(len(one) for one in data.sequences)
        facts |= {"sequences": len(data.sequences), "frames_in_data": n_frames}
    return Plan(facts, TrainInputs(data, init, stereo))


def train(recipe: StreamDsgnRecipe, inputs: TrainInputs, run: Run) -> Result:
    """Learn from sequences; the detector goes to ``model/``."""
    sequences = inputs.data.sequences or _drawn(recipe.data.source, "train", run)
    clips = _clips(sequences, recipe, run)
    network = _initial_network(recipe, inputs, run)
    fit(network, clips, recipe, run)
    run.runtime.on_main(
        lambda: save_detector(run.file(FILE_NAME), network, recipe.loss.target, method=recipe.method)
    )
    metrics: dict[str, Any] = {"parameters": n_parameters(network, training=False)}
    if recipe.eval.data is None:
        return run.finish(metrics)
    detector = TrainedDetector(network, recipe.loss.target, recipe.method)

    @cache
    def held_out() -> list[StereoSequence]:
        return inputs.data.held_out or _drawn(str(recipe.eval.data), "eval", run)

    if inputs.init is not None:
        metrics["initial"] = run.stage(
            "measure_initial", _initial_precision, inputs.init, held_out, recipe, run
        )
    metrics |= run.stage("measure", lambda: _measured(detector, held_out(), recipe, run))
    return run.finish(metrics, lambda: _draw(detector, held_out()[0], run))


def _drawn(source: str, part: Part, run: Run) -> list[StereoSequence]:
    return labelled_sequences(source, part, "all", torch.get_num_threads(), run.check_stop)


def _clips(sequences: list[StereoSequence], recipe: StreamDsgnRecipe, run: Run) -> Clips:
    """The frames to learn from; poses that the network needs and that are not recorded are found in the pictures."""
    config = recipe.architecture()
    n_without = sum(one.pose(0) is None for one in sequences)
    if config.ego_motion and n_without:
        run.say(f"{n_without} sequences have no poses (oxts); they are found in the pictures")
        sequences = [PosedByPictures(one, config) if one.pose(0) is None else one for one in sequences]
    clips = Clips(sequences, config, recipe.data.truncation)
    run.say(f"{counted(len(sequences), 'sequence')}, {counted(len(clips), 'frame')} to train on")
    return clips


def _initial_network(recipe: StreamDsgnRecipe, inputs: TrainInputs, run: Run) -> StreamDsgn:
    """Random weights, or those that the recipe starts from."""
    run.runtime.seed_all("network")
    network: StreamDsgn = load_method(recipe).create(recipe.architecture())
    if inputs.init is not None:
        network.load_state_dict(starting_weights(network, inputs.init.network, str(recipe.train.init)))
    if inputs.stereo is not None:
        network.stereo_parts().load_state_dict(inputs.stereo.network.stereo_parts().state_dict())
    return network


def _measured(
    detector: TrainedDetector, sequences: list[StereoSequence], recipe: StreamDsgnRecipe, run: Run
) -> dict[str, Any]:
    """On held-out sequences, at a latency that drops no frame."""
    settings = MeasureSettings(truncation=recipe.data.truncation)
    found = measure(detector, sequences, settings, run.runtime, run.check_stop)
    run.say(f"centre-distance AP at 2 m: {found['ap']}, streaming {found['sap']}")
    return found


def _initial_precision(
    init: TrainedDetector, held_out: Callable[[], list[StereoSequence]], recipe: StreamDsgnRecipe, run: Run
) -> dict[str, Any]:
    """AP and streaming AP of the detector that the training started from."""
    run.say(f"measuring {recipe.train.init}, as it was before")
    found = _measured(init, held_out(), recipe, run)
    return {name: found[name] for name in ("ap", "sap")}


def _draw(detector: TrainedDetector, sequence: StereoSequence, run: Run) -> dict[str, str]:
    """Some frames of a held-out sequence, for the report."""
    file = "pictures/detections.png"
    pictures_of(detector, sequence, run.runtime).save(run.file(file))
    return {"Boxes of the next frame (coloured) and the truth (white), from above at the right": file}


# --- eval -----------------------------------------------------------------------------------------------


def evaluate(
    weights: str,
    data: str,
    split: Split,
    settings: MeasureSettings,
    runtime: Runtime,
    frames: str | None = None,
) -> Result:
    """Measure a detector on labelled sequences.

    Args:
        weights: as of :func:`~effcli.detect_stream.weights.load_detector`.
        data: a folder of KITTI Tracking, or synthetic drives by name.
        split: of a folder; the held-out part is measured on.
        settings: how it is measured.
        runtime: where.
        frames: of a folder, by the numbers of their names; they replace the split.

    Raises:
        InputError: weights or data are damaged, or depth is asked for and the one or the other knows none.
        UsageError: tracks are to be measured and TrackEval is not installed.
    """
    detector = load_detector(weights)
    started = time.perf_counter()
    sequences = labelled_sequences(data, "eval", split, frames=frames)
    check_measurable(settings, detector, weights, sequences, data)
    if parse_synthetic(data) is None:
        check_rigs(sequences, detector.network.config)
    metrics = measure(detector, sequences, settings, runtime)
    return result_of_verb(
        "detect-stream",
        "eval",
        detector.method,
        recipe=weights,
        output=weights,
        metrics=metrics,
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


# --- run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunInputs:
    """An open stream and the detector to show it to."""

    source: FrameSource
    detector: TrainedDetector


def plan_run(recipe: StreamDsgnRecipe, options: RunOptions) -> Plan[RunInputs]:
    """The source, opened, and the detector, loaded; and what :func:`run` would do with them.

    Raises:
        InputError: there is no such source or detector, or it is damaged.
        UsageError: options do not fit together.
    """
    source = open_source(options.source, options.pipe or BytesIO(), options.most_frames)
    check_options(options, recipe.stream, source)
    detector = load_detector(recipe.weights)
    if options.wants_depth:
        require_depth(detector, recipe.weights)
    known, most = source.n_frames, options.most_frames
    facts = {
        "source": source.name,
        "fps": source.fps,
        "frames": known if known is None or most is None else min(known, most),
        "has_labels": has_labels(source),
        "target": detector.target,
        "horizons": list(detector.horizons),
        "parameters": n_parameters(detector.network, training=False),
    }
    return Plan(facts, RunInputs(source, detector))


def run(
    recipe: StreamDsgnRecipe,
    inputs: RunInputs,
    options: RunOptions,
    runtime: Runtime,
    publish: Callable[[str], None],
) -> Result:
    """Detect in a stream until it ends.

    Args:
        recipe: its section ``stream`` says how.
        inputs: of :func:`plan_run`.
        options: what is written.
        runtime: where.
        publish: called with a line of JSON for each output.

    Raises:
        InputError: there is no frame that can be read.
    """
    source = inputs.source
    say_if_not_learned(recipe.weights, options)
    arrivals = limited(source.frames(), options.most_frames)
    pictures = None if options.video is None else Pictures(source, options.most_frames)
    if pictures is not None:
        arrivals = pictures.watch(arrivals)
    first = up_to_first_good(arrivals)
    depth = options.wants_depth or (options.log is not None and has_learned_depth(inputs.detector.network))
    detector = _stream_detector(recipe, inputs, first[-1], runtime, depth=depth)
    arrivals = checked_eyes(of_one_size(chain(first, arrivals), detector.size), detector.fit, detector.config)
    with RunFiles(options, source, detector.size, detector.config.depth) as files:
        publisher = Publisher(source.name, recipe.stream.score, publish, files.writers)
        record = _on_clock(source, detector, arrivals, recipe.stream, options, publisher)
        files.ended(record)
    for number, reason in record.damaged[:_MOST_NAMED]:
        log.warning("frame %d is left out: %s", number, reason)
    written = files.paths
    if options.video is not None and pictures is not None:
        write_stream_video(options.video, source, record, pictures, recipe.stream.score)
        written = [*written, str(options.video)]
    result = result_of_verb(
        "detect-stream",
        "run",
        inputs.detector.method,
        recipe=recipe.weights,
        output=options.output or next(iter(written), ""),
        metrics={**summary_of_stream(source, record, detector), "files": written},
        runtime=runtime,
        total_s=record.outputs[-1].finished_s if record.outputs else 0.0,
    )
    result.environment["load_average"] = round(os.getloadavg()[0], 2)
    return result


def _stream_detector(
    recipe: StreamDsgnRecipe, inputs: RunInputs, arrival: Arrival, runtime: Runtime, *, depth: bool
) -> StreamDetector:
    """The detector for pictures such as the first good one, warmed up on it."""
    source, frame = inputs.source, arrival.frame
    assert frame is not None
    source.calibration = source.calibration.for_pictures(frame.size, source.name)
    detector = StreamDetector(
        inputs.detector,
        source.calibration,
        frame.size,
        runtime,
        source.fps,
        Limits(score=min(recipe.stream.score, _LEAST_SCORE)),
        ego_motion=ego_motion_of(
            recipe.stream.ego_motion, inputs.detector.network.config.ego_motion, arrival.pose
        ),
        depth=depth,
    )
    warn_if_horizon_is_off(detector.fit, detector.config)
    warn_if_size_is_odd(detector.size, detector.config)
    warn_if_mosaic(frame)
    warn_if_not_rectified(frame, detector.fit, detector.config)
    warm_up(detector, arrival)
    return detector


def _on_clock(
    source: FrameSource,
    detector: StreamDetector,
    arrivals: Iterator[Arrival],
    settings: StreamRunSection,
    options: RunOptions,
    publisher: Publisher,
) -> StreamRecord:
    aim = Aim(settings.horizon)
    if settings.clock == "sim":
        return run_simulated(source, detector, arrivals, options.latencies_s, publisher, aim)
    most_kept = MOST_KEPT if source.is_live and options.video is None else None
    return run_wall(source, detector, arrivals, publisher, most_kept, aim)
