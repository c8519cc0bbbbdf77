"""ObjectBoxes generated for one increment: made, looked at by the detector they came from, and kept in the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.continual.egor.data.detection_sets import ScaledImages
from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.detectors.feature_statistics import (
    FeatureStatistics,
    measured_statistics,
    own_statistics,
    watched_layers,
)
from effcli.continual.egor.inversion import (
    Crop,
    confidences,
    cut_out,
    invert,
    rates_by_class,
    sample_boxes,
    to_pictures,
)
from effcli.continual.egor.recipe import InversionSection
from effcli.continual.egor.training import stack
from effcli.continual.egor.weights import DetectorSpec
from effcli.core.errors import InputError
from effcli.core.run import Run
from effcli.core.tensor_file import read_tensors, save_tensors
from effcli.core.weight_file import check_tensors

log = logging.getLogger(__name__)

MOST_MEASURED = 256
"""Images that statistics of features are measured on."""

SAVE_MODES = ("denormalise", "minmax")


@dataclass(frozen=True)
class GeneratedObjects:
    """Pictures with one object each.

    Attributes:
        pictures: uint8 ``[N, 3, S, S]``.
        boxes: of the objects, pixels, ``[N, 4]``.
        labels: ``[N]``.
        scores: of the detector they came from, 0 where it does not find them, ``[N]``.
        kept: those that it finds well enough, bool ``[N]``.
        classes: names.
        report: what became of them.
    """

    pictures: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    kept: Tensor
    classes: tuple[str, ...]
    report: dict[str, Any]

    @property
    def crops(self) -> list[Crop]:
        """Those that are kept, cut out."""
        return cut_out(self.pictures[self.kept], self.boxes[self.kept], self.labels[self.kept])


def file_of(run: Path, number: int) -> Path:
    """Where the objects of an increment are in a run."""
    return run / "objects" / f"objects-{number}.safetensors"


def generate_objects(
    detector: Detector,
    about: DetectorSpec,
    settings: InversionSection,
    run: Run,
    number: int,
    images: ScaledImages,
) -> GeneratedObjects:
    """Make objects of all classes that a detector knows, or take those of another run.

    Args:
        detector: Phi_ori.
        about: its classes and how long or wide they are.
        settings: the optimisation.
        run: keeps checkpoints; ``objects/`` gets the pictures.
        number: of the increment, from 1.
        images: of the new classes; with ``inversion.statistics`` images their features' statistics are the prior.
    """
    device = run.runtime.device
    if settings.source is not None:
        pictures, boxes, labels = read_objects(Path(settings.source), number, about.classes)
        seen: dict[str, Tensor] = {settings.save: confidences(detector, pictures, boxes, labels, device)}
    else:
        statistics = statistics_of(detector, settings, images, device)
        rng = np.random.default_rng((23, run.runtime.seed, number))
        shares, labels = sample_boxes(about.histograms, settings.per_class, settings.box_sides, rng)
        inverted = invert(detector, shares, labels, settings, run, f"invert-{number}", statistics)
        boxes = shares * settings.side
        both = {mode: to_pictures(detector, inverted, mode) for mode in SAVE_MODES}
        seen = {mode: confidences(detector, both[mode], boxes, labels, device) for mode in SAVE_MODES}
        pictures = both[settings.save]
        file = run.file(str(file_of(Path(), number)))
        content = {"pictures": pictures, "boxes": boxes, "labels": labels}
        save_tensors(file, content, {"classes": "\n".join(about.classes)})
    scores = seen[settings.save]
    kept = _kept(scores, labels, settings.min_score, about)
    report: dict[str, Any] = {
        "found": round(float((scores >= settings.min_score).float().mean()), 4),
        "mean_score": round(float(scores.mean()), 4),
        "mean_score_by_save_mode": {mode: round(float(one.mean()), 4) for mode, one in seen.items()},
        "kept": int(kept.sum()),
        "by_class": rates_by_class(scores, labels, about.classes, settings.min_score),
    }
    run.say(
        f"synthesised objects {number}: the old detector finds {100 * report['found']:.0f} % of {len(scores)}, "
        f"mean score {report['mean_score']:.2f}"
    )
    return GeneratedObjects(pictures, boxes, labels, scores, kept, about.classes, report)


def statistics_of(
    detector: Detector, settings: InversionSection, images: ScaledImages, device: torch.device
) -> FeatureStatistics | None:
    """What the features of synthesised images are drawn to, as ``inversion.statistics`` says; None for nothing."""
    if settings.statistics == "none":
        return None
    if settings.statistics == "images" and watched_layers(detector):
        some = range(min(len(images), MOST_MEASURED))
        detector.eval()
        return measured_statistics(
            detector, (detector.normalise(stack([images[i][0]])[0].to(device)) for i in some)
        )
    found = own_statistics(detector)
    if found is None:
        log.warning(
            "nothing is known of the statistics of the detector's features, so synthesised objects have no prior from "
            "its training images%s",
            "; -s inversion.statistics=images measures them on the new images"
            if watched_layers(detector)
            else "",
        )
    return found


def _kept(scores: Tensor, labels: Tensor, least: float, about: DetectorSpec) -> Tensor:
    """Those found well enough; of a class without any, the best one."""
    kept = scores >= least
    for number, name in enumerate(about.classes):
        own = torch.nonzero(labels == number)[:, 0]
        if len(own) and not bool(kept[own].any()):
            log.warning(
                "the old detector finds no synthesised object of %s with a score of %s or more; the best one is kept",
                name,
                least,
            )
            kept[own[scores[own].argmax()]] = True
    return kept


def read_objects(run: Path, number: int, classes: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, boxes and labels that an increment of a run generated, of ``classes``.

    Raises:
        InputError: there are none, they are damaged, or of other classes.
    """
    file = file_of(run, number)
    if not file.is_file():
        raise InputError("holds no synthesised objects", place=str(run), hint="name a run of --method egor")
    metadata, tensors = read_tensors(file, str(file))
    if tuple(metadata.get("classes", "").split("\n")) != classes:
        raise InputError("holds objects of classes other than the detector's", place=str(file))
    pictures, labels = tensors.get("pictures", torch.empty(0)), tensors.get("labels", torch.empty(0))
    n, side = len(labels) if labels.ndim else 0, pictures.shape[-1] if pictures.ndim else 0
    wanted = {
        "pictures": torch.empty(n, 3, side, side, dtype=torch.uint8, device="meta"),
        "boxes": torch.empty(n, 4, device="meta"),
        "labels": torch.empty(n, dtype=torch.long, device="meta"),
    }
    check_tensors(wanted, tensors, str(file))
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise InputError(f"has labels outside 0 to {len(classes) - 1}", place=str(file))
    return pictures, tensors["boxes"], labels
