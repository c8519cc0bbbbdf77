"""A method as the training loop calls it, and what the methods with a buffer share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import Classifier, Learner
from effcli.continual.methods.buffer import Kept, Reservoir
from effcli.continual.recipes.rehearsal import BufferSection
from effcli.core.run import Run

Terms: TypeAlias = Mapping[str, Tensor]
"""The terms of a loss by name, with their weights; their sum is minimised."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """In float32, whatever the network computes in."""
    return F.cross_entropy(logits.float(), labels)


class IncrementalMethod:
    """A way to learn one task after another.

    Args:
        recipe: its settings.
        learner: what is trained.
        buffer: for methods that keep images of earlier tasks; empty at first.

    Attributes:
        task: the one that is learned now.
        learner_is_fixed: whether the learner's weights never change, so that checkpoints leave them out.
    """

    task: ClassTask
    learner_is_fixed: ClassVar[bool] = False

    def __init__(self, recipe: Any, learner: Learner, buffer: Reservoir) -> None:
        self.recipe = recipe
        self.learner = learner
        self.buffer = buffer

    def prepare(self, images: Sequence[Tensor], run: Run) -> None:
        """Before a task is learned and measured: what takes long and is kept.

        Args:
            images: uint8 ``[N, C, S, S]`` each: those to learn from, and those to measure on.
            run: shows progress, and may be asked to stop.
        """

    def enter_task(self, task: ClassTask) -> None:
        """Before a task, also where a killed run goes on inside it: make what is needed, in the right shapes."""
        self.task = task

    def begin_task(self, task: ClassTask, n_tasks: int) -> None:
        """Before the first step of a task, and not where a killed run goes on inside it."""

    def train(self) -> None:
        """Put the networks into training mode."""
        self.learner.train()

    def optimizer(self) -> torch.optim.Optimizer:
        """A new one, made at the beginning of each task."""
        return torch.optim.SGD(self.groups(self.learner), lr=self.recipe.train.learning_rate)

    def groups(self, *trained: nn.Module) -> list[dict[str, Any]]:
        """The weights of modules for an optimiser; those of a trained backbone have ``share``, of the learning rate."""
        settings = self.recipe.network
        weights = [one for module in trained for one in module.parameters()]
        if settings.backbone_rate == 1:
            return [{"params": weights}]
        backbone = {id(one) for one in self.learner.classifier.backbone.parameters()}
        slow = [one for one in weights if id(one) in backbone and one.requires_grad]
        others = [one for one in weights if id(one) not in backbone]
        groups = [{"params": others}, {"params": slow, "share": settings.backbone_rate}]
        return [group for group in groups if group["params"]]

    def networks(self) -> list[nn.Module]:
        """All that batches go through in :meth:`loss`: several processes share their rows out."""
        return [self.learner.classifier.backbone]

    def rate(self, step: int, n_steps: int) -> float:
        """The learning rate of a step of a task."""
        rate: float = self.recipe.train.learning_rate
        return rate

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """The loss of new images, uint8 ``[B, C, S, S]``, with labels ``[B]``."""
        raise NotImplementedError

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """After the optimiser's step."""

    def end_task(self, task: ClassTask) -> None:
        """After the last step of a task."""

    def scores(self, images: Tensor) -> Tensor:
        """Of each class ``[B, n_classes]``, the larger the likelier, for uint8 images as they are."""
        return self.learner.scores(images)

    def exported(self) -> Classifier:
        """A network whose largest logit is the largest of :meth:`scores`."""
        return self.learner.classifier

    def report(self) -> dict[str, Any]:
        """What the method has to say of the task that just ended, for people."""
        return {}

    def grow(self, n_new: int) -> None:
        """Make room for ``n_new`` more classes."""
        self.learner.grow(n_new)

    def sizes(self) -> dict[str, int]:
        """Bytes that are kept from one task to the next beside the network, by what they are."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the learner and the optimiser, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""


class Rehearsal(IncrementalMethod):
    """What the methods with a buffer share: they differ in their loss.

    Attributes:
        keeps_logits: whether the buffer keeps those that :meth:`loss` puts into ``logits``.
    """

    keeps_logits: ClassVar[bool] = False
    logits: Tensor

    @property
    def passes(self) -> Literal["joint", "separate"]:
        """Whether new and kept images go through the network together."""
        if self.recipe.passes == "auto":
            return "separate" if self.recipe.frequency.enabled else "joint"
        chosen: Literal["joint", "separate"] = self.recipe.passes
        return chosen

    def draw(self) -> Kept:
        """A batch of kept images."""
        settings: BufferSection = self.recipe.buffer
        return self.buffer.draw(settings.batch_size)

    @torch.no_grad()
    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Offer the images to the buffer: not augmented, but with the logits of their augmented versions."""
        self.buffer.offer(self.learner.keep(images), labels, self.logits if self.keeps_logits else None)

    def grow(self, n_new: int) -> None:
        """More classes for kept logits too."""
        super().grow(n_new)
        self.buffer.grow(n_new)

    def sizes(self) -> dict[str, int]:
        """The buffer's."""
        return {"buffer_bytes": self.buffer.n_bytes}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.buffer.load_state_dict(state["buffer"])
