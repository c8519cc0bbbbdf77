"""The steps of `effcli continual`: cut the data into tasks, learn one after another, measure, keep the classifier."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from effcli.continual.assembly import new_buffer, new_method
from effcli.continual.class_splits import ClassTask, merged
from effcli.continual.evaluation.class_report import (
    calibration_in,
    class_metrics,
    details_of,
    draw_classes,
    unbalance,
    write_classes,
)
from effcli.continual.evaluation.measuring import draw_matrix, metrics_of
from effcli.continual.learner import Learner
from effcli.continual.methods.buffer import Reservoir
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.network import classifier_of
from effcli.continual.recipe import ContinualRecipe, JointRecipe
from effcli.continual.recipes.features import FrozenFeaturesRecipe
from effcli.continual.records import details_stage, known_tasks
from effcli.continual.stream import describe, load_stream, statistics
from effcli.continual.training import Learned, learn_stream, steps_of
from effcli.continual.weights import FILE_NAME, save_classifier
from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.nn.gathering import refuse_unshareable

log = logging.getLogger(__name__)


class ContinualMethod(Protocol):
    """What the module of a method of `effcli continual` has.

    Attributes:
        create: ``(recipe, learner, buffer)``: the method.
    """

    create: Callable[[Any, Learner, Reservoir], IncrementalMethod]


def plan_run(recipe: ContinualRecipe, directory: Path | None = None) -> Plan[list[ClassTask]]:
    """The tasks, read and cut, and what :func:`run` would learn.

    Args:
        recipe: of a new run, or of one that is there.
        directory: of a run that may be there already: what it has learned is found again.
    """
    tasks = load_stream(recipe, () if directory is None else known_tasks(directory))
    lessons = lessons_of(recipe, tasks)
    side = tasks[0].train.images.shape[-1]
    method = new_method(recipe, n_classes_at_first(recipe, tasks), *statistics(recipe, tasks[0]), side)
    facts = {
        **describe(tasks),
        "parameters": sum(p.numel() for p in method.learner.parameters()),
        "kept_items": method.buffer.size,
        "steps": sum(steps_of(recipe, lesson) for lesson in lessons),
    }
    return Plan(facts, tasks)


def run(recipe: ContinualRecipe, tasks: list[ClassTask], run: Run) -> Result:
    """Learn the stream; the classifier goes to ``model/``."""
    runtime = run.runtime
    if runtime.world > 1 and not isinstance(recipe, FrozenFeaturesRecipe):
        _refuse_unshareable(recipe, tasks)
    lessons = lessons_of(recipe, tasks)
    n_items, n_images = new_buffer(recipe, runtime.device).size, sum(task.n_train for task in tasks)
    if n_items >= n_images:
        log.warning("the buffer's %d places hold all %d training images", n_items, n_images)
    learned = learn_stream(
        recipe, lessons, tasks, statistics(recipe, tasks[0]), n_classes_at_first(recipe, tasks), run
    )
    side = tasks[0].train.images.shape[-1]
    classifier = classifier_of(learned.method, [task.classes for task in tasks], side)
    names, method = classifier.about.classes, learned.method
    details = run.stage(
        details_stage(tasks[-1].number), details_of, method.scores, method.learner, tasks, len(names), runtime
    )
    classifier.calibration = calibration_in(details)
    if runtime.is_main:
        save_classifier(run.file(FILE_NAME), classifier)
        write_classes(details, names, run.file("classes.csv"))
    of_tasks, of_classes = metrics_of(learned.rows, tasks), class_metrics(details, names)
    beside = {"class_il": of_tasks["class_il"], "per_class_mean": of_classes["per_class_mean"]}
    metrics = {**beside, **of_tasks, **of_classes, **costs_of(learned, run)}
    metrics["classes"] = [list(task.classes) for task in tasks]
    if text := unbalance(details, names):
        log.warning("%s", text)
    return run.finish(metrics, lambda: draw(metrics, details, tasks, run))


def _refuse_unshareable(recipe: ContinualRecipe, tasks: Sequence[ClassTask]) -> None:
    """Make sure that several processes learn what one does.

    Raises:
        UsageError: a layer of the network keeps them from it.
    """
    side = tasks[0].train.images.shape[-1]
    method = new_method(recipe, n_classes_at_first(recipe, tasks), *statistics(recipe, tasks[0]), side)
    method.enter_task(tasks[0])
    method.train()
    for network in method.networks():
        refuse_unshareable(network, f"{recipe.method} in several processes")


def draw(
    metrics: dict[str, Any], details: Mapping[str, Any], tasks: list[ClassTask], run: Run
) -> dict[str, str]:
    """The accuracy matrix and the confusion matrix as figures."""
    draw_matrix(metrics, tasks, run.file("accuracy.png"))
    names = [name for task in tasks for name in task.classes]
    draw_classes(details, names, run.file("classes.png"))
    return {
        "Accuracy on each task as more are learned (Class-IL)": "accuracy.png",
        "What each class is taken for at the end, and its accuracy": "classes.png",
    }


def lessons_of(recipe: ContinualRecipe, tasks: Sequence[ClassTask]) -> list[ClassTask]:
    """What is learned one after another: the tasks, or for joint training all of them as one.

    Raises:
        UsageError: joint training with further tasks.
    """
    if not isinstance(recipe, JointRecipe):
        return list(tasks)
    if recipe.data.more:
        raise UsageError(
            "joint training learns all tasks at once and cannot learn additional ones", place="data.more"
        )
    classes = tuple(name for task in tasks for name in task.classes)
    return [ClassTask(0, classes, 0, merged(tasks), tasks[0].eval)]


def n_classes_at_first(recipe: ContinualRecipe, tasks: Sequence[ClassTask]) -> int:
    """Of the head before it grows: all but those of further tasks."""
    return tasks[len(tasks) - len(recipe.data.more) - 1].end_class


def costs_of(learned: Learned, run: Run) -> dict[str, Any]:
    """Time, memory and size."""
    seconds = learned.train_s
    return {
        "train_s": round(seconds, 3),
        "images_per_s": round(learned.n_images / seconds, 1) if seconds else None,
        "peak_memory_mb": run.runtime.peak_memory_mb(),
        "buffer_bytes": 0,
        **learned.method.sizes(),
        "parameters": sum(p.numel() for p in learned.method.learner.parameters()),
        **({"reports": learned.reports} if any(learned.reports) else {}),
    }
