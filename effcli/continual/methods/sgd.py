"""Fine-tuning on one task after another: what forgetting looks like when nothing is done about it."""

from __future__ import annotations

from torch import Tensor

from effcli.continual.methods.rehearsal import IncrementalMethod, Terms, cross_entropy


class Sgd(IncrementalMethod):
    """Cross-entropy of the new images alone; on all tasks at once it is the upper bound, joint training."""

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """L = CE(x)."""
        return {"ce": cross_entropy(self.learner.classify(self.learner.see(images), labels), labels)}


create = Sgd
