"""Moments of the frames of a pipe: ts, --fps, arrivals."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from effcli.core.errors import InputError
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.sources.frame_clock import FrameClock
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.sources.pipe_source import PipeSource

CALIBRATION = Drive(1).calibration


def piped(stamps: list[object], fps: float | None = None) -> tuple[PipeSource, list[Arrival]]:
    data = b"".join(
        json.dumps({"w": 2, "h": 2, **({} if ts is None else {"ts": ts})}).encode() + b"\n" + bytes(24)
        for ts in stamps
    )
    source = PipeSource(io.BytesIO(data), CALIBRATION, fps)
    return source, list(source.frames())


def test_ts_is_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    source, arrivals = piped([100 + i for i in range(12)], fps=10)
    assert [one.time_s for one in arrivals] == [100 + i for i in range(12)]
    assert arrivals[-1].interval_s == source.fps == 1.0
    assert "its ts say 1 frames per second, --fps 10; ts is used" in caplog.text
    assert piped([0.0, 0.05])[0].fps == pytest.approx(20)


def test_frames_with_an_impossible_ts_are_left_out() -> None:
    _, arrivals = piped([1.0, 2.0, 1.5, None, 3.0])
    assert [one.frame is None for one in arrivals] == [False, False, True, True, False]
    assert arrivals[2].damage == "its ts, 1.5, is not later than that of the frame before, 2"
    assert "has no ts" in (arrivals[3].damage or "")
    assert [one.number for one in arrivals] == list(range(5))
    for wrong in ("now", True, [1]):
        with pytest.raises(InputError, match="not a time in seconds"):
            piped([wrong])


def stamped(clock: FrameClock, n: int) -> list[Arrival]:
    return [clock.stamped(Arrival(i, None), None) for i in range(n)]


def ticks(seconds: float) -> Iterator[float]:
    moment = 50.0
    while True:
        yield moment
        moment += seconds


def test_without_ts_frames_are_taken_when_they_arrive() -> None:
    moments = ticks(1.0)
    arrivals = stamped(clock := FrameClock("cam", None, lambda: next(moments)), 3)
    assert [one.time_s for one in arrivals] == [50, 51, 52]
    assert (clock.fps, arrivals[2].interval_s) == (1.0, 1.0)


def test_the_option_stands_for_arrivals_and_says_if_they_differ(caplog: pytest.LogCaptureFixture) -> None:
    moments = ticks(1.0)
    arrivals = stamped(FrameClock("cam", 10, lambda: next(moments)), 12)
    assert {one.time_s for one in arrivals} == {None}
    assert "cam: frames arrive at 1 frames per second, --fps 10; --fps is used" in caplog.text
    caplog.clear()
    moments = ticks(0.001)
    stamped(FrameClock("cam", None, lambda: next(moments)), 12)
    assert "as from a file" in caplog.text


def test_ts_in_another_unit_than_seconds_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    piped([1317042145345 + 100 * i for i in range(4)])
    assert "by their ts frames are 100 s apart: ts is in seconds" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    piped([5.0 * i for i in range(4)])
    assert caplog.text == ""


@pytest.mark.parametrize("n_missing", [1, 24, 25, 28])
def test_a_pipe_that_ends_in_the_middle_of_a_frame_says_so(n_missing: int) -> None:
    whole = b'{"w": 2, "h": 2, "ts": 1}\n' + bytes(24)
    source = PipeSource(io.BytesIO(whole + whole.replace(b"1}", b"2}")[:-n_missing]), CALIBRATION, None)
    first, last = source.frames()
    assert first.frame is not None
    assert (last.number, last.frame, last.damage) == (1, None, "the pipe ended in the middle of it")
