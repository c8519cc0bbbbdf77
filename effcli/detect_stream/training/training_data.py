"""The sequences on the disk that a recipe learns from and measures on, and what there is to say about them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from effcli.core.errors import UsageError
from effcli.core.progress import NOTICE
from effcli.detect_stream.data.drive_sets import Part, parse_synthetic
from effcli.detect_stream.data.labelled_sequences import labelled_sequences, shared_frames
from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.stream.rig_check import check_rigs
from effcli.detect_stream.training.clips import LEARNED, Clips

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Sequences on the disk.

    Attributes:
        sequences: what is learned from; None: synthetic drives, which take time to generate.
        held_out: what is measured on; None: synthetic drives, or nothing is measured.
    """

    sequences: list[StereoSequence] | None
    held_out: list[StereoSequence] | None


def training_data(recipe: StreamDsgnRecipe) -> TrainingData:
    """Open what a recipe names, and log what both parts share.

    Raises:
        InputError: a folder is none, or damaged.
        UsageError: there are no labels, no such frames, or none that can be learned from.
    """
    sequences = _on_disk(recipe.data.source, "train", recipe, recipe.data.frames, "data.frames")
    held_out = _on_disk(recipe.eval.data, "eval", recipe, recipe.eval.frames, "eval.frames")
    if sequences is not None:
        _check_clips(Clips(sequences, recipe.architecture(), recipe.data.truncation), recipe.data.source)
        _say_what_is_missing(sequences, recipe)
    check_rigs([*(sequences or []), *(held_out or [])], recipe.network.config())
    for name, numbers in shared_frames(sequences or [], held_out or []).items():
        log.warning(
            "%d frames of sequence %s, from %d to %d, are used both for training and for evaluation",
            *(len(numbers), name, numbers[0], numbers[-1]),
        )
    return TrainingData(sequences, held_out)


def _check_clips(clips: Clips, source: str) -> None:
    if clips.n_beside_gaps:
        log.warning(
            "%s: %d frames are not used for training, because the frame before or after them is missing",
            source,
            clips.n_beside_gaps,
        )
    if not len(clips):
        raise UsageError(
            "has no frames to train on: none has a frame before it and one with labelled objects after it",
            place=source,
        )


def _say_what_is_missing(sequences: list[StereoSequence], recipe: StreamDsgnRecipe) -> None:
    """Log which parts of the loss have nothing to learn from."""
    source, weights = recipe.data.source, recipe.loss
    n_flat = sum(all(one.depth(i) is None for i in range(len(one))) for one in sequences)
    if n_flat and weights.depth and recipe.train.frozen_stereo is None:
        log.log(
            NOTICE,
            "%s: %d of %d sequences have no depth (velodyne, depth_02); only their boxes are learned from",
            *(source, n_flat, len(sequences)),
        )
    objects = [one.objects(i) for one in sequences for i in range(len(one))]
    ids = [
        int(track)
        for one in objects
        for kind, track in zip(one.kinds, one.track_ids, strict=True)
        if kind in LEARNED
    ]
    n_without = sum(track < 0 for track in ids)
    if n_without and weights.motion and weights.motion_by == "track":
        log.warning(
            "%s: %d of %d labelled objects have no track id (-1) and are not used for motion consistency",
            *(source, n_without, len(ids)),
        )


def _on_disk(
    source: str | None, part: Part, recipe: StreamDsgnRecipe, frames: str | None, key: str
) -> list[StereoSequence] | None:
    """Sequences of a folder; None for synthetic drives and for no source."""
    if source is None or (frames is None and parse_synthetic(source) is not None):
        return None
    return labelled_sequences(source, part, recipe.data.split, frames=frames, frames_key=key)
