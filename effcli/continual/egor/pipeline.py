"""The steps of detectors that learn: a first one, then objects drawn out of it, pasted, and new classes learned."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effcli.continual.egor.data.class_groups import ClassGroup, ClassGroups, load_groups
from effcli.continual.egor.data.detection_sets import DetectionSet, ScaledImages
from effcli.continual.egor.detectors.branched import BranchedDetector
from effcli.continual.egor.detectors.copied import CopiedBranch
from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.detectors.gfl import Gfl, resnet50_config, tiny_config
from effcli.continual.egor.detectors.released_weights import load_backbone
from effcli.continual.egor.egor import learn_increment
from effcli.continual.egor.evaluation import of_groups, precision_on
from effcli.continual.egor.inversion import aspect_histogram
from effcli.continual.egor.objects import GeneratedObjects, generate_objects
from effcli.continual.egor.old_classes import (
    can_be_measured,
    describe,
    say_what_is_measured,
    with_old_images,
    with_synthesised,
)
from effcli.continual.egor.recipe import (
    DetectionRecipe,
    DetectorRecipe,
    DetectorTrainSection,
    EgorRecipe,
)
from effcli.continual.egor.report import draw_found, draw_objects, draw_scenes
from effcli.continual.egor.training import DetectionBatch, fit, n_steps_of
from effcli.continual.egor.weights import FILE_NAME, DetectorSpec, load_detector, save_detector
from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownDetector:
    """A detector and what is known of it."""

    detector: Detector
    about: DetectorSpec


def plan_train_detector(recipe: DetectorRecipe) -> Plan[ClassGroups]:
    """The images in groups of classes, and what :func:`train_detector` would do with them."""
    groups = load_groups(recipe, ())
    first = groups.groups[0]
    facts = {
        **groups.describe(),
        "parameters": _n_parameters(new_detector(recipe, len(first.classes))),
        "steps": n_steps_of(recipe.train, len(first.train)),
    }
    return Plan(facts, groups)


def train_detector(recipe: DetectorRecipe, groups: ClassGroups, run: Run) -> Result:
    """A first detector, of the first classes where they are cut; it goes to ``model/``."""
    refuse_many(run)
    known = first_detector(recipe, recipe.train, groups.groups[0], run, "train")
    learned = [groups.groups[0].classes]
    metrics = measure(known, groups, learned, run, "ap")
    save_detector(run.file(FILE_NAME), known.detector, known.about)
    return run.finish(
        {**metrics, "parameters": _n_parameters(known.detector)},
        lambda: draw_found(known.detector, known.about, groups.eval_of(known.about.classes), run),
    )


def plan_run(recipe: EgorRecipe) -> Plan[tuple[KnownDetector | None, ClassGroups]]:
    """The old detector, if there is one, and the images, and what :func:`run` would do with them."""
    known, groups = _begin(recipe)
    first = groups.groups[0]
    detector = known.detector if known else new_detector(recipe, len(first.classes))
    increments = groups.groups[0 if known else 1 :]
    n_old = [len(group.known) for group in increments]
    facts = {
        **groups.describe(),
        "parameters": _n_parameters(detector),
        "base_steps": 0 if known else n_steps_of(recipe.base, len(first.train)),
        "generated_images": [recipe.inversion.per_class * n if recipe.needs_objects else 0 for n in n_old],
        "steps": [n_steps_of(recipe.train, len(group.train)) for group in increments],
    }
    if known is not None:
        facts["old_measured_on"] = describe(groups, known.about.classes) or "objects that are synthesised"
    return Plan(facts, (known, groups))


def run(recipe: EgorRecipe, inputs: tuple[KnownDetector | None, ClassGroups], run: Run) -> Result:
    """Learn group after group; the detector goes to ``model/``."""
    refuse_many(run)
    started = time.monotonic()
    known, groups = _old_detector(recipe, inputs, run)
    first = known.about.classes
    increments = groups.groups[1 if inputs[0] is None else 0 :]
    learned = [first]
    before = measure(known, groups, learned, run, "ap-0")
    run.say(f"old detector: AP50 {percent(before['ap50']['all'])}")
    reports, history = [], [before]
    for number, group in enumerate(increments, 1):
        if group.n_left_out:
            run.say(
                f"{group.n_left_out} images are left out, because classes learned before are labelled in them"
            )
        old, objects = known, None
        if recipe.needs_objects:
            images = scaled(group.train, known.about)
            objects = generate_objects(known.detector, known.about, recipe.inversion, run, number, images)
            reports.append(objects.report)
            draw_increment(objects, images, recipe, run, number)
        known = increment(old, group, objects, recipe, run, f"train-{number}")
        learned.append(group.classes)
        history.append(measure(known, groups, learned, run, f"ap-{number}"))
        run.say(line_of(history[-1], number, len(increments)))
    save_detector(run.file(FILE_NAME), known.detector, known.about)
    measured_on = {"old_measured_on": describe(groups, first)}
    metrics = {**history[-1], **measured_on, "before": before, "inversions": reports}
    metrics["history"] = [one["ap"] for one in history]
    if reports:
        metrics["generated_found"] = min(one["found"] for one in reports)
    metrics |= references_of(recipe, groups, history[-1], run)
    metrics["train_s"] = round(time.monotonic() - started, 1)
    metrics["peak_memory_mb"] = run.runtime.peak_memory_mb()
    last = known
    return run.finish(
        metrics, lambda: draw_found(last.detector, last.about, groups.eval_of(last.about.classes), run)
    )


def _old_detector(
    recipe: EgorRecipe, inputs: tuple[KnownDetector | None, ClassGroups], run: Run
) -> tuple[KnownDetector, ClassGroups]:
    """The old detector, trained where there is none, and the images with something to measure its classes on."""
    known, groups = inputs
    if known is None:
        known = first_detector(recipe, recipe.base, groups.groups[0], run, "base")
    known.detector.to(run.runtime.device)
    if not can_be_measured(groups, known.about.classes):
        groups = with_synthesised(groups, known.detector, known.about, recipe.inversion, run)
    say_what_is_measured(groups, known.about.classes, run)
    return known, groups


def draw_increment(
    objects: GeneratedObjects, images: ScaledImages, recipe: EgorRecipe, run: Run, number: int
) -> None:
    """What was generated for an increment, and the scenes that it is pasted into, for the report."""
    run.draw(lambda: draw_objects(objects, run, number))
    run.draw(lambda: draw_scenes(objects, images, recipe, run, number))


def _begin(recipe: EgorRecipe) -> tuple[KnownDetector | None, ClassGroups]:
    """The detector that the recipe names, and the images."""
    known = None if recipe.detector is None else named_detector(recipe)
    classes = known.about.classes if known else ()
    groups = with_old_images(load_groups(recipe, classes), recipe.eval.old_data, recipe.detector, classes)
    if known is None and len(groups.groups) < 2:
        raise UsageError(
            "one group of classes leaves no new classes to learn; at least two groups are needed",
            place="data.tasks",
        )
    if "joint" in recipe.references:
        _check_joint(groups, known)
    return known, groups


def named_detector(recipe: EgorRecipe) -> KnownDetector:
    """The detector that the recipe names.

    Raises:
        UsageError: it has a branch.
    """
    assert recipe.detector is not None
    sides = (recipe.data.longest_side, recipe.data.shortest_side)
    known = KnownDetector(*load_detector(recipe.detector, recipe.detector_classes, sides))
    if isinstance(known.detector, BranchedDetector | CopiedBranch):
        raise UsageError(
            "has a branch, and cannot learn classes in its old network",
            place=recipe.detector,
            hint="--method branch gives it another one",
        )
    return known


def _check_joint(groups: ClassGroups, known: KnownDetector | None) -> None:
    missing = set(known.about.classes if known else ()) - set(groups.train.classes)
    if missing:
        raise UsageError(
            f"joint training also needs images of the old classes; none shows {', '.join(sorted(missing)[:5])}",
            place="references",
        )


def first_detector(
    recipe: DetectionRecipe, settings: DetectorTrainSection, group: ClassGroup, run: Run, stage: str
) -> KnownDetector:
    """Train a new detector on one group."""
    torch.manual_seed(recipe.seed)
    detector = new_detector(recipe, len(group.all_classes)).to(run.runtime.device)
    about = DetectorSpec(
        group.all_classes,
        tuple(aspect_histogram(boxes) for boxes in boxes_by_class(group.train)),
        recipe.data.longest_side,
        recipe.data.shortest_side,
    )

    def loss_of(batch: DetectionBatch, images: Tensor) -> dict[str, Tensor]:
        with run.runtime.autocast():
            raw = detector(images)
        return {"detect": detector.detection_loss(raw, batch.targets.to(images.device)).total}

    fit(detector, scaled(group.train, about), settings, recipe.augment.flip, run, stage, loss_of)
    return KnownDetector(detector, about)


def new_detector(recipe: DetectionRecipe, n_classes: int) -> Gfl:
    """An untrained one, with the backbone's weights where the recipe names some."""
    settings = recipe.network
    if settings.backbone == "tiny":
        return Gfl(tiny_config(n_classes))
    detector = Gfl(resnet50_config(n_classes, settings.norm, settings.frozen_stages))
    if settings.init is not None:
        load_backbone(detector.backbone, settings.init)
    return detector


