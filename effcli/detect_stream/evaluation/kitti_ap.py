"""Average precision of 3D boxes as KITTI counts it: difficulties, neutral objects, 11 or 40 points of recall.

The rules are those of the benchmark's own evaluation (docs/methods/streamdsgn.md, KITTI average precision).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.nn.rotated_boxes import pairwise

Measure = Literal["3d", "bev", "centre"]
LEVELS = ("easy", "moderate", "hard")
_LEAST_HEIGHT_PX, _MOST_OCCLUDED, _MOST_TRUNCATED = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
NEUTRAL = {"Car": "Van", "Pedestrian": "Person"}
STRICT = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
LOOSE = {"Car": 0.5, "Pedestrian": 0.25, "Cyclist": 0.25}
KITTI_FOCAL_PX = 721.5377
_N_POINTS = 41


@dataclass(frozen=True)
class Rule:
    """What counts as found.

    Attributes:
        measure: intersection over union in 3D or in bird's-eye view, or distance of the centres in bird's-eye view.
        threshold: least overlap, or largest distance in metres.
        level: 0 easy, 1 moderate, 2 hard.
        height_scale: heights in the picture are multiplied by this before they are compared with KITTI's thresholds,
            which are meant for its cameras.
    """

    measure: Measure
    threshold: float
    level: int = 1
    height_scale: float = 1.0


@dataclass(frozen=True)
class _Frame:
    """What is needed of one frame: similarity ``[G, D]``, who is neutral, scores of detections."""

    similar: np.ndarray
    neutral_truth: np.ndarray
    neutral_found: np.ndarray
    scores: np.ndarray


def height_scale(focal_px: float) -> float:
    """The scale of heights for a camera: 1 for KITTI's own, whose drives differ by 2 %."""
    scale = KITTI_FOCAL_PX / focal_px
    return 1.0 if abs(scale - 1) < 0.05 else scale


def similarities(found: FrameObjects, true: FrameObjects, measure: Measure) -> np.ndarray:
    """Overlap, or minus the distance of the centres, of all pairs: ``[G, D]``."""
    if measure == "centre":
        delta = true.boxes[:, None, :2] - found.boxes[None, :, :2]
        distances: np.ndarray = -np.linalg.norm(delta, axis=2)
        return distances
    a, b = (torch.from_numpy(one.boxes).double() for one in (true, found))
    return pairwise(measure, a, b).numpy()


def _frame(found: FrameObjects, true: FrameObjects, kind: str, rule: Rule) -> _Frame:
    own = np.array([one in (kind, NEUTRAL.get(kind)) for one in true.kinds], bool)
    truth = true.pick(own)
    mine = found.pick(np.array([one == kind for one in found.kinds], bool))
    heights = (truth.image_boxes[:, 3] - truth.image_boxes[:, 1]) * rule.height_scale
    least = _LEAST_HEIGHT_PX[rule.level]
    too_hard = (
        (heights <= least)
        | (truth.occluded > _MOST_OCCLUDED[rule.level])
        | (truth.truncated > _MOST_TRUNCATED[rule.level])
    )
    other = np.array([one != kind for one in truth.kinds], bool)
    found_heights = (mine.image_boxes[:, 3] - mine.image_boxes[:, 1]) * rule.height_scale
    return _Frame(
        similarities(mine, truth, rule.measure), too_hard | other, found_heights < least, mine.scores
    )


def precision_curve(
    found: Sequence[FrameObjects], true: Sequence[FrameObjects], kind: str, rule: Rule
) -> np.ndarray | None:
    """Precision at 41 points of recall, each the best at that recall or above; None where there are no objects.

    Args:
        found: detections of each frame, with scores.
        true: labels of each frame.
        kind: the class.
        rule: what counts.
    """
    threshold = -rule.threshold if rule.measure == "centre" else rule.threshold
    frames = [_frame(one, other, kind, rule) for one, other in zip(found, true, strict=True)]
    n_true = int(sum((~frame.neutral_truth).sum() for frame in frames))
    if not n_true:
        return None
    scores = np.concatenate([_matched_scores(frame, threshold) for frame in frames])
    precisions = np.zeros(_N_POINTS)
    for i, least in enumerate(_score_points(scores, n_true, rule.measure)):
        hits, wrong = np.sum([_count(frame, threshold, least) for frame in frames], axis=0)
        precisions[i] = hits / (hits + wrong) if hits + wrong else 0.0
    best: np.ndarray = np.maximum.accumulate(precisions[::-1])[::-1]
    return best


def average_precision(curve: np.ndarray, n_points: Literal[11, 40] = 40) -> float:
    """AP in per cent from a curve: the mean of all points but the first, or of every fourth one."""
    return float(100 * (curve[1:] if n_points == 40 else curve[::4]).mean())


def _score_points(scores: np.ndarray, n_true: int, measure: Measure) -> list[float]:
    """The score at which each of the 41 points of recall is reached, as far as they are.

    For overlaps KITTI's choice (``getThresholds``), for distances, which KITTI does not have, the exact one, which
    reaches 100 with fewer than 41 objects too.
    """
    ordered = np.sort(scores)[::-1]
    if measure != "centre":
        return _nearest_scores(ordered, n_true)
    needed = np.maximum(1, np.ceil(np.arange(_N_POINTS) / (_N_POINTS - 1) * n_true - 1e-9)).astype(int)
    return [float(ordered[count - 1]) for count in needed if count <= len(ordered)]


def _nearest_scores(ordered: np.ndarray, n_true: int) -> list[float]:
    """KITTI's thresholds: going down the scores, each whose recall is as near to the next point as the following's."""
    found: list[float] = []
    wanted, last = 0.0, len(ordered) - 1
    for i, score in enumerate(ordered):
        here, next_recall = (i + 1) / n_true, (i + 2) / n_true
        if i < last and next_recall - wanted < wanted - here:
            continue
        found.append(float(score))
        wanted += 1 / (_N_POINTS - 1)
    return found


def _matched_scores(frame: _Frame, threshold: float) -> np.ndarray:
    """Scores of the best detection of each object that counts, each detection once."""
    taken = np.zeros(len(frame.scores), bool)
    found = []
    for row, neutral in zip(frame.similar, frame.neutral_truth, strict=True):
        possible = (row > threshold) & ~taken
        if not possible.any():
            continue
        best = int(np.where(possible, frame.scores, -np.inf).argmax())
        taken[best] = True
        if not neutral and not frame.neutral_found[best]:
            found.append(frame.scores[best])
    return np.array(found)


def _count(frame: _Frame, threshold: float, least: float) -> tuple[int, int]:
    """Objects found and detections that are wrong, among detections of at least a score."""
    active = frame.scores >= least
    taken = np.zeros(len(active), bool)
    hits = 0
    for row, neutral in zip(frame.similar, frame.neutral_truth, strict=True):
        possible = (row > threshold) & active & ~taken
        counting = possible & ~frame.neutral_found
        if counting.any():  # of those that count, the nearest
            best = int(np.where(counting, row, -np.inf).argmax())
        elif possible.any():
            best = int(possible.argmax())
        else:
            continue
        taken[best] = True
        hits += int(not neutral and not frame.neutral_found[best])
    wrong = int((active & ~taken & ~frame.neutral_found).sum())
    return hits, wrong
