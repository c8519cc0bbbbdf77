"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017, arXiv 1612.00796), online (Schwarz et al., ICML 2018).

Weights that mattered for earlier tasks are held where they were: F is the diagonal of the empirical Fisher information,
one sum over the tasks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effcli.continual.class_splits import ClassTask
from effcli.continual.methods.rehearsal import IncrementalMethod, Terms, cross_entropy
from effcli.continual.recipes.baselines import EwcRecipe


class Ewc(IncrementalMethod):
    """Online EWC.

    Attributes:
        anchors, fisher: of each weight by name: theta* and F; empty in the first task.
    """

    recipe: EwcRecipe

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.anchors: dict[str, Tensor] = {}
        self.fisher: dict[str, Tensor] = {}

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """CE(x)."""
        return {"ce": cross_entropy(self.learner.classify(self.learner.see(images), labels), labels)}

    @torch.no_grad()
    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """The step of lambda / 2 sum F (theta - theta*)^2, implicitly: no strength makes it diverge.

        theta <- (theta + eta lambda F theta*) / (1 + eta lambda F); classes that came later are not held.
        """
        pull = self.recipe.train.learning_rate * self.recipe.strength
        for name, value in self.learner.classifier.named_parameters():
            if name in self.fisher:
                old, f = self.anchors[name], self.fisher[name]
                held = value[: len(old)]
                held.copy_((held + pull * f * old) / (1 + pull * f))

    def end_task(self, task: ClassTask) -> None:
        """Add this task's F, of images spread over it, one by one, and move the anchors."""
        network = self.learner.eval().classifier
        n = min(len(task.train), self.recipe.fisher_images)
        rows = torch.arange(n) * len(task.train) // n
        new = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
        images, labels = (
            part[rows].to(self.learner.mean.device) for part in (task.train.images, task.train.labels)
        )
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            network.zero_grad()
            cross_entropy(self.learner.classify(self.learner.recognise(image)), label).backward()
            for name, value in network.named_parameters():
                if value.grad is not None:
                    new[name] += value.grad.square() / n
        network.zero_grad()
        for name, before in self.fisher.items():
            new[name][: len(before)] += self.recipe.fisher_decay * before
        self.fisher = new
        self.anchors = {name: value.detach().clone() for name, value in network.named_parameters()}

    def sizes(self) -> dict[str, int]:
        """Two numbers per weight."""
        held = [*self.fisher.values(), *self.anchors.values()]
        return {"held_bytes": sum(one.numel() * one.element_size() for one in held)}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"anchors": dict(self.anchors), "fisher": dict(self.fisher)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        device = self.learner.mean.device
        self.anchors, self.fisher = (
            {name: value.to(device) for name, value in state[key].items()} for key in ("anchors", "fisher")
        )


create = Ewc
