"""The detector that is shown frame after frame says what the network says of pairs of frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effcli.core.runtime import Runtime
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.box_decoding import Limits, boxes_of
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.network.frame_fitting import fitted_pair
from effcli.detect_stream.network.streamdsgn import StreamDsgn
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.stream_detector import DetectedFrame, StreamDetector
from effcli.detect_stream.weights import TrainedDetector, load_detector, starting_weights

LIMITS = Limits(score=0.05)


@pytest.fixture(scope="module")
def stream() -> tuple[StreamDetector, Drive]:
    runtime = Runtime(torch.device("cpu"), "fp32", 0)
    drive = Drive(4, 5)
    detector = load_detector("builtin:street-tiny")
    return StreamDetector(detector, drive.calibration, (128, 416), runtime, 10.0, LIMITS), drive


def shown(stream: tuple[StreamDetector, Drive], *numbers: int) -> list[DetectedFrame]:
    detector, drive = stream
    detector.reset()
    return [detector.detect(detector.prepare(Arrival(i, drive.frame(i)))) for i in numbers]


@pytest.mark.slow
@torch.no_grad()
def test_a_stream_is_the_forward_pass_of_pairs(stream: tuple[StreamDetector, Drive]) -> None:
    detector, drive = stream
    network = load_detector("builtin:street-tiny").network
    sizes = torch.tensor([[128, 416]])
    view = network.view(detector.fit.matrices()[None], sizes)
    before = None
    for i, found in enumerate(shown(stream, 0, 1, 2, 3)):
        left, right = (
            network.normalise(picture[None], sizes)
            for picture in fitted_pair(drive.frame(i), detector.fit, network.config)
        )
        outputs, before = network(left, right, view, before)
        boxes, scores, _ = boxes_of(outputs, network.config, LIMITS)
        inside = [row for row in range(len(boxes)) if scores[row] > 2 * LIMITS.score]
        assert found.history == (1 if i == 0 else 2)
        assert len(found.objects) >= len(inside) > 0
        for row in inside:  # boxes outside the picture are left out of a stream
            apart = np.abs(found.objects.boxes - boxes[row].numpy()).max(1)
            if apart.min() < 1e-2:
                assert found.objects.scores[apart.argmin()] == pytest.approx(float(scores[row]), abs=1e-3)
        assert sum(
            np.abs(found.objects.boxes - boxes[row].numpy()).max(1).min() < 1e-2 for row in inside
        ) >= 0.9 * len(inside)


def test_a_reset_or_a_long_gap_begins_a_scene(stream: tuple[StreamDetector, Drive]) -> None:
    alone = shown(stream, 3)[0]
    after_gap = shown(stream, 0, 4)[1]
    assert (alone.history, after_gap.history) == (1, 1)
    assert np.array_equal(alone.objects.boxes, shown(stream, 3)[0].objects.boxes)
    assert shown(stream, 0, 3)[1].history == 2
    assert not alone.velocities.any()


def test_what_is_followed_keeps_its_number_until_a_scene_begins(
    stream: tuple[StreamDetector, Drive],
) -> None:
    frames = shown(stream, 0, 1, 2, 3, 4)
    kind, number = frames[-1].objects.kinds[0], frames[-1].objects.track_ids[0]
    for found in frames[1:]:
        row = found.objects.track_ids.tolist().index(number)
        assert found.objects.kinds[row] == kind
    detector, drive = stream
    detector.detect(detector.prepare(Arrival(20, drive.frame(0))))  # long after: another scene
    later = detector.detect(detector.prepare(Arrival(21, drive.frame(1))))
    assert later.objects.track_ids.max() > max(one.objects.track_ids.max() for one in frames)
    assert number not in later.objects.track_ids


def test_speeds_are_by_the_moments_of_frames(stream: tuple[StreamDetector, Drive]) -> None:
    detector, drive = stream

    def velocities(seconds: float) -> np.ndarray:
        detector.reset()
        for i in range(3):
            arrival = Arrival(i, drive.frame(i), time_s=7 + i * seconds, interval_s=seconds)
            found = detector.detect(detector.prepare(arrival))
        return found.velocities

    plain = shown(stream, 0, 1, 2)[-1].velocities
    assert np.array_equal(velocities(0.1), plain)
    slow = velocities(1.0)
    assert 0.02 < np.abs(slow).max() / np.abs(plain).max() < 0.5


def test_the_horizon_that_is_asked_for_has_its_own_head(stream: tuple[StreamDetector, Drive]) -> None:
    plain, drive = stream
    network = StreamDsgn(TINY.model_copy(update={"horizons": (1, 2)})).eval()
    network.load_state_dict(starting_weights(network, load_detector("builtin:street-tiny").network, "known"))
    with torch.no_grad():
        network.heads[1].codes.bias.add_(0.2)  # the second head: all boxes farther on
    several = StreamDetector(
        TrainedDetector(network, "next"), drive.calibration, (128, 416), plain.runtime, 10.0, LIMITS
    )
    assert (plain.horizons, several.horizons) == ((1,), (1, 2))
    frames = [several.prepare(Arrival(i, drive.frame(i))) for i in range(4)]
    first = [several.detect(one, 1) for one in frames]
    several.reset()
    mixed = [several.detect(one, ahead) for one, ahead in zip(frames, (1, 2, 2, 1), strict=True)]
    assert [one.ahead for one in mixed] == [1, 2, 2, 1]
    for one, found in zip(first, shown(stream, 0, 1, 2, 3), strict=True):  # one horizon as before
        assert np.array_equal(one.objects.boxes, found.objects.boxes)
    assert np.array_equal(mixed[3].objects.boxes, first[3].objects.boxes)
    best = mixed[1].objects.boxes[0]
    assert np.abs(first[1].objects.boxes - best).max(1).min() > 0.05
