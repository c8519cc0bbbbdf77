"""RDD, relational diffusion distillation: RCFD, and how the pixels of feature maps relate to each other.

Feng et al., "Relational Diffusion Distillation for Efficient Image Generation", ACM Multimedia 2024. IS_P2P relates the
pixels of a batch, M_P2P relates them to a queue of the target's pixels of earlier batches: docs/methods/rdd.md,
Relation losses and Pixel queue. The losses themselves are in `losses.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.diffusion.conditioning import Guided
from effcli.distill import progressive
from effcli.distill.feature_networks import FeatureNetwork
from effcli.distill.losses import memory_relation_loss, pair_relation_loss, pixels_of
from effcli.distill.progressive import TeacherInputs
from effcli.distill.rcfd import FeatureLoss, load_features
from effcli.distill.recipe import RddRecipe, RelationSection
from effcli.nn.gathering import gather_rows
from effcli.nn.relations import relation_distillation


def plan(recipe: RddRecipe) -> Plan[TeacherInputs]:
    """Teacher, images and feature network, and what :func:`distill` would do with them."""
    return progressive.plan(recipe, lambda teacher: load_features(recipe, teacher))


def distill(recipe: RddRecipe, inputs: TeacherInputs, run: Run) -> Result:
    """Rounds with the pixel loss, the last ones with CFD, IS_P2P and M_P2P."""
    teacher, _, features = inputs.to(run.runtime.device)
    assert features is not None
    return progressive.distill(
        recipe, inputs, run, lambda: RelationLoss(recipe, features, teacher.guided, run.runtime)
    )


class RelationLoss(FeatureLoss):
    """CFD + IS_P2P + M_P2P; the relations are those of the images of all ranks.

    Args:
        recipe: weights and settings.
        features: the frozen network.
        teacher: whose images it is for.
        runtime: seeds and ranks.
    """

    def __init__(
        self, recipe: RddRecipe, features: FeatureNetwork, teacher: Guided, runtime: Runtime
    ) -> None:
        super().__init__(recipe, features)
        self._settings, self._runtime = recipe.relations, runtime
        self.weights = {
            **self.weights,
            "is_p2p": recipe.relations.is_weight,
            "m_p2p": recipe.relations.m_weight,
        }
        self._memory: PixelMemory | None = None
        if recipe.relations.m_weight > 0:
            device = teacher.device
            with torch.no_grad():
                example = features.feature_map(torch.zeros(1, *teacher.sample_shape, device=device))
            torch.manual_seed(runtime.generator("memory").initial_seed())
            self._memory = PixelMemory(example.shape[1], recipe.relations).to(device)
            self._head = runtime.wrap(self._memory.head)

    def terms_of_maps(self, m_student: Sequence[Tensor], m_target: Sequence[Tensor]) -> dict[str, Tensor]:
        """All terms; those of relations, of the last layer's maps, only where they have a weight."""
        terms = super().terms_of_maps(m_student, m_target)
        ours, theirs = gather_rows(m_student[-1].float()), gather_rows(m_target[-1].float())
        settings = self._settings
        if settings.is_weight > 0:
            if settings.rows == "pairs":
                terms["is_p2p"] = pair_relation_loss(ours, theirs, settings.is_temperature)
            else:
                terms["is_p2p"] = relation_distillation(
                    ours, theirs, temperature=settings.is_temperature, reduction="mean"
                )
        if self._memory is not None:
            queue = self._memory.queue
            generator = self._runtime.generator("queue", int(queue.n_updates))
            queue.enqueue(theirs, generator)
            terms["m_p2p"] = memory_relation_loss(
                self._head(ours), theirs, queue.contrast(generator), settings.contrast_temperature
            )
        return terms

    def learned(self) -> nn.Module | None:
        """The projection head and the queue."""
        return self._memory


class PixelMemory(nn.Module):
    """What M_P2P learns and remembers in a round.

    Args:
        dim: D, channels of the feature maps.
        settings: sizes, and whether there is a head.

    Attributes:
        head: on the student's maps only; dropped after the round.
        queue: of the target's pixels.
    """

    def __init__(self, dim: int, settings: RelationSection) -> None:
        super().__init__()
        self.queue = PixelQueue(
            dim,
            settings.queue_size,
            n_contrast=settings.contrast,
            n_enqueued=settings.enqueue,
            mixed=settings.queue == "mixed",
        )
        self.head: nn.Module = nn.Identity()
        if settings.head == "projection":
            self.head = nn.Sequential(
                nn.Conv2d(dim, dim, 1, bias=False),
                nn.BatchNorm2d(dim),
                nn.ReLU(),
                nn.Conv2d(dim, dim, 1, bias=False),
            )


class PixelQueue(nn.Module):
    """First in, first out: unit pixel vectors of target maps.

    Args:
        dim: D.
        size: pixels it holds.
        n_contrast: pixels that a batch is compared with, chosen at random among those it holds.
        n_enqueued: random pixels of a batch that enter.
        mixed: the queue of the released code (docs/methods/rdd.md, Queue as released): it starts full of random
            vectors, only n_contrast evenly spaced slots are ever read, and a batch of maps is cut into vectors in the
            order of its numbers in memory, which mixes images and channels.
    """

    def __init__(self, dim: int, size: int, *, n_contrast: int, n_enqueued: int, mixed: bool = False) -> None:
        super().__init__()
        self.n_contrast, self.n_enqueued, self.mixed = n_contrast, n_enqueued, mixed
        self.register_buffer("pixels", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.tensor(0))
        self.register_buffer("n_held", torch.tensor(size if mixed else 0))
        self.register_buffer("n_updates", torch.tensor(0))

    pixels: Tensor
    pointer: Tensor
    n_held: Tensor
    n_updates: Tensor

    @torch.no_grad()
    def enqueue(self, maps: Tensor, generator: torch.Generator) -> None:
        """Take random pixels of ``[B, D, h, w]``.

        Where they reach the end of the queue they fill its last slots, and the next ones go to its start.
        """
        vectors = maps.contiguous().view(maps.shape[1], -1).T if self.mixed else pixels_of(maps)
        size = len(self.pixels)
        n = min(self.n_enqueued, len(vectors), size)
        rows = torch.randperm(len(vectors), generator=generator)[:n].to(maps.device)
        start = int(self.pointer)
        reaches_end = start + n >= size
        first = size - n if reaches_end else start
        self.pixels[first : first + n] = F.normalize(vectors[rows], dim=1)
        self.pointer.fill_(0 if reaches_end else start + n)
        self.n_held.fill_(max(int(self.n_held), first + n))
        self.n_updates += 1

    def contrast(self, generator: torch.Generator) -> Tensor:
        """The pixels to compare with, ``[n, D]``."""
        return self.pixels[self.contrast_slots(generator).to(self.pixels.device)]

    def contrast_slots(self, generator: torch.Generator) -> Tensor:
        """Their slots: distinct, int64 ``[n]``."""
        held = int(self.n_held)
        if self.mixed:
            return torch.linspace(0, held - 1, self.n_contrast).round().long()
        return torch.randperm(held, generator=generator)[: self.n_contrast]
