"""WA (Zhao et al., Maintaining Discrimination and Fairness in Class Incremental Learning, CVPR 2020, arXiv 1911.07053).

Replay and distillation; after each task the head's weights of the new classes are scaled to the mean length of the old
ones, as they come out longer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.methods.baselines.old_network import OldNetwork, distillation
from effcli.continual.methods.rehearsal import Rehearsal, Terms, cross_entropy
from effcli.continual.recipes.baselines import WaRecipe


class Wa(Rehearsal):
    """WA."""

    recipe: WaRecipe

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.old = OldNetwork()

    def enter_task(self, task: ClassTask) -> None:
        """Keep the network of before."""
        super().enter_task(task)
        self.old.take(self.learner.classifier, task)

    def networks(self) -> list[nn.Module]:
        """The old one too."""
        return [*super().networks(), *self.old.backbones()]

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """L = (1 - lambda) CE + lambda tau^2 KL(old || new) of new and kept images, lambda the share of old classes."""
        learner, first, end = self.learner, self.task.first_class, self.task.end_class
        x, y = learner.see(images), labels
        if self.old.network is None:
            return {"ce": cross_entropy(learner.classify(x, labels), labels)}
        kept = self.draw()
        x, y = torch.cat([x, learner.recall(kept.items)]), torch.cat([labels, kept.labels])
        logits = learner.classify(x)[:, :end]
        held = distillation(logits[:, :first], self.old.logits(x)[:, :first])
        return {"ce": (1 - first / end) * cross_entropy(logits, y), "distillation": first / end * held}

    @torch.no_grad()
    def end_task(self, task: ClassTask) -> None:
        """Scale the weights of the new classes by mean(|w_old|) / mean(|w_new|)."""
        if task.number:
            weight = self.learner.classifier.head.weight
            lengths = weight.norm(dim=1)
            first, end = task.first_class, task.end_class
            weight[first:end] *= lengths[:first].mean() / lengths[first:end].mean()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {**super().state_dict(), **self.old.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        super().load_state_dict(state)
        self.old.load_state_dict(state)


create = Wa
