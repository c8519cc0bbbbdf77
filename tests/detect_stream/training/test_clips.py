"""Samples of a training: which frames they are made of."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.frame_times import Timeline
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.training.clips import Clips


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


def test_samples_of_a_whole_sequence_are_as_ever() -> None:
    plain, numbered = Clips([Drive(1, 5, "crowded")], TINY), Clips([drive((7, 8, 9, 10, 11))], TINY)
    assert plain.index == numbered.index == [(0, 1), (0, 2), (0, 3)]
    for one, other in zip(plain.sample(1).objects, numbered.sample(1).objects, strict=True):
        assert np.array_equal(one.boxes, other.boxes) and len(one)
