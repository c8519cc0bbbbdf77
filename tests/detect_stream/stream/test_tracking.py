"""Boxes are followed: the filter against the textbook's matrices, and who belongs to whom."""

from __future__ import annotations

import numpy as np
import pytest

from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of
from effcli.detect_stream.stream import tracking
from effcli.detect_stream.stream.tracking import BoxTracker


def at(*places: tuple[float, float], kinds: str = "", scores: tuple[float, ...] = ()) -> FrameObjects:
    """Boxes at X, Y; ``kinds`` has a letter for each, C or P."""
    names = [{"C": "Car", "P": "Pedestrian"}[letter] for letter in kinds or "C" * len(places)]
    boxes = np.array([[x, y, 0, 4, 1.6, 1.5, 0] for x, y in places]).reshape(-1, 7)
    return objects_of(names, boxes, scores=np.array(scores) if scores else None)


def ids_of(tracker: BoxTracker, objects: FrameObjects, seconds: float = 0.1) -> list[int]:
    return [int(i) for i in tracker.follow(objects, None, seconds)[0]]


class Textbook:
    """State (X, Y, vX, vY) with whole covariance matrices."""

    def __init__(self, place: np.ndarray, variance: float) -> None:
        self.state = np.r_[place, 0, 0]
        self.covariance = np.diag([variance, variance, *[tracking.FIRST_VELOCITY_M_S**2] * 2])

    def predict(self, seconds: float) -> None:
        transition = np.kron(np.array([[1, seconds], [0, 1]]), np.eye(2))
        push = np.kron(np.array([[seconds**2 / 2], [seconds]]), np.eye(2)) * tracking.ACCELERATION_M_S2
        self.state = transition @ self.state
        self.covariance = transition @ self.covariance @ transition.T + push @ push.T

    def correct(self, observed: np.ndarray, which: slice, variance: float) -> None:
        observation = np.eye(4)[which]
        noise = observation @ self.covariance @ observation.T + variance * np.eye(2)
        gain = self.covariance @ observation.T @ np.linalg.inv(noise)
        self.state = self.state + gain @ (observed - observation @ self.state)
        self.covariance = (np.eye(4) - gain @ observation) @ self.covariance


@pytest.mark.parametrize("ahead", [(1, 2, 2, 3, 1, 2), (3, 1, 2, 1, 3, 1)])
def test_detections_for_changing_moments_are_one_track(ahead: tuple[int, ...]) -> None:
    tracker, velocity, last = BoxTracker(), np.array([-9.0, 2.0]), ahead[0]
    for frame, frames in enumerate(ahead):
        if frames != last:
            tracker.move((frames - last) / 10)
        x, y = np.array([30.0, 1.0]) + velocity * (frame + frames) / 10
        ids, found = tracker.follow(at((x, y)), velocity[None], 0.1)
        assert ids.tolist() == [0]
        last = frames
    np.testing.assert_allclose(found[0], velocity, atol=0.5)


def test_one_object_against_the_textbook() -> None:
    random = np.random.default_rng(0)
    tracker, slow = BoxTracker(), None
    place, velocity = np.array([20.0, 3.0]), np.array([-6.0, 1.0])
    for step in range(12):
        seconds = 0.1 * (1 + step % 3)
        place = place + velocity * seconds
        seen = place + random.normal(0, 0.1, 2)
        flow = velocity + random.normal(0, 2, 2) if step % 2 else None
        _, found = tracker.follow(at(tuple(seen)), None if flow is None else flow[None], seconds)
        variance = (tracking.PLACE_M + tracking.PLACE_SHARE * seen[0]) ** 2
        if slow is None:
            slow = Textbook(seen, variance)
        else:
            slow.predict(seconds)
            slow.correct(seen, slice(0, 2), variance)
        if flow is not None:
            slow.correct(flow, slice(2, 4), tracking.FLOW_M_S**2)
        np.testing.assert_allclose(found[0], slow.state[2:], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(slow.state[2:], velocity, atol=0.5)


def test_exact_places_at_constant_velocity_give_the_velocity() -> None:
    tracker = BoxTracker()
    for step in range(30):
        _, found = tracker.follow(at((10 + 0.5 * step, -0.2 * step)), None, 0.1)
    np.testing.assert_allclose(found, [[5.0, -2.0]], atol=0.02)


def test_numbers_stay_while_objects_pass_each_other() -> None:
    tracker, seen = BoxTracker(), []
    for step in range(20):
        one, other, walker = (10 + step, 0.0), (30 - step, 2.0), (20.0, -3 + 0.3 * step)
        order = [(one, "C"), (other, "C"), (walker, "P")]
        turned = order[step % 3 :] + order[: step % 3]
        ids = ids_of(tracker, at(*(p for p, _ in turned), kinds="".join(k for _, k in turned)))
        seen.append(ids[-(step % 3) :] + ids[: -(step % 3)] if step % 3 else ids)
    assert seen == [[0, 1, 2]] * 20


def test_who_belongs_to_whom() -> None:
    tracker = BoxTracker()
    assert ids_of(tracker, at((10, 0), (10, 5))) == [0, 1]
    assert ids_of(tracker, at((10, 0), kinds="P")) == [2]  # another class
    assert ids_of(tracker, at((10.1, 0), (10.2, 0), scores=(0.5, 0.9))) == [
        3,
        0,
    ]  # the surer one chooses first
    assert ids_of(tracker, at((10, 5 + 1.01 * tracking.FARTHEST_M_S * 0.1))) == [4]  # too far away


def test_unsure_boxes_join_tracks_but_begin_none() -> None:
    tracker, low = BoxTracker(), (tracking.BIRTH_SCORE / 2,)
    flow = np.array([[10.0, 0.0]])
    ids, velocities = tracker.follow(at((10, 0), scores=low), flow, 0.1)
    first, measured = tracking.FIRST_VELOCITY_M_S**2, tracking.FLOW_M_S**2
    assert ids.tolist() == [-1]
    assert velocities[0] == pytest.approx([10 * first / (first + measured), 0])
    assert ids_of(tracker, at((10, 0))) == [0]
    assert ids_of(tracker, at((10, 0), scores=low)) == [0]


def test_a_track_survives_some_outputs_without_it_and_numbers_are_never_used_again() -> None:
    tracker = BoxTracker()
    for missed, expected in ((0, 0), (tracking.MOST_MISSED, 0), (tracking.MOST_MISSED + 1, 1)):
        for _ in range(missed):
            assert ids_of(tracker, no_objects()) == []
        assert ids_of(tracker, at((10, 0))) == [expected]
    tracker.reset()
    assert ids_of(tracker, at((10, 0))) == [2]
