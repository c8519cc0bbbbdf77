"""E2Net (Liu et al., arXiv 2309.16117, 2023): DER++ that lets a small part of the network remember the whole.

Before each task but the first the subnet that behaves most like the network is looked for and copied. On new images the
same subnet of the network stays near the copy (representative network distillation), and the larger it is, the fewer
batches of new images are offered to the buffer (subnet constraint experience replay). The first task is DER++'s.

The body of the paper was not available to us: everything here follows the released code, with its flaws mended where
the recipe does not ask for them.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import Classifier
from effcli.continual.methods.derpp import Derpp
from effcli.continual.methods.rehearsal import Terms
from effcli.continual.methods.subnets import (
    Subnet,
    copy_subnet,
    draw_subnets,
    n_parameters,
    open_ratios,
    run_subnet,
    sort_middles,
    widths_of,
)
from effcli.continual.recipes.e2net import E2NetRecipe
from effcli.nn.resnet import ResNet18, Widths

NOISE_IMAGES = 32


@dataclass(frozen=True)
class Candidate:
    """A subnet that was looked at.

    Attributes:
        subnet: which.
        widths: its channel counts.
        share: occ, of the network's parameters.
        score: the lower, the more it behaves like the network.
    """

    subnet: Subnet
    widths: Widths
    share: float
    score: float


class E2Net(Derpp):
    """E2Net.

    Attributes:
        chosen: the representative subnet k_t, from the second task on.
        teacher: G_t, its frozen copy.
    """

    recipe: E2NetRecipe  # type: ignore[assignment]
    chosen: Candidate | None = None
    teacher: Classifier | None = None

    @property
    def share(self) -> float:
        """occ_t: of the parameters in the representative subnet; 0 in the first task."""
        return 0.0 if self.chosen is None else self.chosen.share

    def begin_task(self, task: ClassTask, n_tasks: int) -> None:
        """Look for the representative subnet, and copy it."""
        settings = self.recipe.subnets
        if task.number == 0 or not (settings.distillation or settings.gate):
            return
        n_open = open_ratios(len(settings.ratios), n_tasks, settings.growth)[task.number - 1]
        shape = task.train.images.shape[1:]
        noise = torch.randn(NOISE_IMAGES, *shape, device=self.learner.mean.device)
        sort_middles(self.learner.classifier)
        self.chosen = self.look(noise, n_open, np.random.default_rng(random.getrandbits(64))) or self.chosen
        if self.chosen is not None:
            self.teacher = copy_subnet(self.learner.classifier, self.chosen.widths)

    @torch.no_grad()
    def look(self, noise: Tensor, n_open: int, random: np.random.Generator) -> Candidate | None:
        """The subnet whose logits on noise are nearest to the network's, among those that are not too large."""
        network, settings = self.learner.classifier, self.recipe.subnets
        full = network.backbone.widths
        sizes = (network.backbone.conv.in_channels, network.head.out_features)
        whole = n_parameters(full, *sizes)
        wanted = run_subnet(network, full, noise, "batch")
        found = []
        before = None if self.chosen is None else self.chosen.subnet
        for subnet in draw_subnets(settings.candidates, n_open, full, before, random):
            widths = widths_of(subnet, full, settings.ratios)
            share = round(n_parameters(widths, *sizes) / whole, 3)
            distance = float(F.mse_loss(run_subnet(network, widths, noise, "batch"), wanted))
            found.append(
                Candidate(subnet, widths, share, distance * (math.exp(-share) if settings.size_bonus else 1))
            )
        best = sorted(found, key=lambda one: one.score)[: settings.shortlist]
        return next(
            (one for one in best if n_parameters(one.widths, *sizes) < settings.most_parameters * whole), None
        )

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """DER++'s, + distillation MSE(logits of the subnet(x), logits of its copy(x))."""
        x = self.learner.see(images)
        terms = dict(self.loss_of_seen(x, labels))
        weight = self.recipe.subnets.distillation
        if self.teacher is not None and self.chosen is not None and weight:
            statistics = "batch" if self.recipe.subnets.statistics == "kept" else "updated"
            ours = run_subnet(self.learner.classifier, self.chosen.widths, x, statistics)  # type: ignore[arg-type]
            with torch.no_grad():
                theirs = run_subnet(self.teacher, self.chosen.widths, x, "batch")
            terms["distillation"] = weight * F.mse_loss(ours.float(), theirs.float())
        return terms

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Offer the whole batch with probability q = exp(-gate occ), or nothing of it."""
        if random.random() < math.exp(-self.recipe.subnets.gate * self.share):
            super().after_step(images, labels)

    def report(self) -> dict[str, Any]:
        """The representative subnet."""
        if self.chosen is None:
            return {}
        return {
            "subnet_share": self.chosen.share,
            "subnet_score": self.chosen.score,
            "subnet_outs": list(self.chosen.widths.outs),
            "subnet_mids": list(self.chosen.widths.mids),
        }

    def sizes(self) -> dict[str, int]:
        """The buffer's, and the copy's."""
        weights = [] if self.teacher is None else self.teacher.state_dict().values()
        return {**super().sizes(), "teacher_bytes": sum(one.numel() * one.element_size() for one in weights)}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        state = super().state_dict()
        if self.chosen is not None and self.teacher is not None:
            state |= {"chosen": asdict(self.chosen), "teacher": self.teacher.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        super().load_state_dict(state)
        if "chosen" not in state:
            return
        saved = dict(state["chosen"])
        subnet, widths = Subnet(**_tuples(saved.pop("subnet"))), Widths(**_tuples(saved.pop("widths")))
        self.chosen = Candidate(subnet, widths, **saved)
        weights = state["teacher"]
        network = self.learner.classifier
        copy = Classifier(ResNet18(widths, network.backbone.conv.in_channels), len(weights["head.bias"]))
        copy.load_state_dict(weights)
        self.teacher = copy.to(network.head.weight.device).requires_grad_(False)


def _tuples(lists: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(values) for name, values in lists.items()}


create = E2Net
