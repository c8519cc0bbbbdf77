"""Which horizon is asked for: by what frames have waited and what the last ones took."""

from __future__ import annotations

import pytest

from effcli.detect_stream.stream.horizon_choice import HorizonChoice


def choice(horizons: tuple[int, ...], *latencies_s: float) -> HorizonChoice:
    made = HorizonChoice(horizons)
    for one in latencies_s:
        made.took(one)
    return made


@pytest.mark.parametrize(
    ("latency_s", "waited_s", "frames"),
    [(0.02, 0.0, 1), (0.1, 0.0, 1), (0.101, 0.0, 2), (0.15, 0.04, 2), (0.15, 0.06, 3), (0.9, 0.0, 3)],
)
def test_it_is_that_of_the_frame_that_comes_when_the_result_is_there(
    latency_s: float, waited_s: float, frames: int
) -> None:
    assert choice((1, 2, 3), latency_s).frames(waited_s, 0.1) == frames


def test_before_any_latency_it_is_the_first_and_where_one_is_missing_the_next() -> None:
    assert choice((1, 2, 3)).frames(5.0, 0.1) == 1
    assert choice((1, 3), 0.15).frames(0.0, 0.1) == 3
    assert choice((0,), 0.5).frames(0.3, 0.1) == 0


def test_only_the_last_ten_latencies_count() -> None:
    assert choice((1, 2, 3), 9.0, *[0.05] * 9).frames(0.0, 0.1) == 3
    assert choice((1, 2, 3), 9.0, *[0.05] * 10).frames(0.0, 0.1) == 1
