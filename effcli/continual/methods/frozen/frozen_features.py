"""What the methods on a frozen backbone share: sums over the features of images, to which further images are added.

Nothing is trained by gradients and no image is kept. Sums do not know the order in which they were made, so neither the
order of the tasks nor their sizes change what is learned, and more images of a known class are simply more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from effcli.continual.backbones import Backbone
from effcli.continual.class_splits import ClassTask
from effcli.continual.kept_features import KeptFeatures, features_file
from effcli.continual.learner import Classifier
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.recipes.features import FrozenFeaturesRecipe
from effcli.core.run import Run


class FrozenFeatures(IncrementalMethod):
    """A method that adds up features.

    Attributes:
        sums: by name, of the classes seen so far.
    """

    recipe: FrozenFeaturesRecipe
    learner_is_fixed: ClassVar[bool] = True
    sums: dict[str, Tensor]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        backbone = self.learner.classifier.backbone
        assert isinstance(backbone, Backbone)
        self.backbone = backbone
        self.device = self.learner.mean.device
        about = backbone.about
        own = [repr(one) for one in (about.resnet, about.adapters) if one is not None]
        file = features_file(self.recipe.network.features, backbone, repr(about), *own)
        self.kept = KeptFeatures(file, backbone.dim, self._compute)
        self.sums = self.empty()
        self._answers: Classifier | None = None

    # --- what a method adds ---------------------------------------------------------------------------

    def empty(self) -> dict[str, Tensor]:
        """The sums before the first image."""
        raise NotImplementedError

    def add(self, features: Tensor, labels: Tensor, n_classes: int) -> None:
        """Add images to the sums: features ``[N, D]``, labels ``[N]`` below ``n_classes``."""
        raise NotImplementedError

    def head(self) -> tuple[Tensor, Tensor]:
        """Weight ``[K, D']`` and bias ``[K]`` of the linear layer that the sums give."""
        raise NotImplementedError

    # --- the stream -----------------------------------------------------------------------------------

    def prepare(self, images: Sequence[Tensor], run: Run) -> None:
        """Compute the features that are not kept yet."""
        for part in images:
            self.kept.of(part, run)

    def train(self) -> None:
        """Nothing: the backbone stays in evaluation mode."""

    @torch.no_grad()
    def end_task(self, task: ClassTask) -> None:
        """Add the task's images."""
        features = self.kept.of(task.train.images).to(self.device)
        self.add(features, task.train.labels.to(self.device), task.end_class)
        self._answers = None

    def exported(self) -> Classifier:
        """Backbone and the linear layer of now."""
        if self._answers is None:
            weight, bias = self.head()
            projection = self.learner.classifier.projection
            network = Classifier(self.backbone, len(bias), None if projection is None else weight.shape[1])
            network.to(self.device)
            if projection is not None:
                network.projection = projection
            with torch.no_grad():
                network.head.weight.copy_(weight)
                network.head.bias.copy_(bias)
            self._answers = network.eval()
        return self._answers

    def scores(self, images: Tensor) -> Tensor:
        """The exported network's logits, from kept features where there are any."""
        with torch.autocast(images.device.type, enabled=False):
            return self.exported().name(self.kept.of(images.cpu()).to(self.device))

    @torch.no_grad()
    def _compute(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            found: Tensor = self.backbone(_channels_last(self.learner.recognise(images.to(self.device))))
        return found

    # --- frame ----------------------------------------------------------------------------------------

    def grow(self, n_new: int) -> None:
        """Nothing: sums grow when images are added."""

    def sizes(self) -> dict[str, int]:
        """Bytes of the sums."""
        return {"statistics_bytes": sum(one.numel() * one.element_size() for one in self.sums.values())}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self._answers = None


def _channels_last(images: Tensor) -> Tensor:
    """In the order that depthwise convolutions are fastest in, on CPUs by half."""
    return images.contiguous(memory_format=torch.channels_last)


def with_added(sums: Tensor, more: Tensor) -> Tensor:
    """The sum of two, of which the one with fewer classes has zeros for the others, ``[K, ...]``."""
    n_classes = max(len(sums), len(more))
    return grown(sums, n_classes) + grown(more, n_classes)


def one_hot_sums(values: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """The sum of the rows of each class, ``[n_classes, D]``."""
    return values.new_zeros(n_classes, values.shape[1]).index_add_(0, labels, values)


def grown(sums: Tensor, n_classes: int) -> Tensor:
    """``[K, ...]`` with zeros for further classes, ``[n_classes, ...]``; as it is if it has as many."""
    if len(sums) >= n_classes:
        return sums
    return torch.cat([sums, sums.new_zeros(n_classes - len(sums), *sums.shape[1:])])
