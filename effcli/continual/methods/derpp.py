"""Dark experience replay++ (Buzzega et al., NeurIPS 2020): kept images, their labels, and the logits they once had."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from effcli.continual.methods.rehearsal import Rehearsal, Terms, cross_entropy
from effcli.continual.recipes.rehearsal import DerppRecipe


class Derpp(Rehearsal):
    """DER++: three passes, as the two draws from the buffer are independent."""

    recipe: DerppRecipe
    keeps_logits = True

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """L = CE(x) + alpha MSE(logits(m1), kept logits) + beta CE(m2)."""
        return self.loss_of_seen(self.learner.see(images), labels)

    def loss_of_seen(self, x: Tensor, labels: Tensor) -> Terms:
        """The loss of new images as the network takes them."""
        learner = self.learner
        self.logits = learner.classify(x, labels)
        terms = {"ce": cross_entropy(self.logits, labels)}
        if len(self.buffer):
            m1, m2 = self.draw(), self.draw()
            assert m1.logits is not None
            then = F.mse_loss(learner.classify(learner.recall(m1.items)).float(), m1.logits)
            terms["logits"] = self.recipe.alpha * then
            terms["replay"] = self.recipe.beta * cross_entropy(
                learner.classify(learner.recall(m2.items)), m2.labels
            )
        return terms


create = Derpp
