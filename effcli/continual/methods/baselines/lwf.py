"""Learning without Forgetting (Li and Hoiem, ECCV 2016, arXiv 1606.09282), with one head for all classes.

The new images are all there is: what the old network says of them about the old classes is held.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.methods.baselines.old_network import OldNetwork, distillation
from effcli.continual.methods.rehearsal import IncrementalMethod, Terms, cross_entropy
from effcli.continual.recipes.baselines import LwfRecipe


class Lwf(IncrementalMethod):
    """LwF."""

    recipe: LwfRecipe

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
        """L = CE(x) among the task's classes + lambda tau^2 KL(old || new) among those of before."""
        x, first = self.learner.see(images), self.task.first_class
        logits = self.learner.classify(x, labels)
        terms = {"ce": cross_entropy(logits[:, first : self.task.end_class], labels - first)}
        if self.old.network is not None:
            held = distillation(logits[:, :first], self.old.logits(x)[:, :first])
            terms["distillation"] = self.recipe.distillation_weight * held
        return terms

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return self.old.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.old.load_state_dict(state)


create = Lwf
