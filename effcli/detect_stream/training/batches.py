"""Batches of samples; what is random in them follows from the seed and the step."""

from __future__ import annotations

import numpy as np

from effcli.data.epochs import draws_of, item_of
from effcli.detect_stream.recipe import StreamAugmentSection
from effcli.detect_stream.training.augmentation import mirrored, random_turn
from effcli.detect_stream.training.clips import ClipBatch, Clips, collate
from effcli.detect_stream.training.tracklet_paste import with_tracklets

_STREAM, _CHANCE_STREAM = 29, 31


def batch_of_step(
    clips: Clips,
    step: int,
    batch_size: int,
    augment: StreamAugmentSection,
    seed: int,
    *,
    rank: int = 0,
    world: int = 1,
) -> ClipBatch:
    """The samples of a step, a pure function of its arguments."""
    samples, turns = [], []
    for draw in draws_of(step, batch_size, rank=rank, world=world):
        _, item = item_of(draw, len(clips), _STREAM, seed)
        rng = np.random.default_rng((_CHANCE_STREAM, seed, draw))
        sample = clips.sample(item)
        if augment.paste and rng.random() < augment.paste:
            sample = with_tracklets(sample, item, clips, rng)
        if rng.random() < augment.flip:
            sample = mirrored(sample)
        samples.append(sample)
        turns.append(random_turn(rng) if augment.turn else np.eye(3))
    return collate(samples, turns, clips.config)
