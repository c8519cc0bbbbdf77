"""RDD, relational diffusion distillation: RCFD, and how the pixels of feature maps relate to each other.

Feng et al., "Relational Diffusion Distillation for Efficient Image Generation", ACM Multimedia 2024. IS_P2P relates the
pixels of a batch, M_P2P relates them to a queue of the target's pixels of earlier batches (its section 3.6 here).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.diffusion.models import DiffusionModel
from effcli.distill import progressive
from effcli.distill.feature_networks import FeatureNetwork
from effcli.distill.progressive import TeacherInputs
from effcli.distill.rcfd import FeatureLoss, load_features
from effcli.distill.recipe import RddRecipe, RelationSection
from effcli.nn.gathering import gather_rows
from effcli.nn.relations import relation_distillation

_CHUNK_ENTRIES = 1 << 24
"""Similarities that are in memory at a time: 64 MiB a copy in float32."""


def plan(recipe: RddRecipe) -> Plan[TeacherInputs]:
    """Teacher and images, and what :func:`distill` would do with them."""
    return progressive.plan(recipe, lambda teacher: FeatureLoss(recipe, load_features(recipe, teacher)))


def distill(recipe: RddRecipe, inputs: TeacherInputs, run: Run) -> Result:
    """Rounds with the pixel loss, the last ones with CFD, IS_P2P and M_P2P."""
    return progressive.distill(
        recipe,
        inputs,
        run,
        lambda teacher: RelationLoss(recipe, load_features(recipe, teacher), teacher, run.runtime),
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
        self, recipe: RddRecipe, features: FeatureNetwork, teacher: DiffusionModel, runtime: Runtime
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
            device = next(teacher.unet.parameters()).device
            with torch.no_grad():
                example = features.feature_map(torch.zeros(1, *teacher.sample_shape, device=device))
            torch.manual_seed(runtime.generator("memory").initial_seed())
            self._memory = PixelMemory(example.shape[1], recipe.relations).to(device)
            self._head = runtime.wrap(self._memory.head)

    def terms_of_maps(self, m_student: Tensor, m_target: Tensor) -> dict[str, Tensor]:
        """All terms; those of relations only where they have a weight."""
        terms = super().terms_of_maps(m_student, m_target)
        ours, theirs = gather_rows(m_student.float()), gather_rows(m_target.float())
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

    def learnt(self) -> nn.Module | None:
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
            as_released=settings.queue == "released",
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
        n_contrast: pixels that a batch is compared with: of those it holds, as many drawn at random.
        n_enqueued: random pixels of a batch that enter.
        as_released: as the released code has it: it starts full of random vectors, n_contrast evenly spaced slots are
            all that is ever read, and the numbers of a batch of maps are cut into vectors in the order they lie in
            memory, which mixes images and channels (section 6, traps 2-4).
    """

    def __init__(
        self, dim: int, size: int, *, n_contrast: int, n_enqueued: int, as_released: bool = False
    ) -> None:
        super().__init__()
        self.n_contrast, self.n_enqueued, self.as_released = n_contrast, n_enqueued, as_released
        self.register_buffer("pixels", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.tensor(0))
        self.register_buffer("n_held", torch.tensor(size if as_released else 0))
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
        vectors = maps.contiguous().view(maps.shape[1], -1).T if self.as_released else pixels_of(maps)
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
        if self.as_released:
            return torch.linspace(0, held - 1, self.n_contrast).round().long()
        return torch.randperm(held, generator=generator)[: self.n_contrast]


def pixels_of(maps: Tensor) -> Tensor:
    """``[B, D, h, w]`` as pixel vectors ``[B h w, D]``, image by image."""
    return maps.flatten(2).mT.reshape(-1, maps.shape[1])


def pair_relation_loss(student: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """L_IS over all ordered pairs of images (b, d): the pixels of b, each related to all pixels of d.

    Mean over the B^2 h w rows of KL(softmax(S~ / tau) || softmax(S_S / tau)), S the cosines of a pixel of b and the
    pixels of d.

    Args:
        student, target: maps ``[B, D, h, w]``; gradients flow through the student's alone.
        temperature: tau.
    """
    n_pixels = student[0, 0].numel()

    def value_and_gradient(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = ours.new_zeros(()), torch.zeros_like(ours)
        scale = 1 / (temperature * len(ours) * (len(ours) // n_pixels))
        for rows in _chunks(len(ours), len(ours)):
            shape = (rows.stop - rows.start, -1, n_pixels)
            log_p = torch.log_softmax((theirs[rows] @ theirs.T / temperature).view(shape), dim=-1)
            log_q = torch.log_softmax((ours[rows] @ ours.T / temperature).view(shape), dim=-1)
            p = log_p.exp()
            value += (p * (log_p - log_q)).sum() * scale * temperature
            slope = (log_q.exp() - p).flatten(1) * scale
            gradient[rows] += slope @ ours
            gradient += slope.T @ ours[rows]
        return value, gradient

    return _with_gradient(student, target, value_and_gradient)


def memory_relation_loss(student: Tensor, target: Tensor, contrast: Tensor, temperature: float) -> Tensor:
    """L_M: mean over all pixels of KL(p~ || p_S), p the softmax of a pixel's cosines with the contrast set over tau.

    Args:
        student, target: maps ``[B, D, h, w]``; gradients flow through the student's alone.
        contrast: unit vectors ``[K, D]``.
        temperature: tau.
    """

    def value_and_gradient(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = ours.new_zeros(()), torch.zeros_like(ours)
        for rows in _chunks(len(ours), len(contrast)):
            log_p = torch.log_softmax(theirs[rows] @ contrast.T / temperature, dim=-1)
            log_q = torch.log_softmax(ours[rows] @ contrast.T / temperature, dim=-1)
            p = log_p.exp()
            value += (p * (log_p - log_q)).sum() / len(ours)
            gradient[rows] = (log_q.exp() - p) @ contrast / (temperature * len(ours))
        return value, gradient

    return _with_gradient(student, target, value_and_gradient)


def _chunks(n_rows: int, n_columns: int) -> list[slice]:
    """Rows, so many at a time that a matrix of similarities stays small."""
    step = max(1, _CHUNK_ENTRIES // n_columns)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _with_gradient(
    student: Tensor, target: Tensor, value_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """A loss of unit pixel vectors; its gradient is computed with it, chunk by chunk, and no similarity is kept."""
    with torch.autocast(student.device.type, enabled=False):
        ours = F.normalize(pixels_of(student.float()), dim=1)
        with torch.no_grad():
            theirs = F.normalize(pixels_of(target.float()), dim=1)
            value, gradient = value_and_gradient(ours.detach(), theirs)
        loss: Tensor = _KnownGradient.apply(ours, value, gradient)
    return loss


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return slopes[0] * gradient, None, None
