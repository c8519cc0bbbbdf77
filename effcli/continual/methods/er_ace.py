"""ER with asymmetric cross-entropy (Caccia et al., ICLR 2022): new images do not push old classes away."""

from __future__ import annotations

import torch
from torch import Tensor

from effcli.continual.methods.rehearsal import Rehearsal, Terms, cross_entropy
from effcli.continual.recipes.rehearsal import ErAceRecipe


class ErAce(Rehearsal):
    """ER-ACE with a linear head, as in CLFD."""

    recipe: ErAceRecipe

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """From the second task on CE(x) over the classes of the batch and those not seen yet, + CE(m)."""
        learner = self.learner
        logits = learner.classify(learner.see(images), labels)
        if self.task.number == 0:
            return {"ce": cross_entropy(logits, labels)}
        kept = self.draw()
        return {
            "ce": cross_entropy(self.without_old(logits, labels), labels),
            "replay": cross_entropy(learner.classify(learner.recall(kept.items)), kept.labels),
        }

    def without_old(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Minus infinity for the classes seen before that are not in the batch."""
        classes = torch.arange(logits.shape[1], device=logits.device)
        is_old = (classes < self.task.end_class) & ~torch.isin(classes, labels)
        return logits.masked_fill(is_old, -torch.inf)


create = ErAce
