"""KITTI's columns against the devkit's evaluation, written here as its slow loops (evaluate_object_3d.cpp)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of
from effcli.detect_stream.data.kitti_labels import grade, read_tracking_labels
from effcli.detect_stream.evaluation.kitti_ap import LOOSE, NEUTRAL, STRICT, similarities
from effcli.detect_stream.evaluation.precision_tables import Scored, precision_table
from tests.data_root import data_file

LEVELS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}
Overlaps = Callable[[int], np.ndarray]


def devkit_thresholds(scores: list[float], n_true: int) -> list[float]:
    """``getThresholds``."""
    ordered, current = sorted(scores, reverse=True), 0.0
    found: list[float] = []
    for i in range(len(ordered)):
        left = (i + 1) / n_true
        right = (i + 2) / n_true if i < len(ordered) - 1 else left
        if right - current < current - left and i < len(ordered) - 1:
            continue
        found.append(ordered[i])
        current += 1.0 / 40
    return found


def ignored_truth(true: FrameObjects, kind: str, level: str) -> list[int]:
    """``cleanData``: 0 counts, 1 is neutral, -1 is of another class."""
    height, occluded, truncated = LEVELS[level]
    found = []
    for i, name in enumerate(true.kinds):
        too_hard = (
            true.occluded[i] > occluded
            or true.truncated[i] > truncated
            or true.image_boxes[i, 3] - true.image_boxes[i, 1] <= height
        )
        found.append(int(too_hard) if name == kind else 1 if name == NEUTRAL.get(kind) else -1)
    return found


def ignored_found(found: FrameObjects, kind: str, level: str) -> list[int]:
    heights = np.abs(found.image_boxes[:, 3] - found.image_boxes[:, 1])
    return [
        1 if height < LEVELS[level][0] else 0 if name == kind else -1
        for name, height in zip(found.kinds, heights, strict=True)
    ]


def statistics(
    overlap: np.ndarray,
    truth: list[int],
    mine: list[int],
    scores: np.ndarray,
    least: float,
    score: float | None,
) -> tuple[int, int, list[float]]:
    """``computeStatistics``: true and false positives at a score, or with none the scores of what is matched."""
    assigned = [False] * len(mine)
    hits = 0
    matched: list[float] = []
    for i, neutral in enumerate(truth):
        if neutral == -1:
            continue
        chosen, best, best_is_neutral = -1, -np.inf, False
        for j, state in enumerate(mine):
            if state == -1 or assigned[j] or (score is not None and scores[j] < score):
                continue
            if overlap[i, j] <= least:
                continue
            if score is None and scores[j] > best:
                chosen, best = j, scores[j]
            elif score is not None and state == 0 and (overlap[i, j] > best or best_is_neutral):
                chosen, best, best_is_neutral = j, overlap[i, j], False
            elif score is not None and state == 1 and chosen == -1:
                chosen, best_is_neutral = j, True
        if chosen >= 0:
            assigned[chosen] = True
            if neutral == 0 and mine[chosen] == 0:
                hits += 1
                matched.append(float(scores[chosen]))
    wrong = sum(
        state == 0 and not assigned[j] and (score is None or scores[j] >= score)
        for j, state in enumerate(mine)
    )
    return hits, wrong, matched


def devkit_ap(
    scored: Scored, overlaps: list[np.ndarray], kind: str, level: str, least: float
) -> tuple[float, float] | None:
    """AP at 40 and at 11 points of recall."""
    truth = [ignored_truth(one, kind, level) for one in scored.true]
    mine = [ignored_found(one, kind, level) for one in scored.found]
    n_true = sum(one.count(0) for one in truth)
    if not n_true:
        return None
    frames = [
        (overlap, t, m, one.scores)
        for overlap, t, m, one in zip(overlaps, truth, mine, scored.found, strict=True)
    ]
    scores = [x for frame in frames for x in statistics(*frame, least, None)[2]]
    precision = np.zeros(41)
    for i, score in enumerate(devkit_thresholds(scores, n_true)):
        counts = [statistics(*frame, least, score)[:2] for frame in frames]
        hits, wrong = np.sum(counts, 0)
        precision[i] = hits / (hits + wrong)
    precision = np.array([precision[i:].max() for i in range(41)])
    return 100 * precision[1:].mean(), 100 * precision[::4].mean()


def assert_tables_agree(scored: Scored) -> int:
    """All columns of KITTI's names agree; how many there are."""
    table, n = precision_table(scored, 1.0), 0
    for measure in ("3d", "bev"):
        overlaps = [
            similarities(found, true, measure) for found, true in zip(scored.found, scored.true, strict=True)
        ]
        for name, thresholds in (("strict", STRICT), ("loose", LOOSE)):
            for kind, least in thresholds.items():
                for level in LEVELS:
                    expected = devkit_ap(scored, overlaps, kind, level, least)
                    row: dict[str, Any] = table[kind.lower()]
                    given = [row[f"{measure}_{name}{tail}"][level] for tail in ("", "_r11")]
                    assert given == pytest.approx(expected or (None, None), abs=0.01), (
                        kind,
                        measure,
                        name,
                        level,
                    )
                    n += 2
    return n


