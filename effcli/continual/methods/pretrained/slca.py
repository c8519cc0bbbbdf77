"""SLCA (Zhang et al., Slow Learner with Classifier Alignment, ICCV 2023, arXiv 2303.05118): docs/methods/slca.md.

The whole trained network is trained on, its backbone a hundred times slower than the head, on the classes of each task
alone. Of each class a Gaussian of its features is kept; after each task the head is trained on samples of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import EVAL_BATCH
from effcli.continual.methods.rehearsal import IncrementalMethod, Terms, cross_entropy
from effcli.continual.recipes.pretrained import SlcaRecipe

_VARIANCE = 1e-4
"""Added to the variance of each feature, as in the released code: few images span few directions."""


@dataclass
class ClassGaussian:
    """What is kept of a class.

    Attributes:
        n: images.
        mean: of their features, ``[D]``.
        root: R with R^T R = sum (f - mean)(f - mean)^T, ``[min(n, D), D]``.
        task: in which it was learned.
    """

    n: int
    mean: Tensor
    root: Tensor
    task: int

    @classmethod
    def of(cls, features: Tensor, task: int) -> ClassGaussian:
        """Of features ``[n, D]``."""
        mean = features.mean(0)
        return cls(len(features), mean, _root(features - mean), task)

    def with_more(self, features: Tensor) -> ClassGaussian:
        """Of those images and these."""
        new = ClassGaussian.of(features, self.task)
        n = self.n + new.n
        between = math.sqrt(self.n * new.n / n) * (self.mean - new.mean)
        mean = self.mean + (new.mean - self.mean) * (new.n / n)
        return ClassGaussian(n, mean, _root(torch.cat([self.root, new.root, between[None]])), self.task)

    def sample(self, n: int, scale: float) -> Tensor:
        """Features ``[n, D]`` from N(scale mean, covariance + 1e-4 I)."""
        root = self.root / math.sqrt(max(1, self.n - 1))
        spread = torch.randn(n, len(root), device=root.device) @ root
        return scale * self.mean + spread + math.sqrt(_VARIANCE) * torch.randn_like(spread)


class Slca(IncrementalMethod):
    """SLCA.

    Attributes:
        classes: the Gaussian of each class seen so far.
    """

    recipe: SlcaRecipe

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.classes: list[ClassGaussian] = []

    def train(self) -> None:
        """Training mode, but for the statistics of batch norm, which follow a task however slow the weights are."""
        super().train()
        for layer in self.learner.classifier.backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        settings = self.recipe.train
        return torch.optim.SGD(
            self.groups(self.learner),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def rate(self, step: int, n_steps: int) -> float:
        """Divided by 10 near the end."""
        settings = self.recipe.train
        return settings.learning_rate * (0.1 if step >= settings.decay_at * n_steps else 1.0)

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """CE(x) among the classes of the task."""
        own = torch.tensor(self.task.answers, device=labels.device)
        logits = self.learner.classify(self.learner.see(images), labels)[:, own]
        return {"ce": cross_entropy(logits, torch.searchsorted(own, labels))}

    def end_task(self, task: ClassTask) -> None:
        """Keep the Gaussians of the task's classes, then align the head."""
        self.learner.eval()
        features = self._features(task.train.images)
        for label in task.answers:
            own = features[task.train.labels.to(features.device) == label]
            if label < len(self.classes):
                self.classes[label] = self.classes[label].with_more(own)
            else:
                self.classes.append(ClassGaussian.of(own, task.number))
        if task.number:
            self._align(task)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        learner, backbone = self.learner, self.learner.classifier.backbone
        device = learner.mean.device
        parts = images.split(EVAL_BATCH)
        return torch.cat([backbone(learner.recognise(part.to(device))).float() for part in parts])

    def _align(self, task: ClassTask) -> None:
        """Train the head on samples of all classes: 256 of each per epoch, and as many steps as there are classes."""
        settings, head = self.recipe.alignment, self.learner.classifier.head
        train, groups = self.recipe.train, [one.task for one in self.classes]
        optimizer = torch.optim.SGD(
            head.parameters(),
            lr=settings.learning_rate,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
        )
        labels = torch.arange(len(self.classes), device=head.weight.device)
        labels = labels.repeat_interleave(settings.samples)
        for epoch in range(settings.epochs):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
            with torch.no_grad():
                samples = torch.cat(
                    [one.sample(settings.samples, self._scale(one, task)) for one in self.classes]
                )
            for rows in torch.randperm(len(samples)).to(labels.device).split(settings.samples):
                logits = head(samples[rows])[:, : len(self.classes)]
                if settings.temperature is not None:
                    logits = normalised(logits, groups) / settings.temperature
                optimizer.zero_grad()
                cross_entropy(logits, labels[rows]).backward()
                optimizer.step()

    def _scale(self, one: ClassGaussian, task: ClassTask) -> float:
        """What a class's mean is multiplied by: 1 for the newest (released code)."""
        return 1 - self.recipe.alignment.shrink * (1 - (one.task + 1) / (task.number + 1))

    def sizes(self) -> dict[str, int]:
        """Bytes of the Gaussians."""
        held = [one for each in self.classes for one in (each.mean, each.root)]
        return {"statistics_bytes": sum(one.numel() * one.element_size() for one in held)}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"classes": [vars(one) for one in self.classes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        device = self.learner.mean.device
        self.classes = [
            ClassGaussian(one["n"], one["mean"].to(device), one["root"].to(device), one["task"])
            for one in state["classes"]
        ]


def normalised(logits: Tensor, groups: Sequence[int]) -> Tensor:
    """Logits divided by their length, the mean of the lengths of each task's part.

    Args:
        logits: ``[B, K]``.
        groups: the task of each class.
    """
    tasks = torch.tensor(groups, device=logits.device)
    parts = [logits[:, tasks == one] for one in sorted(set(groups))]
    length = torch.stack([part.norm(dim=1) for part in parts]).mean(0)
    return logits / (length + 1e-7)[:, None]


def _root(rows: Tensor) -> Tensor:
    """R with R^T R = rows^T rows and no more rows than columns."""
    if len(rows) <= rows.shape[1]:
        return rows
    root: Tensor = torch.linalg.qr(rows, mode="r").R
    return root


create = Slca
