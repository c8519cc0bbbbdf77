"""EASE (Zhou et al., Expandable Subspace Ensemble, CVPR 2024, arXiv 2403.12030): docs/methods/ease.md.

Each task trains adapters of its own in a frozen Vision Transformer, so each has a feature space that nothing changes
later. A class has a prototype in each space; in those that came after it, where none of its images was seen, the
prototype is put together from those of newer classes, by how similar they are in the class's own space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.adapted_vit import AdaptedViT, AdapterSpec
from effcli.continual.backbones import Backbone
from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import EVAL_BATCH, Classifier
from effcli.continual.methods.rehearsal import IncrementalMethod, Terms, cross_entropy
from effcli.continual.recipes.pretrained import EaseRecipe

_SHARPNESS = 20.0
"""Logits are cosines times this, so that their softmax says something."""


class CosineHead(nn.Module):
    """sigma cos(w, f): the classifier that a task's adapters are trained with, and that is thrown away."""

    def __init__(self, dim: int, n_classes: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim)
        self.weight = nn.Parameter(torch.empty(n_classes, dim).uniform_(-bound, bound))
        self.sigma = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, D]`` to logits."""
        return self.sigma * F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


class Ease(IncrementalMethod):
    """EASE.

    Attributes:
        sums: of the features of each class in each space, ``[K, T, D]``.
        counts: images that they are sums of, ``[K, T]``; 0 in spaces that came later.
        tasks: in which each class was learned.
        head: of this task's classes; not kept.
    """

    recipe: EaseRecipe
    head: CosineHead

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.backbone: Backbone = self.learner.classifier.backbone
        settings, dim = self.recipe.ease, self.backbone.dim
        self.vit = AdaptedViT(
            self.backbone.network, dim, settings.hidden, settings.scale, settings.dropout
        ).eval()
        self.backbone.network = self.vit
        self.device = self.learner.mean.device
        self.sums = torch.zeros(0, 0, dim, device=self.device)
        self.counts = torch.zeros(0, 0, device=self.device)
        self.tasks: list[int] = []

    # --- training -------------------------------------------------------------------------------------

    def enter_task(self, task: ClassTask) -> None:
        """Adapters for this task, and a classifier of its classes."""
        super().enter_task(task)
        while len(self.vit.adapters) <= task.number:
            self.vit.add()
        n, settings = len(self.vit.adapters), self.recipe.ease
        self.backbone.dim = n * self.vit.dim
        spec = AdapterSpec(n, settings.hidden, settings.scale)
        self.backbone.about = replace(self.backbone.about, adapters=spec)
        self.head = CosineHead(self.vit.dim, len(task.answers)).to(self.device)
        self.vit.adapters.requires_grad_(False)
        self._new.requires_grad_(True)

    @property
    def _new(self) -> nn.Module:
        return self.vit.adapters[-1]

    def train(self) -> None:
        """This task's adapters alone: the rest stays in evaluation mode."""
        self.learner.eval()
        self._new.train()

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        settings = self.recipe.train
        return torch.optim.SGD(
            [*self._new.parameters(), *self.head.parameters()],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def networks(self) -> list[nn.Module]:
        """The one with the adapters."""
        return [self.vit]

    def rate(self, step: int, n_steps: int) -> float:
        """From the learning rate to 0 as a cosine."""
        return self.recipe.train.learning_rate * (1 + math.cos(math.pi * step / n_steps)) / 2

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """CE(x) among the classes of the task."""
        own = torch.tensor(self.task.answers, device=labels.device)
        x = self.backbone.resized(self.learner.see(images))
        features = self.vit(x, len(self.vit.adapters) - 1)
        return {"ce": cross_entropy(self.head(features), torch.searchsorted(own, labels))}

    # --- prototypes -----------------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, task: ClassTask) -> None:
        """Add the task's images to the prototypes in all spaces so far."""
        self.learner.eval()
        n_classes, n_spaces = task.end_class, len(self.vit.adapters)
        sums = torch.zeros(n_classes, n_spaces, self.vit.dim, device=self.device)
        counts = torch.zeros(n_classes, n_spaces, device=self.device)
        sums[: self.sums.shape[0], : self.sums.shape[1]] = self.sums
        counts[: self.counts.shape[0], : self.counts.shape[1]] = self.counts
        labels = task.train.labels.to(self.device)
        counts += torch.bincount(labels, minlength=n_classes)[:, None]
        for images, own in zip(task.train.images.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True):
            x = self.backbone.resized(self.learner.recognise(images.to(self.device)))
            for number in range(n_spaces):
                sums[:, number].index_add_(0, own, self.vit.in_space(x, number).float())
        self.sums, self.counts = sums, counts
        self.tasks += [task.number] * (n_classes - len(self.tasks))

    def exported(self) -> Classifier:
        """All spaces beside each other, and a linear layer of weighted prototypes of length 1."""
        settings = self.recipe.ease
        network = Classifier(self.backbone, len(self.tasks)).to(self.device)
        found = F.normalize(complemented(self.sums, self.counts, self.tasks), dim=2)
        weights = space_weights(
            self.tasks, found.shape[1], settings.other_spaces, average=settings.average_others
        )
        with torch.no_grad():
            network.head.weight.copy_(_SHARPNESS * (found * weights.to(found.device)[:, :, None]).flatten(1))
            network.head.bias.zero_()
        return network.eval()

    def scores(self, images: Tensor) -> Tensor:
        """The exported network's logits."""
        return self.learner.scores(images, self.exported())

    # --- frame ----------------------------------------------------------------------------------------

    def grow(self, n_new: int) -> None:
        """Nothing: prototypes come one by one."""

    def sizes(self) -> dict[str, int]:
        """The prototypes and the adapters."""
        adapters = sum(one.numel() * one.element_size() for one in self.vit.adapters.parameters())
        return {"prototype_bytes": self.sums.numel() * self.sums.element_size(), "adapter_bytes": adapters}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {
            "sums": self.sums,
            "counts": self.counts,
            "tasks": list(self.tasks),
            "head": self.head.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.sums, self.counts = state["sums"].to(self.device), state["counts"].to(self.device)
        self.tasks = [int(one) for one in state["tasks"]]
        self.head.load_state_dict(state["head"])


def complemented(sums: Tensor, counts: Tensor, tasks: Sequence[int]) -> Tensor:
    """Prototypes of all classes in all spaces, ``[K, T, D]`` (docs/methods/ease.md, Prototypes).

    Args:
        sums: of features, ``[K, T, D]``.
        counts: images behind each, ``[K, T]``; prototypes with none are put together from those of newer classes.
        tasks: in which each class was learned, ``K`` numbers.
    """
    found = sums / counts.clamp(min=1)[:, :, None]
    task = torch.tensor(tasks, device=sums.device)
    for space in range(found.shape[1]):
        for own in range(space):
            newer = (counts[:, space] > 0) & (counts[:, own] > 0)
            missing = (counts[:, space] == 0) & (task == own)
            if not bool(missing.any()) or not bool(newer.any()):
                continue
            old, new = (F.normalize(found[rows, own], dim=1) for rows in (missing, newer))
            found[missing, space] = torch.softmax(old @ new.T, 1) @ found[newer, space]
    return found


def space_weights(tasks: Sequence[int], n_spaces: int, alpha: float, *, average: bool) -> Tensor:
    """Of each class in each space, ``[K, T]``: 1 in its own, alpha in the others, or alpha / (T - 1)."""
    own = F.one_hot(torch.tensor(tasks), n_spaces).float()
    return own + (1 - own) * (alpha / max(1, n_spaces - 1) if average else alpha)


create = Ease
