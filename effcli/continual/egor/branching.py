"""The method `branch`: an old detector stays as it is, and gets a branch for each group of new classes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from torch import Tensor

from effcli.continual.egor.data.class_groups import ClassGroup, ClassGroups, load_groups
from effcli.continual.egor.detectors.branched import BranchedDetector, pyramid_width
from effcli.continual.egor.detectors.copied import CopiedBranch
from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.inversion import aspect_histogram
from effcli.continual.egor.old_classes import describe, say_what_is_measured, with_old_images
from effcli.continual.egor.pipeline import (
    KnownDetector,
    boxes_by_class,
    line_of,
    measure,
    percent,
    refuse_many,
    scaled,
)
from effcli.continual.egor.recipe import BranchRecipe
from effcli.continual.egor.report import draw_found
from effcli.continual.egor.training import DetectionBatch, fit, n_steps_of
from effcli.continual.egor.weights import FILE_NAME, load_detector, save_detector
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run


@dataclass(frozen=True)
class BranchInputs:
    """What a run works on.

    Attributes:
        known: the old detector.
        width: channels of its pyramid.
        groups: of new classes.
    """

    known: KnownDetector
    width: int
    groups: ClassGroups


def plan_run(recipe: BranchRecipe) -> Plan[BranchInputs]:
    """The old detector and the images, and what :func:`run` would do with them."""
    sides = (recipe.data.longest_side, recipe.data.shortest_side)
    known = KnownDetector(*load_detector(recipe.detector, recipe.detector_classes, sides))
    groups = load_groups(recipe, known.about.classes)
    groups = with_old_images(groups, recipe.eval.old_data, recipe.detector, known.about.classes)
    width = pyramid_width(known.detector)
    facts = {
        **groups.describe(),
        "parameters": sum(p.numel() for p in known.detector.parameters()),
        "parameters_of_branches": [_n_new(_branched(known, width, group, recipe)) for group in groups.groups],
        "steps": [n_steps_of(recipe.train, len(group.train)) for group in groups.groups],
    }
    return Plan(facts, BranchInputs(known, width, groups))


def run(recipe: BranchRecipe, inputs: BranchInputs, run: Run) -> Result:
    """Learn group after group, each in a branch of its own; the detector goes to ``model/``."""
    refuse_many(run)
    started = time.monotonic()
    known, groups = inputs.known, inputs.groups
    known.detector.to(run.runtime.device)
    learned = [known.about.classes]
    say_what_is_measured(groups, known.about.classes, run)
    before = measure(known, groups, learned, run, "ap-0")
    run.say(f"old detector: AP50 {percent(before['ap50']['all'])}")
    history = [before]
    for number, group in enumerate(groups.groups, 1):
        known = _with_branch(known, inputs.width, group, recipe, run, f"train-{number}")
        learned.append(group.classes)
        history.append(measure(known, groups, learned, run, f"ap-{number}"))
        run.say(f"{line_of(history[-1], number, len(groups.groups))}; old classes are found as before")
    save_detector(run.file(FILE_NAME), known.detector, known.about)
    metrics = {
        **history[-1],
        "before": before,
        "old_measured_on": describe(groups, inputs.known.about.classes),
        "history": [one["ap"] for one in history],
        "parameters": sum(p.numel() for p in known.detector.parameters()),
        "parameters_new": sum(p.numel() for p in known.detector.parameters())
        - sum(p.numel() for p in inputs.known.detector.parameters()),
        "train_s": round(time.monotonic() - started, 1),
        "peak_memory_mb": run.runtime.peak_memory_mb(),
    }
    last = known
    return run.finish(
        metrics, lambda: draw_found(last.detector, last.about, groups.eval_of(last.about.classes), run)
    )


def _branched(known: KnownDetector, width: int, group: ClassGroup, recipe: BranchRecipe) -> Detector:
    settings, n_new = recipe.branch, len(group.classes)
    if settings.start == "copy":
        return CopiedBranch(known.detector, n_new)
    return BranchedDetector(known.detector, width, n_new, settings.channels, settings.convolutions)


def _n_new(detector: Detector) -> int:
    return sum(p.numel() for name, p in detector.named_parameters() if not name.startswith("old."))


def _with_branch(
    old: KnownDetector, width: int, group: ClassGroup, recipe: BranchRecipe, run: Run, stage: str
) -> KnownDetector:
    """The old detector with a branch that has learned a group; the loss sees its classes alone."""
    run.runtime.seed_all(stage, "branch")
    detector = _branched(old, width, group, recipe).to(run.runtime.device)
    n_old = old.detector.n_classes

    def loss_of(batch: DetectionBatch, images: Tensor) -> dict[str, Tensor]:
        with run.runtime.autocast():
            raw = detector(images)
        own = replace(batch.targets, labels=batch.targets.labels - n_old)
        return {"detect": detector.detection_loss(raw, own.to(images.device)).total}

    fit(detector, scaled(group.train, old.about), recipe.train, recipe.augment.flip, run, stage, loss_of)
    histograms = [aspect_histogram(boxes) for boxes in boxes_by_class(group.train)[len(group.known) :]]
    about = replace(old.about, classes=group.all_classes, histograms=(*old.about.histograms, *histograms))
    return KnownDetector(detector, about)
