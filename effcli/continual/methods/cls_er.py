"""CLS-ER (Arani et al., ICLR 2022): ER held near two averages of itself, a slow and a fast one."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.learner import Classifier
from effcli.continual.methods.rehearsal import Rehearsal, Terms, cross_entropy
from effcli.continual.recipes.rehearsal import ClsErRecipe


class ClsEr(Rehearsal):
    """CLS-ER; what is evaluated is the stable model.

    Released code averages parameters alone; here the averages follow BatchNorm's statistics too, and use them.
    """

    recipe: ClsErRecipe

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stable = _frozen_copy(self.learner.classifier)
        self.plastic = _frozen_copy(self.learner.classifier)
        self.n_steps = 0

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """L = CE(x) + CE(m), or the mean over both, + reg MSE(logits(m), logits of the averages)."""
        x, learner = self.learner.see(images), self.learner
        if not len(self.buffer):
            return {"ce": cross_entropy(learner.classify(x, labels), labels)}
        kept = self.draw()
        m = learner.recall(kept.items)
        old = learner.classify(m)
        terms = {"ema": self.recipe.regularisation * F.mse_loss(old.float(), self.remembered(m, kept.labels))}
        if self.passes == "joint":
            both = learner.classify(torch.cat([x, m]))
            return {**terms, "ce": cross_entropy(both, torch.cat([labels, kept.labels]))}
        return {
            **terms,
            "ce": cross_entropy(learner.classify(x, labels), labels),
            "replay": cross_entropy(old, kept.labels),
        }

    @torch.no_grad()
    def remembered(self, m: Tensor, labels: Tensor) -> Tensor:
        """For each image the logits of the average that is surer of its class, ``[B, n_classes]``."""
        stable, plastic = (
            self.learner.classify(m, network=model).float() for model in (self.stable, self.plastic)
        )
        row = torch.arange(len(labels), device=labels.device)
        stable_is_surer = stable.softmax(1)[row, labels] > plastic.softmax(1)[row, labels]
        return torch.where(stable_is_surer[:, None], stable, plastic)

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Keep images, and move each average with its probability."""
        super().after_step(images, labels)
        self.n_steps += 1
        decay = min(1 - 1 / (self.n_steps + 1), self.recipe.decay)
        for model, rate in ((self.plastic, self.recipe.plastic_rate), (self.stable, self.recipe.stable_rate)):
            if float(torch.rand(())) < rate:
                _move(model, self.learner.classifier, decay)

    def networks(self) -> list[nn.Module]:
        """The averages' too."""
        return [*super().networks(), self.stable.backbone, self.plastic.backbone]

    def scores(self, images: Tensor) -> Tensor:
        """The stable model's logits."""
        return self.learner.scores(images, self.stable)

    def exported(self) -> Classifier:
        """The stable model."""
        return self.stable

    def grow(self, n_new: int) -> None:
        """More classes for the averages too: they start with the network's."""
        super().grow(n_new)
        for model in (self.stable, self.plastic):
            model.grow(n_new)
            with torch.no_grad():
                model.head.weight[-n_new:] = self.learner.classifier.head.weight[-n_new:]
                model.head.bias[-n_new:] = self.learner.classifier.head.bias[-n_new:]
            model.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        models = {"stable": self.stable.state_dict(), "plastic": self.plastic.state_dict()}
        return {**super().state_dict(), **models, "n_steps": self.n_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        super().load_state_dict(state)
        self.stable.load_state_dict(state["stable"])
        self.plastic.load_state_dict(state["plastic"])
        self.n_steps = int(state["n_steps"])


create = ClsEr


def _frozen_copy(network: Classifier) -> Classifier:
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def _move(average: Classifier, network: Classifier, decay: float) -> None:
    for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
