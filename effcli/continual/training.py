"""One task after another: train, measure on all tasks so far, go on. A killed run goes on inside the task it was in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effcli.continual.assembly import new_method
from effcli.continual.class_splits import ClassTask
from effcli.continual.evaluation.measuring import Accuracies, measure
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.records import data_stage, learned_stage
from effcli.continual.stream import check_same_data, fingerprint, record_task
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.data.epochs import batch_of_epoch, batches_per_epoch
from effcli.nn.gathering import average_gradients, rows_shared

LOG_EVERY = 10
"""Steps between two lines of the log; each step is looked at for NaN."""


@dataclass(frozen=True)
class Learned:
    """What a stream left behind.

    Attributes:
        method: with its networks and its buffer.
        rows: accuracies after each task.
        reports: what the method had to say of each task.
        train_s: seconds of learning: steps, and what comes before and after them; measuring is not counted.
        n_images: new images that went through these.
    """

    method: IncrementalMethod
    rows: list[Accuracies]
    reports: list[dict[str, Any]]
    train_s: float
    n_images: int


class Stopwatch:
    """Seconds that survive a kill."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.seconds = float(state["seconds"])


def learn_stream(
    recipe: Any,
    tasks: Sequence[ClassTask],
    measured: Sequence[ClassTask],
    statistics: tuple[Sequence[float], Sequence[float]],
    n_classes: int,
    run: Run,
) -> Learned:
    """Learn tasks in order.

    Args:
        recipe: of a method.
        tasks: to learn from.
        measured: to measure on; those are looked at whose classes were learned.
        statistics: mean and deviation of each channel.
        n_classes: that the head has at first; it grows for tasks with more.
        run: keeps checkpoints and accuracies.

    Raises:
        InputError: a resumed run's data have changed.
    """
    runtime = run.runtime
    for task in tasks:
        _remember(task, tasks, statistics, run)
    side = tasks[0].train.images.shape[-1]
    method = new_method(recipe, n_classes, *statistics, side, runtime.device)
    stopwatch = Stopwatch()
    begun = [task.number for task in tasks if run.has_begun(stage_of(task.number))]
    first = 0 if method.learner_is_fixed else max(begun, default=0)
    rows, reports, n_steps, n_images = [], [], 0, 0
    for task in tasks:
        if task.end_class > n_classes:
            method.grow(task.end_class - n_classes)
            n_classes = task.end_class
        seen = [one for one in measured if one.end_class <= task.end_class]
        if task.number >= first:
            method.enter_task(task)
            if not method.learner_is_fixed:
                train_task(method, task, len(tasks), n_steps, stopwatch, run)
            end_task(method, task, stopwatch, run)
        method.prepare([one.eval.images for one in seen], run)
        row, report = run.stage(accuracy_stage(task.number), _measured, method, seen, task, run)
        rows.append(Accuracies(*row))
        reports.append(report)
        run.say(rows[-1].line(task, len(tasks)))
        n_images += task.n_train * (1 if method.learner_is_fixed else recipe.epochs_of(task.number))
        n_steps += steps_of(recipe, task)
    return Learned(method, rows, reports, stopwatch.seconds, n_images)


def stage_of(number: int) -> str:
    """The name of the checkpoint of a task's training."""
    return f"task-{number}"


def accuracy_stage(number: int) -> str:
    """The name of the checkpoint with what was measured after a task."""
    return f"accuracy-{number}"


def steps_of(recipe: Any, task: ClassTask) -> int:
    """Optimiser steps of a task."""
    epochs: int = recipe.epochs_of(task.number)
    return epochs * batches_per_epoch(task.n_train, recipe.train.batch_size) if epochs else 0


