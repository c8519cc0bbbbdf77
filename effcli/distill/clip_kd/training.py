"""The training loop of CLIP-KD and of LiT: two towers, a loss of their embeddings, AdamW."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.run import Run
from effcli.distill.clip_kd.batches import PairBatch, PairBatches
from effcli.distill.clip_kd.inputs import UnreadableImages
from effcli.distill.clip_kd.losses import LARGEST_SCALE, ClipKdLoss, Embeddings, SeveralTeachersLoss
from effcli.distill.clip_kd.recipe import ClipRecipe
from effcli.nn.schedules import set_rate, warmup_cosine

Terms = dict[str, Tensor]
_LOG_EVERY = 10


class StepLoss(NamedTuple):
    """The loss of a step.

    Attributes:
        loss: weighted sum.
        terms: by name, unweighted.
        backward: adds the gradients.
        more: further numbers for the log, computed when it is due.
    """

    loss: Tensor
    terms: Terms
    backward: Callable[[], None]
    more: Callable[[], Mapping[str, float]] = dict


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
        bias = getattr(self.network, "logit_bias", None)
        embedded = Embeddings(
            self.network.encode_image(images),
            self.network.encode_text(tokens),
            self.network.logit_scale.exp(),
            bias if bias is not None and bias.requires_grad else None,
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
    learned: ClipKdLoss | SeveralTeachersLoss | None,
    batches: PairBatches,
    n_steps: int,
    recipe: ClipRecipe,
    run: Run,
    loss_of: Callable[[PairBatch], StepLoss],
    optimizer: torch.optim.Optimizer,
    unreadable: UnreadableImages,
) -> None:
    """Train ``network``, and what the loss learns, in place.

    Args:
        network: of open_clip; its scale is kept in 1..100.
        learned: the loss's own weights.
        batches: by step.
        n_steps: all steps.
        recipe: its optimisation.
        run: steps, checkpoints, seeds.
        loss_of: the loss of a batch.
        optimizer: of all trained weights.
        unreadable: counts images that cannot be read.
    """
    settings = recipe.train
    state: dict[str, Any] = {"network": network, "optimizer": optimizer}
    if learned is not None:
        state["loss"] = learned
    network.train()
    for part in network.children():
        if not any(p.requires_grad for p in part.parameters()):
            part.eval()  # a tower that stays as it is has no dropout either
    ahead: Iterator[PairBatch] | None = None
    for step in run.steps("train", n_steps, state, beside=recipe.data.workers):
        if ahead is None:
            ahead = batches.from_step(step, n_steps, recipe.data.workers)
        set_rate(optimizer, warmup_cosine(step, n_steps, settings.learning_rate, settings.warmup_steps))
        batch = next(ahead)
        unreadable.add(batch.unreadable)
        found = loss_of(batch)
        more = found.more() if step % _LOG_EVERY == 0 else {}
        scale = network.logit_scale.exp()
        run.log("train", step, every=_LOG_EVERY, loss=found.loss, **found.terms, scale=scale, **more)
        optimizer.zero_grad(set_to_none=True)
        found.backward()
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
    network: nn.Module, learned: nn.Module | None, recipe: ClipRecipe, config: Mapping[str, Any], raw: bool
) -> torch.optim.AdamW:
    """AdamW as open_clip sets it up: no decay of biases, norms, scales and anything of fewer than two axes.

    Args:
        network: the student.
        learned: the loss's own weights.
        recipe: its optimisation.
        config: of the student; a ViT as image tower chooses the betas.
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
    has_vit = is_vit(config)
    betas = ((0.9, 0.98) if has_vit else (0.9, 0.999)) if settings.betas == "auto" else settings.betas
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=1e-6 if has_vit else 1e-8)


def is_vit(config: Mapping[str, Any]) -> bool:
    """Whether a configuration's image tower is a ViT, as the released code tells by its name: MobileViT is one too."""
    vision = config["vision_cfg"]
    if name := vision.get("timm_model_name"):
        return "vit" in name
    return isinstance(vision.get("layers", 12), int)


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether a weight is decayed, by its name and its axes."""
    return parameter.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
