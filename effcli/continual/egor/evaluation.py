"""What a detector finds in a set, and how good that is; `effcli continual eval` of detectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effcli.continual.egor.average_precision import FoundBoxes, average_precision, mean_of
from effcli.continual.egor.data.class_groups import ClassGroups, load_parts
from effcli.continual.egor.data.detection_sets import DetectionSet, ScaledImages
from effcli.continual.egor.data.sources import load_detection, refuse_without_boxes
from effcli.continual.egor.detectors.detector import SCORE_THRESHOLD, Detections, Detector
from effcli.continual.egor.old_classes import describe, with_old_images
from effcli.continual.egor.training import stack
from effcli.continual.egor.weights import DetectorSpec, load_detector
from effcli.core.errors import InputError, UsageError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.registry import recipe_of_run
from effcli.core.run import Run
from effcli.core.runtime import Runtime

BATCH = 16


def find(
    detector: Detector,
    images: ScaledImages,
    runtime: Runtime,
    *,
    run: Run | None = None,
    threshold: float = SCORE_THRESHOLD,
) -> list[Detections]:
    """Detections in every image of a set, boxes in the pixels of the file, on the CPU.

    Args:
        detector: on the runtime's device.
        images: as the detector sees them.
        runtime: where.
        run: asked between batches whether to stop.
        threshold: least score.
    """
    detector.eval()
    found: list[Detections] = []
    for first in range(0, len(images), BATCH):
        if run is not None:
            run.check_stop()
        some = [images[i] for i in range(first, min(first + BATCH, len(images)))]
        stacked, sizes = stack([image for image, _, _ in some])
        with runtime.tuner("detect").step(len(some)), torch.no_grad(), runtime.autocast():
            seen = detector.detect(detector.normalise(stacked.to(runtime.device)), sizes, threshold)
        for one, (_, _, scale) in zip(seen, some, strict=True):
            found.append(Detections((one.boxes / scale).cpu(), one.scores.cpu(), one.labels.cpu()))
    return found


def precision_by_class(found: Sequence[Detections], true: DetectionSet) -> dict[str, np.ndarray]:
    """COCO's AP and its relatives of each class, 0..1; NaN where there are no objects."""
    return average_precision(
        [FoundBoxes(one.boxes.numpy(), one.labels.numpy(), one.scores.numpy()) for one in found],
        [
            FoundBoxes(one.boxes.numpy(), one.labels.numpy(), np.ones(len(one)), one.crowd.numpy())
            for one in true.objects
        ],
        len(true.classes),
    )


def precision_on(
    detector: Detector, about: DetectorSpec, groups: ClassGroups, runtime: Runtime, run: Run | None = None
) -> dict[str, np.ndarray]:
    """What :func:`precision_by_class` gives of all images to measure on; old classes may have images of their own."""

    def measured(images: DetectionSet) -> dict[str, np.ndarray]:
        whole = images.of_classes(about.classes, with_empty=True)
        found = find(detector, ScaledImages(whole, about.longest, about.shortest), runtime, run=run)
        return precision_by_class(found, whole)

    precision = measured(groups.eval)
    for old in groups.old:
        rows = [about.classes.index(name) for name in old.classes]
        for name, values in measured(old.images).items():
            precision[name][rows] = values[rows]
    return precision


def of_groups(
    precision: Mapping[str, np.ndarray], groups: Sequence[Sequence[str]], classes: Sequence[str]
) -> dict[str, Any]:
    """Means over old classes, new ones and all; and each class's.

    Args:
        precision: of :func:`precision_by_class`.
        groups: names of classes in the order in which they were learned; the last is new.
        classes: all of them.

    Returns:
        ``ap{old,new,all}, ap50{...}, ap75{...}``, ``ap_by_class{name: ap}``, ``ap_by_group`` and the sizes' AP.
    """
    numbers = [[classes.index(name) for name in group] for group in groups]
    old = [n for group in numbers[:-1] for n in group]
    made: dict[str, Any] = {}
    for name in ("ap", "ap50", "ap75"):
        values = precision[name]
        made[name] = {
            "old": _rounded(mean_of(values, old)) if old else None,
            "new": _rounded(mean_of(values, numbers[-1])),
            "all": _rounded(mean_of(values)),
        }
    made |= {name: _rounded(mean_of(precision[name])) for name in ("ap_small", "ap_medium", "ap_large")}
    made["ap_by_group"] = [_rounded(mean_of(precision["ap"], group)) for group in numbers]
    made["ap_by_class"] = {name: _rounded(mean_of(precision["ap"], [n])) for n, name in enumerate(classes)}
    return made


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def evaluate_run(place: str, data: str | None, runtime: Runtime) -> Result:
    """Measure a detector on annotated images.

    Args:
        place: run directory or file.
        data: annotations of classes with the names that it knows; None for the data of its own run.
        runtime: where.

    Raises:
        InputError: there is no detector, no data, or none of the classes is known.
    """
    started = time.perf_counter()
    detector, about = load_detector(place)
    detector.to(runtime.device)
    if data is None and not Path(place).is_dir():
        raise UsageError(
            "a single file does not say which data it was measured on",
            place=place,
            hint="name images with --data",
        )
    if data is None:
        recipe: Any = recipe_of_run("continual", place)
        _, whole = load_parts(recipe)
        groups = ClassGroups((), whole, whole)
        detector_before = getattr(recipe, "detector", None)
        groups = with_old_images(groups, recipe.eval.old_data, detector_before, about.classes)
    else:
        whole = load_detection(data, "eval")
        groups = ClassGroups((), whole, whole)
    known = [name for name in about.classes if name in whole.classes]
    refuse_without_boxes(whole, str(data or place))
    if not known:
        names = ", ".join(whole.classes[:5])
        raise InputError(f"none of its classes is known to the detector: {names}", place=str(data or place))
    metrics = of_groups(precision_on(detector, about, groups, runtime), [about.classes], about.classes)
    metrics["measured_on"] = describe(groups, about.classes)
    return result_of_verb(
        "continual",
        "eval",
        "detector",
        recipe=Path(place).stem,
        output=place,
        metrics={"images": len(whole), "classes": known, **metrics},
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )
