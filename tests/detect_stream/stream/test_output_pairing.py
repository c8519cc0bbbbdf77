"""Streaming: who is paired with whom."""

from __future__ import annotations

import pytest

from effcli.detect_stream.evaluation.stream_summary import percentiles
from effcli.detect_stream.stream.output_pairing import pair_outputs
from tests.detect_stream.simulated_outputs import simulate


def paired(latency_s: float, n: int = 10, **options: str) -> list[int | None]:
    outputs = simulate([latency_s], n, 10.0)
    sources = [frame for frame, _, _ in outputs]
    moments = [frame / 10 for frame in range(n)]
    captures = [moments[frame] for frame in sources]
    pairing = pair_outputs([finish for _, _, finish in outputs], captures, moments, **options)  # type: ignore[arg-type]
    return [None if k is None else sources[k] for k in pairing]


def test_a_detector_faster_than_a_frame() -> None:
    assert paired(0.06) == [None, *range(9)]
    assert paired(0.001) == paired(0.099) == paired(0.06)


def test_a_detector_slower_than_a_frame() -> None:
    outputs = simulate([0.15], 10, 10.0)
    assert [frame for frame, _, _ in outputs] == [0, 1, 3, 4, 6, 7, 9]
    assert [round(finish, 3) for _, _, finish in outputs[:3]] == [0.15, 0.3, 0.45]
    assert paired(0.15)[3] == 1


def test_no_latency_meets_the_frame_itself_but_not_by_the_rule_of_asap() -> None:
    assert paired(0.0) == list(range(10))
    assert paired(0.0, pairing="asap") == [None, *range(9)]


def test_percentiles() -> None:
    assert percentiles([1, 2, 3, 4]) == {"mean": 2.5, "p50": 2.5, "p95": 3.85, "p99": 3.97, "max": 4.0}
    assert percentiles([])["p50"] is None


@pytest.mark.parametrize("latency", [0.05, 0.15, 0.25, 0.4])
def test_every_frame_is_taken_once_and_in_order(latency: float) -> None:
    frames = [frame for frame, _, _ in simulate([latency], 50, 10.0)]
    assert frames == sorted(set(frames)) and frames[-1] == 49
