"""KITTI's AP: known answers, and by distance, which KITTI does not have, a slow form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of
from effcli.detect_stream.evaluation.kitti_ap import (
    LEVELS,
    Rule,
    average_precision,
    height_scale,
    precision_curve,
    similarities,
)


def scene(n: int, seed: int, kinds: tuple[str, ...] = ("Car",)) -> FrameObjects:
    """Objects that are far apart, high enough to be easy."""
    rng = np.random.default_rng(seed)
    boxes = np.stack(
        [10 + 8.0 * np.arange(n), rng.uniform(-3, 3, n), np.full(n, -0.9), np.full(n, 3.9), np.full(n, 1.6),
         np.full(n, 1.5), rng.uniform(-3, 3, n)], 1,
    )  # fmt: skip
    flat = np.tile([10.0, 10.0, 60.0, 80.0], (n, 1))
    return objects_of([kinds[i % len(kinds)] for i in range(n)], boxes, image_boxes=flat)


def ap(found: list[FrameObjects], true: list[FrameObjects], rule: Rule, kind: str = "Car") -> float:
    curve = precision_curve(found, true, kind, rule)
    assert curve is not None
    return average_precision(curve)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize(("measure", "threshold"), [("3d", 0.7), ("bev", 0.7), ("centre", 0.5)])
def test_perfect_detections(level: int, measure: str, threshold: float) -> None:
    true = [scene(5, seed) for seed in range(12)]
    rule = Rule(measure, threshold, level)  # type: ignore[arg-type]
    assert ap(true, true, rule) == pytest.approx(100.0)
    curve = precision_curve(true, true, "Car", rule)
    assert curve is not None and average_precision(curve, 11) == pytest.approx(100.0)


def test_detections_moved_by_a_metre() -> None:
    true = [scene(5, seed) for seed in range(12)]
    shifted = [replace(one, boxes=one.boxes + np.eye(7)[1]) for one in true]
    assert ap(shifted, true, Rule("centre", 2.0)) == pytest.approx(100.0)
    assert ap(shifted, true, Rule("centre", 0.5)) == 0.0
    assert ap(shifted, true, Rule("bev", 0.7)) == 0.0


def test_half_of_the_objects_found() -> None:
    true = [scene(10, seed) for seed in range(20)]
    half = [one.pick(range(0, 10, 2)) for one in true]
    assert ap(half, true, Rule("3d", 0.7)) == pytest.approx(50.0, abs=3)


def test_a_second_detection_of_an_object_is_wrong() -> None:
    true = [scene(4, seed) for seed in range(50)]
    twice = [
        objects_of(
            one.kinds * 2,
            np.concatenate([one.boxes] * 2),
            image_boxes=np.concatenate([one.image_boxes] * 2),
            scores=np.array([0.9] * 4 + [0.8] * 4),
        )
        for one in true
    ]
    assert ap(twice, true, Rule("3d", 0.7)) == pytest.approx(
        100.0
    )  # the doubles come after all that is right
    first = [replace(one, scores=np.full(8, 0.9)) for one in twice]
    assert ap(first, true, Rule("3d", 0.7)) == pytest.approx(50.0, abs=1)


def test_neutral_objects_count_neither_way() -> None:
    true = [scene(6, seed, ("Car", "Van")) for seed in range(40)]
    found = [replace(one, kinds=("Car",) * 6) for one in true]
    assert ap(found, true, Rule("3d", 0.7)) == pytest.approx(100.0)


def test_objects_too_hard_for_a_level_count_neither_way() -> None:
    true = [scene(4, seed) for seed in range(50)]
    occluded = [replace(one, occluded=np.array([0, 0, 2, 2])) for one in true]
    found = [one.pick([0, 1]) for one in true]
    results = [ap(found, occluded, Rule("3d", 0.7, level)) for level in range(len(LEVELS))]
    assert results[0] == results[1] == pytest.approx(100.0)
    assert results[2] == pytest.approx(50.0, abs=3)


def test_small_objects_of_small_pictures_are_scaled() -> None:
    true = [scene(4, seed) for seed in range(20)]
    small = [replace(one, image_boxes=one.image_boxes / 3) for one in true]
    assert precision_curve(small, small, "Car", Rule("3d", 0.7, 0)) is None
    assert ap(small, small, Rule("3d", 0.7, 0, height_scale(240.0))) == pytest.approx(100.0)
    assert height_scale(707.0) == 1.0


def test_nothing() -> None:
    true = [scene(3, 0)]
    assert ap([no_objects()], true, Rule("3d", 0.7)) == 0.0
    assert precision_curve(true, [no_objects()], "Car", Rule("3d", 0.7)) is None
    assert precision_curve([no_objects()], true, "Cyclist", Rule("3d", 0.7)) is None


def slow_curve(found: list[FrameObjects], true: list[FrameObjects], threshold: float) -> list[float]:
    """Precision at every distinct score, without neutral objects: what the 41 points are picked from."""
    points = []
    for least in sorted({float(s) for one in found for s in one.scores}, reverse=True):
        hits = wrong = 0
        for detections, truth in zip(found, true, strict=True):
            kept = detections.pick(detections.scores >= least)
            overlap = similarities(kept, truth, "centre")
            free = set(range(len(kept)))
            for row in overlap:
                best = max((j for j in free if row[j] > threshold), key=lambda j: row[j], default=None)
                if best is not None:
                    free.discard(best)
                    hits += 1
            wrong += len(free)
        points.append((hits / sum(len(one) for one in true), hits / (hits + wrong)))
    return [
        max((p for r, p in points if r >= recall - 1e-9), default=0.0) for recall in np.arange(1, 41) / 40
    ]


def test_as_a_slow_form() -> None:
    rng = np.random.default_rng(0)
    true = [scene(8, seed) for seed in range(10)]
    found = []
    for one in true:
        kept = one.pick(rng.random(8) < 0.8)
        noise = rng.normal(0, 0.15, (len(kept), 7)) * [1, 1, 0.3, 0.2, 0.2, 0.2, 0.1]
        extra = scene(2, int(rng.integers(1000)))
        extra = replace(extra, boxes=extra.boxes + 100 * np.eye(7)[0])
        boxes = np.concatenate([kept.boxes + noise, extra.boxes])
        found.append(
            objects_of(["Car"] * len(boxes), boxes, image_boxes=np.tile([10.0, 10, 60, 80], (len(boxes), 1)),
                       scores=rng.random(len(boxes)))
        )  # fmt: skip
    slow = 100 * float(np.mean(slow_curve(found, true, -0.25)))
    assert ap(found, true, Rule("centre", 0.25)) == pytest.approx(
        slow, abs=1.0
    )  # scores at which recall is reached stand for all