def jittered(true: FrameObjects, rng: np.random.Generator) -> FrameObjects:
    """Detections such as a network makes of a frame: moved, some missing, some invented."""
    kept = true.pick([kind != "DontCare" and rng.random() < 0.8 for kind in true.kinds])
    kept = replace(kept, kinds=tuple({"Van": "Car", "Person": "Pedestrian"}.get(k, k) for k in kept.kinds))
    wrong = kept.pick(rng.random(len(kept)) < 0.3)
    boxes = np.concatenate([kept.boxes, wrong.boxes + 20 * np.eye(7)[0]])
    boxes = boxes + rng.normal(0, 1, boxes.shape) * [0.15, 0.08, 0.05, 0.1, 0.04, 0.04, 0.05]
    flat = np.concatenate([kept.image_boxes, wrong.image_boxes])
    scores = np.round(rng.beta(4, 2, len(boxes)) - np.repeat([0, 0.2], [len(kept), len(wrong)]), 4)
    return objects_of(kept.kinds + wrong.kinds, boxes, image_boxes=flat, scores=scores)


def made_labels(rng: np.random.Generator, n_frames: int) -> list[FrameObjects]:
    """Labels of all kinds and levels, few of some."""
    found = []
    for _ in range(n_frames):
        n = int(rng.integers(0, 9))
        kinds = rng.choice(
            ["Car", "Van", "Pedestrian", "Person", "Cyclist", "DontCare"], n, p=[0.4, 0.1, 0.2, 0.1, 0.1, 0.1]
        )
        place = np.stack([rng.uniform(5, 45, n), rng.uniform(-12, 12, n), np.full(n, -0.9)], 1)
        sizes = np.tile([3.9, 1.6, 1.5], (n, 1)) * rng.uniform(0.9, 1.1, (n, 3))
        heights = rng.uniform(15, 70, n)
        flat = np.stack([np.full(n, 10.0), np.full(n, 10.0), np.full(n, 60.0), 10 + heights], 1)
        found.append(
            objects_of(
                [str(kind) for kind in kinds], np.concatenate([place, sizes, rng.uniform(-3, 3, (n, 1))], 1),
                image_boxes=flat, occluded=rng.integers(0, 4, n), truncated=rng.choice([0, 0.2, 0.4, 0.6], n),
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize(("seed", "n_frames"), [(0, 8), (1, 60)])
def test_all_columns_are_those_of_the_devkit(seed: int, n_frames: int) -> None:
    rng = np.random.default_rng(seed)
    true = made_labels(rng, n_frames)
    assert assert_tables_agree(Scored([jittered(one, rng) for one in true], true)) == 72


@pytest.mark.slow
def test_all_columns_are_those_of_the_devkit_on_real_labels(tmp_path: Path) -> None:
    with tarfile.open(data_file("kitti-stereo-sequence/kitti_tracking_labels_0002-0015.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    rng, true = np.random.default_rng(0), list[FrameObjects]()
    for file in sorted(tmp_path.rglob("*.txt")):
        frames = read_tracking_labels(file)
        true += [frames.get(i, no_objects()) for i in range(0, max(frames) + 1, 10)]
    true = [replace(one, truncated=grade(one.truncated)) for one in true]
    assert assert_tables_agree(Scored([jittered(one, rng) for one in true], true)) == 72
