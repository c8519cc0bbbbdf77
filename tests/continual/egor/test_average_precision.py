"""Average precision: known answers, crowds, and a slow evaluation at one IoU."""

from __future__ import annotations

import numpy as np
import pytest

from effcli.continual.egor.average_precision import FoundBoxes, average_precision, mean_of


def boxes(*rows: tuple[float, float, float, float, int, float], crowd: bool = False) -> FoundBoxes:
    """Left, top, right, bottom, label and score each."""
    values = np.array(rows, float).reshape(-1, 6)
    return FoundBoxes(
        values[:, :4], values[:, 4].astype(int), values[:, 5], np.full(len(values), crowd) if crowd else None
    )


NOTHING = boxes()


def test_what_is_right_has_1_and_what_is_missed_0() -> None:
    true = [boxes((0, 0, 20, 20, 0, 1), (50, 50, 150, 150, 1, 1)), boxes((5, 5, 60, 60, 0, 1))]
    right = average_precision(true, true, 3)
    assert right["ap"][:2].tolist() == [1, 1]
    assert np.isnan(right["ap"][2])
    assert right["ap_small"][0] == right["ap_medium"][0] == right["ap_large"][1] == 1
    assert np.isnan(right["ap_large"][0])
    missed = average_precision([NOTHING, NOTHING], true, 3)
    for name, values in right.items():
        assert np.isnan(values).tolist() == np.isnan(missed[name]).tolist(), name
        assert np.nansum(missed[name]) == 0


def test_a_box_of_iou_0_6_counts_for_three_of_ten() -> None:
    found = [boxes((0, 0, 60, 100, 0, 0.9))]  # of 100 x 100: IoU 0.6
    result = average_precision(found, [boxes((0, 0, 100, 100, 0, 1))], 1)
    assert result["ap50"].tolist() == [1]
    assert result["ap75"].tolist() == [0]
    assert result["ap"].tolist() == pytest.approx([0.3])


def test_crowds_count_neither_way() -> None:
    true = [boxes((0, 0, 50, 50, 0, 1)), boxes((0, 0, 90, 90, 0, 1), crowd=True)]
    found = [boxes((0, 0, 50, 50, 0, 0.5)), boxes((0, 0, 30, 30, 0, 0.9), (40, 40, 80, 80, 0, 0.8))]
    assert average_precision(found, true, 1)["ap"].tolist() == [1]
    nothing = average_precision([NOTHING], [boxes((0, 0, 90, 90, 0, 1), crowd=True)], 1)
    assert np.isnan(nothing["ap"]).all()


def slow_ap50(found: list[FoundBoxes], true: list[FoundBoxes]) -> float:
    """COCO's 101-point average precision at IoU 0.5 of class 0, by its definition."""
    rows = sorted(
        (
            (score, image, box)
            for image, one in enumerate(found)
            for box, score in zip(one.boxes, one.scores, strict=True)
        ),
        key=lambda row: -row[0],
    )
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, image, box in rows:
        best, best_iou = None, 0.5
        for j, other in enumerate(true[image].boxes):
            sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
            both = float(np.prod(np.maximum(sides, 0)))
            iou = both / (float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])) - both)
            if iou >= best_iou and (image, j) not in taken:
                best, best_iou = j, iou
        hits.append(best is not None)
        if best is not None:
            taken.add((image, best))
    n = sum(len(one.boxes) for one in true)
    tp = np.cumsum(hits)
    recall, precision = tp / n, tp / np.arange(1, len(hits) + 1)
    points = [
        max([p for p, r in zip(precision, recall, strict=True) if r >= t], default=0.0)
        for t in np.linspace(0, 1, 101)
    ]
    return float(np.mean(points))


@pytest.mark.parametrize("seed", range(4))
def test_against_the_definition(seed: int) -> None:
    draws = np.random.default_rng(seed)
    true, found = [], []
    for _ in range(12):
        corner = draws.uniform(0, 300, (4, 2)) + np.arange(4)[:, None] * 400
        objects = np.concatenate([corner, corner + draws.uniform(30, 120, (4, 2))], 1)
        true.append(FoundBoxes(objects, np.zeros(4, int), np.ones(4)))
        noisy = np.concatenate([objects + draws.normal(0, 8, objects.shape), objects[:2] + 60])
        found.append(FoundBoxes(noisy, np.zeros(6, int), draws.random(6)))
    result = average_precision(found, true, 1)
    assert 0.1 < slow_ap50(found, true) < 0.95
    assert float(result["ap50"][0]) == pytest.approx(slow_ap50(found, true), abs=1e-6)


def test_the_mean_leaves_out_classes_without_objects() -> None:
    values = np.array([0.5, np.nan, 0.1])
    assert mean_of(values) == pytest.approx(0.3)
    assert mean_of(values, [0, 1]) == 0.5
    assert mean_of(values, [1]) is None
