"""LiT: a CLIP on an image trunk that is trained already and stays as it is.

Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", CVPR 2022. The trunk runs once per view; the
layer behind it and the text tower are trained. The teacher in the package is made this way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.evidence.result import Result
from effcli.core.files import sha256
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.compact import save_compact, trunk_weights
from effcli.distill.clip.models import new_clip, save_clip
from effcli.distill.clip_kd.batches import ImageViews, PairBatch, PairBatches
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.checksums import checksum
from effcli.distill.clip_kd.evaluation import compare_for_report
from effcli.distill.clip_kd.inputs import ClipInputs, UnreadableImages, load_inputs, say_what_was_tuned
from effcli.distill.clip_kd.losses import ClipKdLoss, Embeddings
from effcli.distill.clip_kd.recipe import ClipLossSection, LockedImageRecipe
from effcli.distill.clip_kd.teacher_cache import CachedItems, TeacherCache
from effcli.distill.clip_kd.teacher_embeddings import (
    CHECKSUMS,
    cache_root,
    items_of_views,
    stack_views,
)
from effcli.distill.clip_kd.training import StepLoss, fit, new_optimizer, total_steps

COMPACT_FILE = "model/locked.safetensors"
"""Without the trunk: what ``builtin:`` models are."""


def plan(recipe: LockedImageRecipe) -> Plan[ClipInputs]:
    """The pairs, and what :func:`train` would do with them."""
    inputs, model = load_inputs(recipe), new_locked(recipe)
    say_what_was_tuned(recipe, len(inputs.train))
    facts = {
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "learned_parameters": sum(p.numel() for p in model.network.parameters() if p.requires_grad),
        "train_images": len(inputs.train),
        "eval_images": len(inputs.eval),
        "steps": total_steps(recipe, len(inputs.train)),
    }
    return Plan(facts, inputs)


def train(recipe: LockedImageRecipe, inputs: ClipInputs, run: Run) -> Result:
    """Train on the trunk's features, measure, write the model."""
    runtime = run.runtime
    torch.manual_seed(recipe.seed)
    model = new_locked(recipe)
    model.network.to(runtime.device)
    unreadable = UnreadableImages(inputs.train, recipe.data)
    features = trunk_features(recipe, model, inputs.train, run, unreadable)
    towers = runtime.wrap(LockedTowers(model.network))
    loss = ClipKdLoss(ClipLossSection(crd=0, fd=0, icl=0), model.dim, model.dim)

    def loss_of(batch: PairBatch) -> StepLoss:
        rows = np.stack([features[v][i] for i, v in zip(batch.rows.images, batch.rows.views, strict=True)])
        inputs_of_head = torch.from_numpy(rows.astype(np.float32)).to(runtime.device)
        with runtime.autocast():
            embedded = towers(inputs_of_head, batch.tokens.to(runtime.device))
        terms = loss(embedded, None)
        total = loss.total(terms)
        return StepLoss(total, terms, total.backward)

    batches = PairBatches(
        inputs.train, recipe.n_views, recipe.train.batch_size, runtime, (None, model.tokenize)
    )
    optimizer = new_optimizer(model.network, None, recipe, model.config, raw=False)
    n_steps = total_steps(recipe, len(inputs.train))
    fit(model.network, None, batches, n_steps, recipe, run, loss_of, optimizer, unreadable)
    metrics, figures = compare_for_report({"model": model}, inputs, recipe.eval, run)
    if runtime.is_main:
        save_clip(run.path / "model", model)
        file = run.file(COMPACT_FILE)
        save_compact(file, model, recipe.trunk, learned_words(model, inputs.train))
        metrics["weights_sha256"] = sha256(file)
    return run.finish(metrics, figures)


class LockedTowers(nn.Module):
    """The layer behind the trunk, and the text tower, as a training calls them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        network.visual.trunk.eval()  # type: ignore[union-attr]

    def forward(self, features: Tensor, tokens: Tensor) -> Embeddings:
        """Embeddings, not normalised, of features ``[B, F]`` of the trunk and tokens ``[B, L]``."""
        network = self.network
        return Embeddings(
            network.visual.head(features), network.encode_text(tokens), network.logit_scale.exp()
        )


def new_locked(recipe: LockedImageRecipe) -> ClipModel:
    """A new model on the recipe's trunk, which is not trained.

    Raises:
        InputError: the configuration has another trunk.
    """
    model = new_clip(recipe.student)
    visual: Any = model.network.visual
    try:
        visual.trunk.load_state_dict(trunk_weights(recipe.trunk))
    except (AttributeError, RuntimeError):
        raise InputError(f"does not have the image trunk {recipe.trunk}", place=recipe.student) from None
    visual.trunk.requires_grad_(False)
    return model


def trunk_features(
    recipe: LockedImageRecipe,
    model: ClipModel,
    pairs: CaptionSet,
    run: Run,
    unreadable: UnreadableImages,
) -> list[np.ndarray]:
    """The trunk's features of each view, fp16 ``[N, F]`` each; kept on the disk."""
    runtime, n_views = run.runtime, recipe.n_views
    assert n_views is not None
    trunk: Any = model.network.visual.trunk  # type: ignore[union-attr]
    view = ImageViews(pairs, whole=n_views == 1)
    root = cache_root(recipe)
    key = {
        "trunk": recipe.trunk,
        "sees": model.preprocess.as_dict(),
        "pairs": checksum(pairs, root / CHECKSUMS),
        "precision": recipe.precision,
    }
    cache = TeacherCache(root, key, int(trunk.num_features), about={"data": recipe.data.source})

    @torch.inference_mode()
    def features_of(number: int, rows: range) -> Tensor:
        images = stack_views(view, rows, number, model.preprocess, unreadable).to(runtime.device)
        with runtime.autocast():
            features: Tensor = trunk(images)
        return features.float()

    views = [
        CachedItems(one.name, one.n, lambda rows, number=number: features_of(number, rows))  # type: ignore[misc]
        for number, one in enumerate(items_of_views(n_views, len(pairs)))
    ]
    cache.reserve(views, run)
    return [cache.load(one, run) for one in views]


def learned_words(model: ClipModel, pairs: CaptionSet) -> Tensor:
    """The numbers of the tokens that occur in the captions, in order."""
    texts, _ = pairs.texts()
    words: Tensor = model.tokenize(texts).unique()
    return words
