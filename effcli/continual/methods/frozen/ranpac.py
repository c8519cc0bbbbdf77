"""RanPAC (McDonnell et al., NeurIPS 2023, arXiv 2307.02251): random features and ridge regression.

docs/methods/ranpac.md. The features f of a frozen backbone go through a fixed random matrix and a ReLU, h = relu(f P).
Of all images two sums are kept, G = H^T H and C = H^T Y, and the classifier is that of ridge regression,
W = (G + lambda I)^-1 C: after each task exactly what the images of all tasks together would have given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effcli.continual.methods.frozen.frozen_features import FrozenFeatures, one_hot_sums, with_added
from effcli.continual.recipes.features import RanpacRecipe


class Ranpac(FrozenFeatures):
    """Ridge regression on random features of frozen ones."""

    recipe: RanpacRecipe

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.learner.classifier.projection is not None:
            self.learner.classifier.projection.draw(self.recipe.seed)

    def empty(self) -> dict[str, Tensor]:
        """G ``[M, M]`` and C^T ``[K, M]``."""
        n = self.learner.classifier.head.in_features
        return {
            "gram": torch.zeros(n, n, device=self.device),
            "products": torch.zeros(0, n, device=self.device),
        }

    def add(self, features: Tensor, labels: Tensor, n_classes: int) -> None:
        """Add to both."""
        projection = self.learner.classifier.projection
        h = features if projection is None else projection(features)
        self.sums = {
            "gram": self.sums["gram"].addmm(h.T, h),
            "products": with_added(self.sums["products"], one_hot_sums(h, labels, n_classes)),
        }

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: of G, which is symmetric, a half."""
        gram = self.sums["gram"]
        return {"sums": {**self.sums, "gram": gram[torch.ones_like(gram, dtype=torch.bool).triu()]}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        gram = self.empty()["gram"]
        gram[torch.ones_like(gram, dtype=torch.bool).triu()] = state["sums"]["gram"].to(gram.device)
        gram = gram.triu() + gram.triu(1).T
        super().load_state_dict({"sums": {**state["sums"], "gram": gram}})

    def head(self) -> tuple[Tensor, Tensor]:
        """W of the ridge regression; no bias."""
        gram, products = self.sums["gram"], self.sums["products"]
        strength = self.recipe.projection.ridge * gram.diagonal().mean()
        factor = torch.linalg.cholesky(gram + strength * torch.eye(len(gram), device=gram.device))
        weight = torch.cholesky_solve(products.T, factor).T
        return weight, weight.new_zeros(len(weight))


create = Ranpac
