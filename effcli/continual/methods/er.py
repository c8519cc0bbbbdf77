"""Experience replay (Riemer et al., ICLR 2019): cross-entropy of new and of kept images.

As CLFD has it: docs/methods/clfd.md, Host losses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effcli.continual.methods.rehearsal import Rehearsal, Terms, cross_entropy
from effcli.continual.recipes.rehearsal import ErRecipe


class Er(Rehearsal):
    """ER.

    One pass through the network for new and kept images together averages the loss over both; two passes after each
    other add two losses and give each its own BatchNorm statistics.
    """

    recipe: ErRecipe

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """L = CE(x) + CE(m), or the mean over both."""
        x, learner = self.learner.see(images), self.learner
        if not len(self.buffer):
            return {"ce": cross_entropy(learner.classify(x, labels), labels)}
        kept = self.draw()
        m = learner.recall(kept.items)
        if self.passes == "joint":
            return {
                "ce": cross_entropy(learner.classify(torch.cat([x, m])), torch.cat([labels, kept.labels]))
            }
        return {
            "ce": cross_entropy(learner.classify(x, labels), labels),
            "replay": cross_entropy(learner.classify(m), kept.labels),
        }


create = Er
