"""Average precision of boxes as COCO defines it, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IOUS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class FoundBoxes:
    """What was found in an image, or is in it.

    Attributes:
        boxes: left, top, right, bottom in pixels, ``[K, 4]``.
        labels: ``[K]``.
        scores: ``[K]``; of no meaning for what is in it.
        crowd: whether a box stands for many objects ``[K]``; None for none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray | None = None


def average_precision(
    found: Sequence[FoundBoxes], true: Sequence[FoundBoxes], n_classes: int
) -> dict[str, np.ndarray]:
    """AP of each class over IoU 0.5 to 0.95, at 0.5, at 0.75, and of small, medium and large objects.

    Args:
        found: what was found in each image.
        true: what is in it; boxes of crowds are matched any number of times and count neither way.
        n_classes: how many.

    Returns:
        ``ap, ap50, ap75, ap_small, ap_medium, ap_large``: 0..1, float64 ``[n_classes]``; NaN for a class of which there
        are no objects (of that size).
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_dataset(true, n_classes))
    rows = _rows(found)
    if not len(rows):
        return _of_nothing_found(true, n_classes)
    evaluator = COCOeval_faster(truth, truth.loadRes(rows), "bbox", print_function=_silent)
    evaluator.evaluate()
    evaluator.accumulate()
    precision: np.ndarray = evaluator.eval["precision"][..., -1]  # [IoU, recall, class, area], 100 an image
    precision = np.where(precision < 0, np.nan, precision)
    of_area = {area: precision[..., i] for i, area in enumerate(AREAS)}
    return {
        "ap": of_area["all"].mean((0, 1)),
        "ap50": of_area["all"][0].mean(0),
        "ap75": of_area["all"][5].mean(0),
        **{f"ap_{area}": of_area[area].mean((0, 1)) for area in AREAS[1:]},
    }


def mean_of(values: np.ndarray, classes: Sequence[int] | None = None) -> float | None:
    """The mean over classes that have objects; None where none has."""
    chosen = values if classes is None else values[list(classes)]
    chosen = chosen[~np.isnan(chosen)]
    return float(chosen.mean()) if len(chosen) else None


def _dataset(true: Sequence[FoundBoxes], n_classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, one in enumerate(true):
        for k, (box, label) in enumerate(zip(one.boxes.tolist(), one.labels.tolist(), strict=True)):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": int(label) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(one.crowd[k]) if one.crowd is not None else 0,
                }
            )
    return {
        "images": [{"id": image + 1} for image in range(len(true))],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(n_classes)],
        "annotations": annotations,
    }


def _rows(found: Sequence[FoundBoxes]) -> np.ndarray:
    """What was found, as rows of image, left, top, width, height, score, class."""
    rows = [
        np.concatenate(
            [
                np.full((len(one.boxes), 1), image + 1.0),
                one.boxes[:, :2],
                one.boxes[:, 2:] - one.boxes[:, :2],
                one.scores[:, None],
                one.labels[:, None] + 1,
            ],
            1,
        )
        for image, one in enumerate(found)
        if len(one.boxes)
    ]
    return np.concatenate(rows).astype(np.float64) if rows else np.zeros((0, 7))


def _of_nothing_found(true: Sequence[FoundBoxes], n_classes: int) -> dict[str, np.ndarray]:
    values = {}
    for name, (low, high) in {
        **dict.fromkeys(("ap", "ap50", "ap75"), (0.0, np.inf)),
        "ap_small": (0.0, 32.0**2),
        "ap_medium": (32.0**2, 96.0**2),
        "ap_large": (96.0**2, np.inf),
    }.items():
        values[name] = np.full(n_classes, np.nan)
        for one in true:
            area = (one.boxes[:, 2:] - one.boxes[:, :2]).prod(1)
            counts = (area >= low) & (area <= high)
            if one.crowd is not None:
                counts &= ~one.crowd
            values[name][one.labels[counts]] = 0.0
    return values


def _silent(*_: Any) -> None:
    """Nothing is printed."""