def increment(
    old: KnownDetector,
    group: ClassGroup,
    objects: GeneratedObjects | None,
    recipe: EgorRecipe,
    run: Run,
    stage: str,
) -> KnownDetector:
    """A copy of the old detector that has learned a group."""
    detector = copy.deepcopy(old.detector)
    run.runtime.seed_all(stage, "grow")
    detector.grow(len(group.classes))
    teacher = copy.deepcopy(old.detector).eval().requires_grad_(False)
    images = scaled(group.train, old.about)
    new_histograms = [aspect_histogram(boxes) for boxes in boxes_by_class(group.train)[len(group.known) :]]
    crops = objects.crops if objects is not None else []
    learn_increment(detector, teacher, images, crops, recipe, run, stage)
    about = DetectorSpec(
        group.all_classes,
        (*old.about.histograms, *new_histograms),
        old.about.longest,
        old.about.shortest,
    )
    return KnownDetector(detector, about)


def measure(
    known: KnownDetector, groups: ClassGroups, learned: Sequence[Sequence[str]], run: Run, stage: str
) -> dict[str, Any]:
    """AP over old and new classes, kept as a stage."""

    def compute() -> dict[str, Any]:
        precision = precision_on(known.detector, known.about, groups, run.runtime, run)
        return of_groups(precision, learned, known.about.classes)

    return run.stage(stage, compute)


