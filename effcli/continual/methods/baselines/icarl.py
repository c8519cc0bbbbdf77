"""iCaRL (Rebuffi et al., CVPR 2017, arXiv 1611.07725).

Exemplars chosen by herding, distillation, and the nearest mean of exemplars.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import EVAL_BATCH, Classifier
from effcli.continual.methods.baselines.old_network import OldNetwork
from effcli.continual.methods.ir import class_means, linear_layer
from effcli.continual.methods.rehearsal import IncrementalMethod, Terms
from effcli.continual.recipes.baselines import IcarlRecipe


class Icarl(IncrementalMethod):
    """iCaRL.

    Attributes:
        exemplars: of each class, the best first, uint8 ``[m, C, S, S]``.
    """

    recipe: IcarlRecipe

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.old = OldNetwork()
        self.exemplars: list[Tensor] = []
        self._answers: Classifier | None = None

    def enter_task(self, task: ClassTask) -> None:
        """Keep the network of before."""
        super().enter_task(task)
        self.old.take(self.learner.classifier, task)

    def networks(self) -> list[nn.Module]:
        """The old one too."""
        return [*super().networks(), *self.old.backbones()]

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """Algorithm 3: binary cross-entropy; old classes are to be what the old network said."""
        first, end = self.task.first_class, self.task.end_class
        x, y = self.learner.see(images), labels
        if self.old.network is not None:
            items, kept = self._kept()
            rows = torch.randperm(len(kept), device=kept.device)[: self.recipe.buffer.batch_size]
            x, y = torch.cat([x, self.learner.see(items[rows])]), torch.cat([labels, kept[rows]])
        target = F.one_hot(y, end).float()
        if self.old.network is not None:
            target[:, :first] = self.old.logits(x)[:, :first].sigmoid()
        logits = self.learner.classify(x)[:, :end].float()
        return {"bce": F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(y)}

    @torch.no_grad()
    def end_task(self, task: ClassTask) -> None:
        """Algorithms 4 and 5: fewer exemplars of each old class, and the new classes' by herding."""
        self.learner.eval()
        m = max(1, self.recipe.buffer.size // task.end_class)
        self.exemplars = [one[:m] for one in self.exemplars]
        images, labels = (
            part.to(self.learner.mean.device) for part in (task.train.images, task.train.labels)
        )
        for label in range(task.first_class, task.end_class):
            own = images[labels == label]
            self.exemplars.append(own[herded(self._features(own), m)].clone())
        self._answers = None

    @torch.no_grad()
    def exported(self) -> Classifier:
        """Features and the linear layer of the nearest mean of exemplars, whose length does not matter."""
        if self._answers is None or self.learner.training:
            items, labels = self._kept()
            means = F.normalize(class_means(self._features(items), labels, len(self.exemplars)), dim=1)
            network = Classifier(self.learner.classifier.backbone, len(means)).to(means.device)
            weight, bias = linear_layer(means, "cosine")
            network.head.weight.copy_(weight)
            network.head.bias.copy_(bias)
            self._answers = network.eval()
        return self._answers

    def scores(self, images: Tensor) -> Tensor:
        """The exported network's logits."""
        return self.learner.scores(images, self.exported())

    def _features(self, images: Tensor) -> Tensor:
        parts = images.split(EVAL_BATCH)
        backbone = self.learner.classifier.backbone
        return F.normalize(
            torch.cat([backbone(self.learner.recognise(part)).float() for part in parts]), dim=1
        )

    def _kept(self) -> tuple[Tensor, Tensor]:
        counts = torch.tensor([len(one) for one in self.exemplars], device=self.learner.mean.device)
        return torch.cat(self.exemplars), torch.arange(len(counts), device=counts.device).repeat_interleave(
            counts
        )

    def sizes(self) -> dict[str, int]:
        """The exemplars'."""
        return {"buffer_bytes": sum(one.numel() for one in self.exemplars)}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"exemplars": list(self.exemplars), **self.old.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.exemplars = [one.to(self.learner.mean.device) for one in state["exemplars"]]
        self.old.load_state_dict(state)
        self._answers = None


def herded(features: Tensor, m: int) -> Tensor:
    """Rows whose running mean stays nearest to the mean of all, in the order in which they are chosen (algorithm 4).

    Args:
        features: ``[N, D]``.
        m: how many, at most N.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    chosen: list[int] = []
    for k in range(min(m, len(features))):
        distance = (mean - (total + features) / (k + 1)).norm(dim=1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total = total + features[chosen[-1]]
    return torch.tensor(chosen, device=features.device)


create = Icarl
