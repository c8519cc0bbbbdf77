"""The steps of `effcli detect-stream train`: sequences, training, a look at sequences that were not learnt."""

from __future__ import annotations

from typing import Any

import torch

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.detect_stream.data.labelled_sequences import PosedByPictures, labelled_sequences, parse_synthetic
from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.evaluation.measuring import Measure, measure, pictures_of
from effcli.detect_stream.network.streamdsgn import StreamDsgn, n_parameters
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.training.clips import Clips
from effcli.detect_stream.training.loop import fit
from effcli.detect_stream.weights import (
    FILE_NAME,
    Detector,
    load_detector,
    load_stereo,
    load_weights,
    save_detector,
)


def plan_train(recipe: StreamDsgnRecipe) -> Plan[list[StereoSequence] | None]:
    """Sequences on the disk (None: synthetic ones, which the run makes), and what :func:`train` would do."""
    config = recipe.network.config()
    network = StreamDsgn(config)
    content: dict[str, Any] = {
        "data": recipe.data.source,
        "eval_data": recipe.data.eval,
        "parameters": n_parameters(network, training=True),
        "inference_parameters": n_parameters(network, training=False),
        "steps": recipe.train.steps,
        "frames": recipe.train.steps * recipe.train.batch_size,
    }
    sequences: list[StereoSequence] | None = None
    if parse_synthetic(recipe.data.source) is None:
        sequences = labelled_sequences(recipe.data.source, "train", recipe.data.split)
        content |= {"sequences": len(sequences), "frames_in_data": sum(len(one) for one in sequences)}
    return Plan(content, sequences)


def train(recipe: StreamDsgnRecipe, sequences: list[StereoSequence] | None, run: Run) -> Result:
    """Learn from sequences; the detector goes to ``model/``."""
    config = recipe.network.config()
    n_threads = torch.get_num_threads()
    if sequences is None:
        sequences = labelled_sequences(
            recipe.data.source, "train", recipe.data.split, n_threads, run.check_stop
        )
    n_without = sum(one.pose(0) is None for one in sequences)
    if config.ego_motion and n_without:
        run.say(f"{n_without} sequences have no poses (oxts); they are found in the pictures")
        sequences = [PosedByPictures(one, config) if one.pose(0) is None else one for one in sequences]
    clips = Clips(sequences, config, recipe.data.truncation)
    run.say(f"{len(sequences)} sequences, {len(clips)} frames to learn from")
    run.runtime.seed_all("network")
    network = StreamDsgn(config)
    if recipe.weights is not None:
        load_weights(network, load_detector(recipe.weights).network.state_dict(), recipe.weights)
    if recipe.stereo_weights is not None:
        load_stereo(network, recipe.stereo_weights)
    fit(network, clips, recipe, run)
    run.runtime.on_main(lambda: save_detector(run.file(FILE_NAME), network, recipe.loss.target))
    metrics: dict[str, Any] = {"parameters": n_parameters(network, training=False)}
    if recipe.data.eval is None:
        return run.finish(metrics)
    metrics |= run.stage("measure", _measured, network, recipe, run)
    return run.finish(metrics, lambda: _draw(network, recipe, run))


def _measured(network: StreamDsgn, recipe: StreamDsgnRecipe, run: Run) -> dict[str, Any]:
    """On sequences that were not learnt, at a latency that drops no frame."""
    assert recipe.data.eval is not None
    n_threads = torch.get_num_threads()
    sequences = labelled_sequences(recipe.data.eval, "eval", recipe.data.split, n_threads, run.check_stop)
    how = Measure(truncation=recipe.data.truncation)
    detector = Detector(network, recipe.loss.target)
    found = measure(detector, sequences, how, run.runtime, run.check_stop)
    run.say(f"centre-distance AP at 2 m: {found['ap']}, streaming {found['sap']}")
    return found


def _draw(network: StreamDsgn, recipe: StreamDsgnRecipe, run: Run) -> dict[str, str]:
    """Some frames of the first sequence that was not learnt, for the report."""
    assert recipe.data.eval is not None
    sequence = labelled_sequences(recipe.data.eval, "eval", recipe.data.split)[0]
    picture = pictures_of(Detector(network, recipe.loss.target), sequence, run.runtime)
    file = run.file("pictures/detections.png")
    picture.save(file)
    return {
        "Boxes of the next frame (coloured) and the truth (white), from above at the right": "pictures/detections.png"
    }