def references_of(
    recipe: EgorRecipe, groups: ClassGroups, reached: dict[str, Any], run: Run
) -> dict[str, Any]:
    """What fine-tuning and joint training reach, and how far the method is from the latter."""
    if not recipe.references:
        return {}
    made: dict[str, Any] = {}
    if "finetune" in recipe.references:
        made["finetune"] = _finetune(recipe, groups, run)
    if "joint" in recipe.references:
        last = groups.groups[-1]
        whole = ClassGroup(last.all_classes, (), groups.train.of_classes(last.all_classes), 0)
        known = first_detector(recipe, recipe.base, whole, run, "joint")
        learned = [last.known, last.classes]
        made["joint"] = measure(known, groups, learned, run, "joint-ap")
    result: dict[str, Any] = {"references": made}
    if "joint" in made:
        best, own = made["joint"]["ap"]["all"], reached["ap"]["all"]
        result["abs_gap"] = round(best - own, 5)
        result["rel_gap"] = round((best - own) / best, 5) if best else None
    return result


def _finetune(recipe: EgorRecipe, groups: ClassGroups, run: Run) -> dict[str, Any]:
    """The same increments with all weights learned and nothing that keeps old classes."""
    plain = recipe.model_copy(
        update={
            "distillation": recipe.distillation.model_copy(update={"weight": 0.0}),
            "composition": recipe.composition.model_copy(update={"enabled": False}),
            "learning": recipe.learning.model_copy(
                update={
                    "columns": "all",
                    "pasted_as_labels": False,
                    "pseudo_labels": False,
                    "trunk": "learned",
                }
            ),
        }
    )
    increments = list(groups.groups)
    if recipe.detector is None:
        known = first_detector(recipe, recipe.base, increments.pop(0), run, "base")  # from its checkpoint
    else:
        known = named_detector(recipe)
        known.detector.to(run.runtime.device)
    learned, measured = [known.about.classes], {}
    for number, group in enumerate(increments, 1):
        known = increment(known, group, None, plain, run, f"finetune-{number}")
        learned.append(group.classes)
        measured = measure(known, groups, learned, run, f"finetune-ap-{number}")
    return measured


def boxes_by_class(images: DetectionSet) -> list[Tensor]:
    """All boxes of each class, crowds apart, ``[G, 4]`` each."""
    boxes = torch.cat([one.boxes[~one.crowd] for one in images.objects])
    labels = torch.cat([one.labels[~one.crowd] for one in images.objects])
    return [boxes[labels == number] for number in range(len(images.classes))]


def scaled(images: DetectionSet, about: DetectorSpec) -> ScaledImages:
    """As the detector sees them."""
    return ScaledImages(images, about.longest, about.shortest)


def refuse_many(run: Run) -> None:
    """One process trains one detector.

    Raises:
        UsageError: there are more.
    """
    if run.runtime.world > 1:
        raise UsageError(
            f"a detector is trained in one process; {run.runtime.world} were started",
            hint="run several seeds or recipes in parallel instead",
        )


def line_of(measured: dict[str, Any], number: int, n: int) -> str:
    """One line for the terminal."""
    parts = ", ".join(f"{name} {percent(value)}" for name, value in measured["ap50"].items())
    return f"increment {number}/{n}: AP50 {parts}"


def percent(value: float | None) -> str:
    """A share for people; there may be nothing to measure it on."""
    return "not known" if value is None else f"{100 * value:.1f} %"


def _n_parameters(detector: Detector) -> int:
    return sum(p.numel() for p in detector.parameters())
