"""A network with one head for all classes, and how it sees the images of the stream: as pixels.

:class:`~effcli.continual.methods.clfd.FrequencyLearner` is the other way of seeing; methods do not know which
one they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effcli.continual.augmentation import random_crop_flip
from effcli.continual.backbones import Backbone
from effcli.continual.class_splits import ClassTask
from effcli.continual.recipe import ImageAugmentSection
from effcli.nn.resnet import ResNet18

EVAL_BATCH = 256


class RandomProjection(nn.Module):
    """relu(x P / sqrt(D)) with fixed random signs P, ``[D, M]``: RanPAC's features.

    Args:
        dim, n: D and M.
    """

    signs: Tensor

    def __init__(self, dim: int, n: int) -> None:
        super().__init__()
        self.register_buffer("signs", torch.empty(dim, n, dtype=torch.int8))

    @torch.no_grad()
    def draw(self, seed: int) -> None:
        """New signs from a seed."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(2, self.signs.shape, generator=generator, dtype=torch.int8)
        self.signs.copy_(2 * drawn - 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, M]``."""
        return torch.relu(x @ (self.signs.to(x.dtype) / len(self.signs) ** 0.5))


class Classifier(nn.Module):
    """Features and the linear layer that names their class.

    Args:
        backbone: gives ``[B, D]``.
        n_classes: of the head.
        n_projected: random features between the two, M; None for none.
    """

    def __init__(self, backbone: ResNet18 | Backbone, n_classes: int, n_projected: int | None = None) -> None:
        super().__init__()
        self.backbone: Any = backbone  # a Backbone is frozen, or trained further
        self.projection = None if n_projected is None else RandomProjection(backbone.dim, n_projected)
        self.head = nn.Linear(n_projected or backbone.dim, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, n_classes]``."""
        return self.name(self.backbone(x))

    def name(self, features: Tensor) -> Tensor:
        """The same from the features of the backbone."""
        out: Tensor = self.head(features if self.projection is None else self.projection(features))
        return out

    def grow(self, n_new: int) -> None:
        """Give the head ``n_new`` more classes; those that are there keep their weights."""
        old = self.head
        self.head = nn.Linear(old.in_features, old.out_features + n_new, device=old.weight.device)
        with torch.no_grad():
            self.head.weight[: old.out_features] = old.weight
            self.head.bias[: old.out_features] = old.bias


class Learner(nn.Module):
    """What a method trains.

    Args:
        classifier: the network.
        mean, std: of each channel of the images, 0..1.
        augment: what happens to training images.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classifier: Classifier,
        mean: Sequence[float],
        std: Sequence[float],
        augment: ImageAugmentSection,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.augment = augment
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    # --- how images are seen --------------------------------------------------------------------------

    def see(self, images: Tensor) -> Tensor:
        """New images, uint8 ``[B, C, S, S]``, augmented, as the network takes them."""
        return self.normalised(self.augmented(images))

    def recall(self, items: Tensor) -> Tensor:
        """What :meth:`keep` made, augmented, as the network takes it."""
        return self.see(items)

    def keep(self, images: Tensor) -> Tensor:
        """What a buffer keeps of images."""
        return images

    def recognise(self, images: Tensor) -> Tensor:
        """Images as they are, as the network takes them."""
        return self.normalised(images)

    def augmented(self, images: Tensor) -> Tensor:
        """uint8 images, cropped and mirrored at random; and brighter or darker."""
        settings = self.augment
        images = random_crop_flip(images, settings.pad, flip=settings.flip)
        if not settings.brightness:
            return images
        factors = torch.empty(len(images), 1, 1, 1, device=images.device)
        factors.uniform_(1 - settings.brightness, 1 + settings.brightness)
        return (images * factors).clamp_(0, 255)

    def normalised(self, images: Tensor) -> Tensor:
        """0..255 as floats with mean 0 and deviation 1."""
        return (images.float() / 255 - self.mean) / self.std

    # --- how they are classified ----------------------------------------------------------------------

    def classify(self, x: Tensor, labels: Tensor | None = None, network: Classifier | None = None) -> Tensor:
        """Logits ``[B, n_classes]``.

        Args:
            x: what the network takes.
            labels: of new images; a learner may treat these in a way of their class's own. None for all others.
            network: this one instead of the learner's, such as an average of it.
        """
        out: Tensor = (network or self.classifier)(x)
        return out

    @torch.no_grad()
    def scores(self, images: Tensor, network: Classifier | None = None) -> Tensor:
        """Logits of images, for evaluation."""
        parts = images.split(EVAL_BATCH)
        return torch.cat([self.classify(self.recognise(part), network=network).float() for part in parts])

    # --- the course of the training -------------------------------------------------------------------

    def begin_task(self, task: ClassTask, n_epochs: int) -> None:
        """Before the first epoch of a task."""

    def begin_epoch(self, task: ClassTask, epoch: int, n_epochs: int) -> None:
        """Before epoch ``epoch``, counted from 1."""

    def end_epoch(self, task: ClassTask, epoch: int, n_epochs: int) -> None:
        """After it."""

    def grow(self, n_new: int) -> None:
        """Make room for ``n_new`` more classes."""
        self.classifier.grow(n_new)