def train_task(
    method: IncrementalMethod,
    task: ClassTask,
    n_tasks: int,
    steps_before: int,
    stopwatch: Stopwatch,
    run: Run,
) -> None:
    """Train on the images of one task.

    Several processes do the same with the same random numbers, and share out the rows of what goes through networks.
    """
    recipe, learner, runtime = method.recipe, method.learner, run.runtime
    n_epochs, n_steps = recipe.epochs_of(task.number), steps_of(recipe, task)
    if not run.has_begun(stage_of(task.number)) and not run.has_begun(learned_stage(task.number)):
        runtime.seed_all(stage_of(task.number), "begin")
        method.begin_task(task, n_tasks)
        learner.begin_task(task, n_epochs)
    optimizer = method.optimizer()
    images, labels = task.train.images.to(runtime.device), task.train.labels.to(runtime.device)
    per_epoch = batches_per_epoch(len(images), recipe.train.batch_size)
    state: dict[str, Any] = {
        "learner": learner,
        "method": method,
        "optimizer": optimizer,
        "stopwatch": stopwatch,
    }
    method.train()
    for step in run.steps(stage_of(task.number), n_steps, state):
        started = time.perf_counter()
        if runtime.world > 1:
            runtime.seed_all(stage_of(task.number), 0, step)  # those of the main process in all
        epoch, rows = batch_of_epoch(step, len(images), recipe.train.batch_size, task.number, recipe.seed)
        if step % per_epoch == 0:
            learner.begin_epoch(task, epoch + 1, n_epochs)
        for group in optimizer.param_groups:
            group["lr"] = method.rate(step, n_steps) * group.get("share", 1.0)
        x, y = images[rows], labels[rows]
        with rows_shared(method.networks()):
            terms = _descend(method, optimizer, x, y, runtime)
            method.after_step(x, y)
            if (step + 1) % per_epoch == 0:
                learner.end_epoch(task, epoch + 1, n_epochs)
        stopwatch.seconds += time.perf_counter() - started
        run.log("train", steps_before + step, every=LOG_EVERY, **terms)


def _descend(
    method: IncrementalMethod, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, runtime: Runtime
) -> dict[str, Tensor]:
    """One step of the optimiser; returns the loss and its terms."""
    with runtime.autocast():
        terms = method.loss(x, y)
    total = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad()
    total.backward()
    average_gradients(one for group in optimizer.param_groups for one in group["params"])
    optimizer.step()
    return {"loss": total, **terms}


def _measured(
    method: IncrementalMethod, seen: Sequence[ClassTask], task: ClassTask, run: Run
) -> tuple[tuple[list[float], list[float], float], dict[str, Any]]:
    with rows_shared(() if method.learner_is_fixed else method.networks()):
        row = measure(method.scores, method.learner, seen, task.end_class, run.runtime)
    report = {name: value for name, value in method.report().items() if value is not None}
    return (row.class_il, row.task_il, row.pooled), report


def end_task(method: IncrementalMethod, task: ClassTask, stopwatch: Stopwatch, run: Run) -> None:
    """Let the method do what it does after a task, once: from then on the task's images are needed no more."""

    def ended() -> dict[str, Any]:
        started = time.perf_counter()
        method.prepare([task.train.images], run)
        method.end_task(task)
        stopwatch.seconds += time.perf_counter() - started
        if type(method).end_task is IncrementalMethod.end_task:
            return {}
        found = {"method": method.state_dict(), "stopwatch": stopwatch.state_dict()}
        return found if method.learner_is_fixed else {**found, "learner": method.learner.state_dict()}

    state = run.stage(learned_stage(task.number), ended)
    for name, holder in (("method", method), ("learner", method.learner), ("stopwatch", stopwatch)):
        if name in state:
            holder.load_state_dict(state[name])


def _remember(
    task: ClassTask,
    tasks: Sequence[ClassTask],
    statistics: tuple[Sequence[float], Sequence[float]],
    run: Run,
) -> None:
    """Keep what the task's images are known again by; where an earlier process did, make sure that it is the same."""
    if task.record is not None:
        return
    now = record_task(task, tasks, statistics).state_dict()
    before = run.stage(data_stage(task.number), lambda: {**now, "fingerprint": fingerprint(task)})
    check_same_data([task], [before if isinstance(before, str) else before["fingerprint"]])
