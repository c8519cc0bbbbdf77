"""IR (Huang et al., Exemplar-Free Class Incremental Learning via Incremental Representation, arXiv 2403.16221, 2024).

No image is kept. The first task's features are learned from more classes than there are; later ones are held near the
old ones (space maintenance). Each task's classifier is thrown away, and images belong to the class of the nearest
prototype, the mean feature of its training images.

The body of the paper was not available to us: reductions, weights and schedule are those of PASS and IL2A, which train
in the same way, and are keys of the recipe.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import EVAL_BATCH, Classifier
from effcli.continual.methods.enlargement import enlarged, n_outputs
from effcli.continual.methods.rehearsal import IncrementalMethod, Terms, cross_entropy
from effcli.continual.recipes.prototypes import PrototypeRecipe
from effcli.nn.resnet import ResNet18

_DISTANCE_EPS = 1e-12
"""Below the square root of a distance, whose gradient is infinite at 0."""


class Ir(IncrementalMethod):
    """IR.

    Attributes:
        prototypes: mu, of each class seen so far, ``[K, D]``.
        head: g_t, the classifier of this task's enlarged classes; not kept.
        old: f_{t-1}, the frozen features of before, from the second task on.
        drift: how far features moved in the last task, as a share of their length.
    """

    recipe: PrototypeRecipe
    head: nn.Linear
    old: ResNet18 | None = None
    drift: float | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.prototypes = torch.zeros(0, self.backbone.dim, device=self.learner.mean.device)

    @property
    def backbone(self) -> ResNet18:
        """f_t."""
        found: ResNet18 = self.learner.classifier.backbone
        return found

    # --- training -------------------------------------------------------------------------------------

    def enter_task(self, task: ClassTask) -> None:
        """A new classifier for this task's classes alone, and a frozen copy of the features."""
        super().enter_task(task)
        n_out = n_outputs(self.recipe.ir.enlarge, len(task.answers))
        self.head = nn.Linear(self.backbone.dim, n_out, device=self.learner.mean.device)
        if task.number:
            self.old = copy.deepcopy(self.backbone).requires_grad_(False).eval()

    def train(self) -> None:
        """Training mode; BatchNorm's statistics may stay as the first task left them."""
        super().train()
        if self.recipe.ir.freeze_statistics and self.task.number:
            for layer in self.backbone.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam for features and classifier."""
        settings = self.recipe.train
        weights = self.groups(self.backbone, self.head)
        return torch.optim.Adam(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def networks(self) -> list[nn.Module]:
        """The old features too."""
        return [self.backbone, *([] if self.old is None else [self.old])]

    def rate(self, step: int, n_steps: int) -> float:
        """Divided by 10 after each ``decay_every`` of the steps."""
        settings = self.recipe.train
        return settings.learning_rate * 0.1 ** int(step / (settings.decay_every * n_steps))

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """L = CE(g_t(f_t(x)) / tau, y) + lambda L_sm, the second from the second task on."""
        settings = self.recipe.ir
        own = torch.tensor(self.task.answers, device=labels.device)
        x, y = enlarged(self.learner.see(images), torch.searchsorted(own, labels), len(own), settings.enlarge)
        features = self.backbone(x)
        terms = {"ce": cross_entropy(self.head(features) / settings.temperature, y)}
        if self.old is not None and settings.space_weight:
            with torch.no_grad():
                old = self.old(x)
            terms["space"] = settings.space_weight * space_distance(
                features.float(), old.float(), settings.reduction
            )
        return terms

    # --- prototypes -----------------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, task: ClassTask) -> None:
        """Prototypes of the new classes; those of earlier ones stay, or follow the features.

        Those of known classes that the task has more images of become the mean over all their images.
        """
        self.learner.eval()
        features = self._features(self.backbone, task)
        if self.old is not None:
            before = self._features(self.old, task)
            moved = features - before
            self.drift = float(moved.norm(dim=1).mean() / before.norm(dim=1).mean())
            if self.recipe.ir.prototypes == "sdc":
                self.prototypes = compensated(self.prototypes, before, moved, self.recipe.ir.sdc_width)
        labels = task.train.labels.to(features.device)
        own = torch.tensor(task.answers, device=labels.device)
        means = class_means(features, torch.searchsorted(own, labels), len(own))
        n_known = len(own) - len(task.classes)
        for label, mean in zip(task.answers[:n_known], means[:n_known], strict=True):
            n_new = int((labels == label).sum())
            self.prototypes[label].lerp_(mean, n_new / (n_new + task.n_before[label]))
        self.prototypes = torch.cat([self.prototypes, means[n_known:]])

    def _features(self, backbone: ResNet18, task: ClassTask) -> Tensor:
        device = self.learner.mean.device
        parts = task.train.images.split(EVAL_BATCH)
        return torch.cat([backbone(self.learner.recognise(part.to(device))).float() for part in parts])

    def exported(self) -> Classifier:
        """Features and a linear layer whose largest logit is that of the nearest prototype."""
        network = Classifier(self.backbone, len(self.prototypes)).to(self.prototypes.device)
        weight, bias = linear_layer(self.prototypes, self.recipe.ir.distance)
        with torch.no_grad():
            network.head.weight.copy_(weight)
            network.head.bias.copy_(bias)
        return network.eval()

    def scores(self, images: Tensor) -> Tensor:
        """The exported network's logits."""
        return self.learner.scores(images, self.exported())

    def report(self) -> dict[str, Any]:
        """How far the features moved: what makes old prototypes stale."""
        return {} if self.drift is None else {"drift": self.drift}

    def sizes(self) -> dict[str, int]:
        """A vector a class."""
        return {"prototype_bytes": self.prototypes.numel() * self.prototypes.element_size()}

    def grow(self, n_new: int) -> None:
        """Nothing: prototypes come one by one."""

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        old = {} if self.old is None else {"old": self.old.state_dict()}
        return {"prototypes": self.prototypes, "head": self.head.state_dict(), **old}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.prototypes = state["prototypes"].to(self.learner.mean.device)
        self.head.load_state_dict(state["head"])
        if self.old is not None:
            self.old.load_state_dict(state["old"])


