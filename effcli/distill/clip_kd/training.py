"""The training loop of CLIP-KD and of LiT: two towers, a loss of their embeddings, AdamW."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.run import Run
from effcli.distill.clip_kd.batches import PairBatch, PairBatches
from effcli.distill.clip_kd.losses import LARGEST_SCALE, ClipKdLoss, Embeddings
from effcli.distill.clip_kd.recipe import ClipRecipe
from effcli.nn.schedules import set_rate, warmup_cosine

Terms = dict[str, Tensor]


class Towers(nn.Module):
    """The student in training: embeddings that are not normalised, in one call for both towers.

    Args:
        network: of open_clip.
        mask_ratio: share of the patches that masked images lack; None for no masked images.
    """

    def __init__(self, network: nn.Module, mask_ratio: float | None = None) -> None:
        super().__init__()
        self.network: Any = network
        self._mask: nn.Module | None = None
        if mask_ratio is not None:
            self._mask = self._patch_dropout(mask_ratio)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Embeddings, Tensor | None]:
        """Embeddings of a batch, and those of its masked images."""
        embedded = Embeddings(
            self.network.encode_image(images),
            self.network.encode_text(tokens),
            self.network.logit_scale.exp(),
        )
        if self._mask is None:
            return embedded, None
        with self._masking():
            return embedded, self.network.encode_image(images)

    def _patch_dropout(self, ratio: float) -> nn.Module:
        from open_clip.transformer import PatchDropout

        if not hasattr(self.network.visual, "patch_dropout"):
            raise UsageError("masked images need a ViT student", place="loss.mfd", hint="-s loss.mfd=0")
        mask: nn.Module = PatchDropout(ratio)
        return mask

    @contextlib.contextmanager
    def _masking(self) -> Iterator[None]:
        visual, mask = self.network.visual, self._mask
        before = visual.patch_dropout
        visual.patch_dropout = mask.train(self.network.training)  # type: ignore[union-attr]
        try:
            yield
        finally:
            visual.patch_dropout = before


def total_steps(recipe: ClipRecipe, n_images: int) -> int:
    """Steps of all epochs; the last batch is full too."""
    return -(-recipe.train.epochs * n_images // recipe.train.batch_size)


def fit(
    network: Any,
    learned: ClipKdLoss | None,
    batches: PairBatches,
    n_steps: int,
    recipe: ClipRecipe,
    run: Run,
    loss_of: Callable[[PairBatch], tuple[Tensor, Terms]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Train ``network``, and what the loss learns, in place.

    Args:
        network: of open_clip; its scale is kept in 1..100.
        learned: the loss's own weights.
        batches: by step.
        n_steps: all steps.
        recipe: its optimisation.
        run: steps, checkpoints, seeds.
        loss_of: the loss of a batch and its terms.
        optimizer: of all trained weights.
    """
    settings = recipe.train
    state: dict[str, Any] = {"network": network, "optimizer": optimizer}
    if learned is not None:
        state["loss"] = learned
    network.train()
    ahead: Iterator[PairBatch] | None = None
    for step in run.steps("train", n_steps, state, beside=recipe.data.workers):
        if ahead is None:
            ahead = batches.from_step(step, n_steps, recipe.data.workers)
        set_rate(optimizer, warmup_cosine(step, n_steps, settings.learning_rate, settings.warmup_steps))
        loss, terms = loss_of(next(ahead))
        run.log("train", step, every=10, loss=loss, **terms, scale=network.logit_scale.exp())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], settings.grad_clip
            )
        optimizer.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0, LARGEST_SCALE)
        if learned is not None:
            learned.clamp_scales()
    network.eval()


def new_optimizer(
    network: nn.Module, learned: nn.Module | None, recipe: ClipRecipe, name: str, raw: bool
) -> torch.optim.AdamW:
    """AdamW as open_clip sets it up: no decay of biases, norms, scales and anything of fewer than two axes.

    Args:
        network: the student.
        learned: the loss's own weights.
        recipe: its optimisation.
        name: of the student; `vit` in it chooses the betas.
        raw: whether the loss's weights are all decayed by 0.01 (docs/methods/clip-kd.md, Scales without exp).
    """
    settings = recipe.train
    own = list(learned.named_parameters()) if learned is not None else []
    mixed = list(network.named_parameters()) + ([] if raw else own)
    groups = [
        {
            "params": [p for n, p in mixed if p.requires_grad and is_decayed(n, p)],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for n, p in mixed if p.requires_grad and not is_decayed(n, p)], "weight_decay": 0.0},
    ]
    if raw and own:
        groups.append({"params": [p for _, p in own], "weight_decay": 0.01})
    is_vit = "vit" in name.lower()
    betas = ((0.9, 0.98) if is_vit else (0.9, 0.999)) if settings.betas == "auto" else settings.betas
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=1e-6 if is_vit else 1e-8)


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether a weight is decayed, by its name and its axes."""
    return parameter.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
