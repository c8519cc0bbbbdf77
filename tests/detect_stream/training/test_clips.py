"""Samples of a training: which frames they are made of."""

from __future__ import annotations

import numpy as np
import torch

from effcli.detect_stream.data.frame_times import Timeline
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.recipe import StreamAugmentSection
from effcli.detect_stream.training.augmentation import mirrored
from effcli.detect_stream.training.batches import batch_of_step
from effcli.detect_stream.training.clips import Clips
from effcli.detect_stream.training.tracklet_paste import paste

LATER = TINY.model_copy(update={"horizons": (1, 2, 4)})


def drive(numbers: tuple[int, ...], times_s: tuple[float, ...] | None = None) -> Drive:
    """A drive whose frames have these numbers or times."""
    found = Drive(1, len(numbers), "crowded")
    found.timeline = Timeline(numbers, times_s)  # type: ignore[attr-defined]
    return found


def test_a_frame_beside_a_gap_is_not_learned_from() -> None:
    clips = Clips([drive((49, 50, 51, 52, 55, 56, 57))], TINY)
    assert [i for _, i in clips.index] == [1, 2, 5]
    assert clips.n_beside_gaps == 2
    (first, second, after_gap) = (clips.sample(i) for i in range(3))
    assert not len(first.objects[3]) and len(second.objects[3])
    assert len(after_gap.objects[2]) and not len(after_gap.objects[3])  # two frames before 56 is 54


def test_gaps_are_seen_in_times_too() -> None:
    clips = Clips([drive(tuple(range(6)), (0.0, 0.1, 0.21, 0.3, 0.61, 0.7))], TINY)
    assert [i for _, i in clips.index] == [1, 2]
    assert Clips([drive(tuple(range(6)))], TINY).n_beside_gaps == 0


def test_further_horizons_have_no_gap_before_them() -> None:
    clips = Clips([drive((1, 2, 3, 4, 5, 6, 8, 9, 10))], LATER)
    assert [i for _, i in clips.index] == [1]  # frame 2, which has 1, 3, 4 and 6


def test_samples_of_a_whole_sequence_are_as_ever() -> None:
    plain, numbered = Clips([Drive(1, 5, "crowded")], TINY), Clips([drive((7, 8, 9, 10, 11))], TINY)
    assert plain.index == numbered.index == [(0, 1), (0, 2), (0, 3)]
    for one, other in zip(plain.sample(1).objects, numbered.sample(1).objects, strict=True):
        assert np.array_equal(one.boxes, other.boxes) and len(one)


def test_further_horizons_follow_the_four_moments() -> None:
    drive = Drive(2, 9, "crowded")
    plain, later = Clips([drive], TINY), Clips([drive], LATER)
    assert [i for _, i in plain.index] == list(range(1, 8))
    assert [i for _, i in later.index] == [1, 2, 3, 4]  # those with a frame at every horizon
    ours, theirs = (clips.sample(2) for clips in (later, plain))
    assert len(theirs.objects) == 4
    for one, other in zip(ours.objects, theirs.objects, strict=False):
        assert np.array_equal(one.boxes, other.boxes)
    for i, ahead in ((4, 2), (5, 4)):
        known = drive.objects(3 + ahead)
        rows = [known.track_ids.tolist().index(number) for number in ours.objects[i].track_ids]
        assert np.array_equal(ours.objects[i].boxes, known.boxes[rows])


def test_random_changes_are_the_same_at_all_horizons() -> None:
    clips = Clips([Drive(2, 8, "crowded")], LATER)
    sample, donor = clips.sample(0), clips.sample(1)
    flipped = mirrored(sample)
    for one, other in zip(flipped.objects, sample.objects, strict=True):
        assert np.array_equal(one.boxes[:, 1], -other.boxes[:, 1])
    together = paste(sample, donor, clips.calibration(0), np.random.default_rng(0))
    assert len(together.objects) == 6
    new = [
        set(one.track_ids) - set(other.track_ids)
        for one, other in zip(together.objects, sample.objects, strict=True)
    ]
    assert all(numbers == new[0] for numbers in new)
    batch = batch_of_step(clips, 0, 2, StreamAugmentSection(flip=0), 0)
    turn = batch.turns[0]
    plain = batch_of_step(clips, 0, 2, StreamAugmentSection(flip=0, turn=False), 0)
    for turned, straight in zip(batch.objects[0], plain.objects[0], strict=True):
        torch.testing.assert_close(turned.boxes[:, :3], straight.boxes[:, :3] @ turn.T, rtol=1e-4, atol=1e-3)