def space_distance(features: Tensor, old: Tensor, reduction: str) -> Tensor:
    """L_sm: one Euclidean norm over the whole batch (``batch``), or the mean of each row's (``mean``)."""
    squared = (features - old).square()
    if reduction == "batch":
        return (squared.sum() + _DISTANCE_EPS).sqrt()
    return (squared.sum(1) + _DISTANCE_EPS).sqrt().mean()


def class_means(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """mu: the mean feature of each class, ``[n_classes, D]``."""
    sums = features.new_zeros(n_classes, features.shape[1]).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=n_classes)[:, None]


def linear_layer(prototypes: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """Weight and bias whose largest logit is that of the nearest prototype.

    Of |f - mu|^2 = |f|^2 - 2 (mu f - |mu|^2 / 2) only the bracket depends on the class; of cosines |f| does not matter.
    """
    if distance == "cosine":
        return F.normalize(prototypes, dim=1), prototypes.new_zeros(len(prototypes))
    return prototypes, -prototypes.square().sum(1) / 2


def compensated(prototypes: Tensor, before: Tensor, moved: Tensor, width: float) -> Tensor:
    """Shift prototypes by the drift of near features (Yu et al., Semantic Drift Compensation, CVPR 2020).

    Args:
        prototypes: ``[K, D]``.
        before: features of the new images before the task, ``[N, D]``.
        moved: how far each of them moved, ``[N, D]``.
        width: of the Gaussian neighbourhood, in mean lengths of ``before``.
    """
    sigma = width * before.norm(dim=1).mean()
    weights = torch.softmax(-torch.cdist(prototypes, before).square() / (2 * sigma**2), 1)
    return prototypes + weights @ moved


create = Ir
