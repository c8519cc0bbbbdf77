"""EGOR's increment: L_detect on new classes + s * distillation (docs/methods/egor.md, Total loss)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from effcli.continual.egor.composition import Composer
from effcli.continual.egor.data.detection_sets import ObjectBoxes, ScaledImages
from effcli.continual.egor.detectors.detector import Detector, Targets
from effcli.continual.egor.evaluation import find
from effcli.continual.egor.inversion import Crop
from effcli.continual.egor.losses import distillation
from effcli.continual.egor.recipe import EgorRecipe
from effcli.continual.egor.training import DetectionBatch, fit, targets_of
from effcli.core.run import Run

log = logging.getLogger(__name__)

SURE, OFTEN = 0.5, 0.4


def learn_increment(
    detector: Detector,
    teacher: Detector,
    images: ScaledImages,
    crops: Sequence[Crop],
    recipe: EgorRecipe,
    run: Run,
    stage: str,
) -> None:
    """Train a detector, which has grown already, in place.

    Args:
        detector: Phi_inc.
        teacher: Phi_ori, frozen.
        images: of the new classes.
        crops: generated objects of old classes.
        recipe: the settings.
        run: keeps checkpoints.
        stage: name of the loop.
    """
    n_old, learning = teacher.n_classes, recipe.learning
    with_old = old_objects(teacher, images, recipe, run, stage)
    if with_old is not None:
        images = images.with_objects(with_old)
    composer = Composer(crops, recipe.composition, recipe.seed) if recipe.composition.enabled else None
    first = n_old if learning.columns == "new" else 0
    is_frozen = learning.trunk == "frozen"  # then the old detector's pyramid is the new one's

    def loss_of(batch: DetectionBatch, x: Tensor) -> dict[str, Tensor]:
        with run.runtime.autocast():
            new = detector(x)
        targets = with_pasted(batch) if learning.pasted_as_labels else batch.targets
        loss = detector.detection_loss(new, targets.to(x.device), first)
        terms = {"detect": loss.total}
        if recipe.distillation.weight == 0:
            return terms
        with torch.no_grad(), run.runtime.autocast():
            old = teacher.heads(new.pyramid) if is_frozen else teacher(x)
        return terms | distillation(
            detector, new, old, batch.pasted, n_old, loss.balance, recipe.distillation
        )

    frozen = detector.trunk if is_frozen else ()
    fit(detector, images, recipe.train, recipe.augment.flip, run, stage, loss_of, composer, frozen)


def with_pasted(batch: DetectionBatch) -> Targets:
    """The objects of a batch and those pasted into it."""
    own = batch.targets
    boxes, labels = [], []
    for i in range(len(own.boxes)):
        boxes.append(torch.cat([own.boxes[i][own.valid[i]], batch.pasted[i]]))
        labels.append(torch.cat([own.labels[i][own.valid[i]], batch.pasted_labels[i]]))
    return targets_of(boxes, labels)


def old_objects(
    teacher: Detector, images: ScaledImages, recipe: EgorRecipe, run: Run, stage: str
) -> tuple[ObjectBoxes, ...] | None:
    """Look for old classes in the new images, and say so where there are many.

    Returns:
        With ``learning.pseudo_labels`` the images' objects and those found; else None.
    """
    wanted = recipe.learning.pseudo_labels
    threshold = recipe.learning.pseudo_score if wanted else SURE
    found = find(teacher, images, run.runtime, run=run, threshold=threshold)
    share = sum(len(one.boxes) > 0 for one in found) / max(1, len(found))
    if share > OFTEN and not wanted:
        log.warning(
            "the old detector finds objects of old classes in %.0f %% of the new images, which would be learned as "
            "background. -s learning.columns=all -s learning.pseudo_labels=true uses them as labels",
            100 * share,
        )
    if not wanted:
        return None
    run.say(f"{stage}: {sum(len(one.boxes) for one in found)} objects of old classes taken as labels")
    return tuple(
        ObjectBoxes(
            torch.cat([own.boxes, one.boxes]),
            torch.cat([own.labels, one.labels]),
            torch.cat([own.crowd, torch.zeros(len(one.boxes), dtype=torch.bool)]),
        )
        for own, one in zip(images.set.objects, found, strict=True)
    )
