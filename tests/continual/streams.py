"""Streams and methods that are small enough for a test."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from effcli.continual.assembly import new_method
from effcli.continual.class_splits import ClassTask
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.recipe import ContinualRecipe
from effcli.core.recipe import parse_set
from effcli.core.registry import find_recipe
from effcli.data.image_sets import ImageSet

SIDE = 8


def images_of(labels: torch.Tensor, number: int, channels: int = 3) -> torch.Tensor:
    """uint8 ``[B, channels, 8, 8]``: noise around a colour of each class, so that they can be learned."""
    draws = torch.Generator().manual_seed(1234)
    colours = torch.randint(40, 216, (64, channels, 1, 1), generator=draws)
    draws.manual_seed(number)
    noise = torch.randint(-40, 41, (len(labels), channels, SIDE, SIDE), generator=draws)
    return (colours[labels] + noise).clamp(0, 255).to(torch.uint8)


def tiny_tasks(n_tasks: int = 2, per_task: int = 2, n_images: int = 16, channels: int = 3) -> list[ClassTask]:
    """Tasks of ``per_task`` classes with ``n_images`` training images and 4 test images of each class."""
    found = []
    for number in range(n_tasks):
        start = number * per_task
        classes = tuple(f"class-{one}" for one in range(start, start + per_task))
        parts = []
        for n, part in ((n_images, number), (4, 100 + number)):
            labels = torch.arange(start, start + per_task).repeat(n)
            parts.append(ImageSet(images_of(labels, part, channels), labels, classes))
        found.append(ClassTask(number, classes, start, parts[0], parts[1]))
    return found


def tiny_recipe(name: str, *settings: str) -> ContinualRecipe:
    """A shipped recipe for images of 8 pixels and a network of width 2; ``settings`` are ``key=value``."""
    keys = type(find_recipe("continual", name)).model_fields
    small = ["data.side=8", "data.channels=3"]
    if "train" in keys:
        small += ["network.width=2", "train.epochs=2", "train.batch_size=8"]
    if "ir" in keys:
        small += ["train.first_epochs=2"]
    if "buffer" in keys:
        small += ["buffer.size=8", "buffer.batch_size=4"]
    found = find_recipe("continual", name, [parse_set(one) for one in (*small, *settings)])
    assert isinstance(found, ContinualRecipe)
    return found


def tiny_method(name: str, *settings: str, n_classes: int = 4) -> IncrementalMethod:
    """A new method of :func:`tiny_recipe`, before its first task."""
    recipe: Any = tiny_recipe(name, *settings)
    return new_method(
        recipe, n_classes, (0.5,) * recipe.data.channels, (0.25,) * recipe.data.channels, recipe.data.side
    )


def learn(method: IncrementalMethod, tasks: list[ClassTask], n_epochs: int = 2, batch_size: int = 8) -> None:
    """The training loop without a run: no checkpoints, no precision, no log."""
    for task in tasks:
        begin(method, task, n_epochs, tasks[-1].number + 1)
        optimizer = method.optimizer()
        for epoch in range(1, n_epochs + 1):
            method.learner.begin_epoch(task, epoch, n_epochs)
            for rows in torch.randperm(len(task.train)).split(batch_size):
                step(method, optimizer, task.train.images[rows], task.train.labels[rows])
            method.learner.end_epoch(task, epoch, n_epochs)
        method.end_task(task)
        method.train()


def begin(method: IncrementalMethod, task: ClassTask, n_epochs: int = 2, n_tasks: int = 2) -> None:
    """All that is done before the first step of a task."""
    method.enter_task(task)
    method.begin_task(task, n_tasks)
    method.learner.begin_task(task, n_epochs)
    method.train()


def step(
    method: IncrementalMethod, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """One step; returns the terms of the loss."""
    terms = dict(method.loss(images, labels))
    optimizer.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    method.after_step(images, labels)
    return {name: value.detach() for name, value in terms.items()}


def seed(number: int) -> None:
    """Of all generators that methods draw from."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
