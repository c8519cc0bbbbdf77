"""The nearest class mean in the features of a frozen, trained backbone (docs/methods/ranpac.md, Class means).

The plainest classifier that forgets nothing, and hard to beat where the backbone knows the kind of images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effcli.continual.methods.frozen.frozen_features import FrozenFeatures, one_hot_sums, with_added
from effcli.continual.methods.ir import linear_layer
from effcli.continual.recipes.features import NcmRecipe

_SHARPNESS = 20.0
"""Logits are cosines times this, so that their softmax says something."""


class Ncm(FrozenFeatures):
    """Sums and counts of each class."""

    recipe: NcmRecipe

    def empty(self) -> dict[str, Tensor]:
        """No class."""
        return {
            "features": torch.zeros(0, self.backbone.dim, device=self.device),
            "counts": torch.zeros(0, device=self.device),
        }

    def add(self, features: Tensor, labels: Tensor, n_classes: int) -> None:
        """Add to both."""
        counts = torch.bincount(labels, minlength=n_classes)
        self.sums = {
            "features": with_added(self.sums["features"], one_hot_sums(features, labels, n_classes)),
            "counts": with_added(self.sums["counts"], counts),
        }

    def head(self) -> tuple[Tensor, Tensor]:
        """Whose largest logit is that of the nearest mean."""
        means = self.sums["features"] / self.sums["counts"].clamp(min=1)[:, None]
        weight, bias = linear_layer(means, self.recipe.distance)
        return (weight * _SHARPNESS, bias) if self.recipe.distance == "cosine" else (weight, bias)


create = Ncm
