"""The runner with a detector that only sleeps; and one that fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from effcli.detect_stream.data.boxes3d import ImageView, cut_to_image, image_boxes
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of
from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.data.synthetic_drives import calibration_of_drives
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.clocks import StreamRecord, run_simulated, run_wall
from effcli.detect_stream.stream.output import StreamOutput, moved
from effcli.detect_stream.stream.stream_detector import DetectedFrame

BLANK = StereoFrame(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))


class Source:
    name, calibration, is_live, sequence = "blank", calibration_of_drives(), False, None

    def __init__(self, n: int, fps: float, damaged: tuple[int, ...] = ()) -> None:
        self.n_frames, self.fps, self._damaged = n, fps, damaged

    def frames(self) -> Iterator[Arrival]:
        for i in range(self.n_frames):
            yield Arrival(i, None, "broken") if i in self._damaged else Arrival(i, BLANK)


class Sleeper:
    def __init__(
        self, seconds: float = 0.0, fails_at: int | None = None, horizons: tuple[int, ...] = (1,)
    ) -> None:
        self.seconds, self.fails_at, self.seen = seconds, fails_at, []  # type: ignore[var-annotated]
        self.horizons = horizons

    def prepare(self, arrival: Arrival) -> SimpleNamespace:
        return SimpleNamespace(number=arrival.number, interval_s=arrival.interval_s)

    def detect(self, prepared: SimpleNamespace, ahead: int) -> DetectedFrame:
        number = prepared.number
        if self.fails_at is not None and number >= self.fails_at:  # it may have been overtaken
            raise RuntimeError("broken detector")
        self.seen.append(number)
        time.sleep(self.seconds)
        return DetectedFrame(no_objects(), np.zeros((0, 2)), 1, {}, ahead=ahead)


def wall(source: Source, detector: Sleeper) -> StreamRecord:
    outputs: list[StreamOutput] = []
    stream = run_wall(source, detector, source.frames(), outputs.append)  # type: ignore[arg-type]
    assert outputs == list(stream.outputs)
    return stream


def simulated(source: Source, latencies: list[float]) -> StreamRecord:
    return run_simulated(source, Sleeper(), source.frames(), latencies, lambda output: None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_fast_detector_sees_every_frame_in_real_time() -> None:
    stream = wall(Source(8, 5.0), Sleeper(0.04))
    assert [one.frame for one in stream.outputs] == list(range(8))
    assert (stream.mailbox_drops, stream.frames) == (0, 8)
    assert stream.outputs[-1].finished_s > 1.4  # frames are not handed out before their time
    assert all(one.age_ms >= 39 for one in stream.outputs)


def test_of_a_stream_without_an_end_the_last_outputs_are_kept() -> None:
    published: list[StreamOutput] = []
    stream = run_wall(Source(8, 50.0), Sleeper(), Source(8, 50.0).frames(), published.append, most_kept=3)  # type: ignore[arg-type]
    assert list(stream.outputs) == published[-3:]
    assert stream.processed == len(published) > 3


def test_a_slow_detector_takes_the_newest() -> None:
    stream = wall(Source(15, 20.0), Sleeper(0.075))  # one and a half frames
    frames = [one.frame for one in stream.outputs]
    assert frames == sorted(set(frames)) and frames[-1] == 14
    assert 3 <= stream.mailbox_drops <= 7  # about a third
    assert len(frames) + stream.mailbox_drops == 15
    assert sum(one.dropped for one in stream.outputs) == stream.mailbox_drops


def test_the_virtual_clock_is_exact() -> None:
    stream = simulated(Source(10, 10.0), [0.15])
    assert [one.frame for one in stream.outputs] == [0, 1, 3, 4, 6, 7, 9]
    assert [round(one.age_ms) for one in list(stream.outputs)[:4]] == [150, 200, 150, 200]
    assert [one.target_frame for one in list(stream.outputs)[:2]] == [1, 2]
    assert stream.mailbox_drops == 3
    assert [one.frame for one in simulated(Source(6, 10.0), [0.06]).outputs] == list(range(6))


def test_a_detector_of_several_horizons_is_asked_for_the_frame_that_comes_then() -> None:
    def aimed(latencies: list[float], horizons: tuple[int, ...] = (1, 2, 3)) -> list[tuple[int, int]]:
        source, detector = Source(10, 10.0), Sleeper(horizons=horizons)
        stream = run_simulated(source, detector, source.frames(), latencies, lambda output: None)  # type: ignore[arg-type]
        for one in stream.outputs:
            assert one.target_s == pytest.approx(one.target_frame / 10)
        return [(one.frame, one.target_frame) for one in stream.outputs]

    # the first latency is not known before; frames 1 and 4 wait for half of a frame
    assert aimed([0.15]) == [(0, 1), (1, 3), (3, 5), (4, 6), (6, 8), (7, 9), (9, 11)]
    assert aimed([0.06]) == [(i, i + 1) for i in range(10)]
    assert aimed([0.25])[1:] == [(2, 5), (5, 8), (7, 10), (9, 12)]
    assert aimed([0.25], (1, 2))[1:] == [(2, 4), (5, 7), (7, 9), (9, 11)]
    assert aimed([0.25], (0,)) == [(0, 0), (2, 2), (5, 5), (7, 7), (9, 9)]


def test_on_the_real_clock_the_horizon_follows_what_frames_took() -> None:
    source = Source(8, 20.0)
    stream = run_wall(source, Sleeper(0.06, horizons=(1, 2)), source.frames(), lambda output: None)  # type: ignore[arg-type]
    assert [one.target_frame - one.frame for one in stream.outputs] == [1] + [2] * (stream.processed - 1)


def test_damaged_frames_are_counted_and_left_out() -> None:
    for stream in (simulated(Source(5, 10.0, (0, 3)), [0.01]), wall(Source(5, 10.0, (0, 3)), Sleeper())):
        assert [one.frame for one in stream.outputs] == [1, 2, 4]
        assert stream.damaged == [(0, "broken"), (3, "broken")]


def test_a_failure_of_one_thread_ends_the_other() -> None:
    with pytest.raises(RuntimeError, match="broken detector"):
        wall(Source(50, 100.0), Sleeper(fails_at=3))

    class Breaks(Source):
        def frames(self) -> Iterator[Arrival]:
            yield Arrival(0, BLANK)
            raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        wall(Breaks(3, 100.0), Sleeper())


class Walker(Sleeper):
    """Finds one car, which comes nearer by two metres a second."""

    def detect(self, prepared: SimpleNamespace, ahead: int) -> DetectedFrame:
        return DetectedFrame(
            car_at((prepared.number + ahead) / 10), np.array([[-2.0, 0.0]]), 1, {}, ahead=ahead
        )


def car_at(moment_s: float) -> FrameObjects:
    return objects_of(["Car"], np.array([[20 - 2 * moment_s, 0, 0, 4, 1.6, 1.5, 0]]))


def test_what_is_published_is_aimed_at_a_moment_and_the_result_stays() -> None:
    source, published = Source(6, 10.0), list[StreamOutput]()
    stream = run_simulated(
        source,  # type: ignore[arg-type]
        Walker(),  # type: ignore[arg-type]
        source.frames(),
        [0.15],
        published.append,
        lambda output: output.at(output.finished_s),
    )
    assert published == list(stream.outputs) and len(published) > 3
    for one in published:
        assert one.target_s == one.finished_s
        np.testing.assert_allclose(one.objects.boxes, car_at(one.finished_s).boxes, atol=1e-9)
        assert np.array_equal(one.detected.objects.boxes, car_at((one.frame + 1) / 10).boxes)
    assert not len(published[0].above(1.1).objects)


def test_what_the_camera_sees_follows_a_box_that_is_moved() -> None:
    projection = calibration_of_drives().left
    view = ImageView(projection, (128, 416))
    car = car_at(0)
    seen = moved(car, np.array([[-2.0, 1.0]]), 1.5, view)
    np.testing.assert_allclose(seen.boxes[0, :2], [17, 1.5])
    np.testing.assert_allclose(seen.image_boxes, cut_to_image(image_boxes(seen.boxes, projection), 128, 416))
    assert seen.image_boxes[0, 3] - seen.image_boxes[0, 1] > 10
    behind = moved(car, np.array([[-20.0, 0.0]]), 2, view)
    assert not behind.image_boxes.any()


def test_gaps_in_numbers_and_late_moments_are_no_drops() -> None:
    class Gaps(Source):
        def frames(self) -> Iterator[Arrival]:
            for number, time_s in ((49, 0.0), (50, 0.1), (53, 0.4), (56, 0.7)):
                yield Arrival(number, BLANK, time_s=time_s)

    source = Gaps(4, 10.0)
    stream = run_simulated(source, Sleeper(), source.frames(), [0.05], lambda output: None)  # type: ignore[arg-type]
    assert [(one.frame, one.target_frame, one.dropped) for one in stream.outputs] == [
        (49, 50, 0),
        (50, 51, 0),
        (53, 54, 0),
        (56, 57, 0),
    ]
    assert [one.captured_s for one in stream.outputs] == [0, 0.1, 0.4, 0.7]
    assert (stream.frames, stream.mailbox_drops) == (4, 0)
