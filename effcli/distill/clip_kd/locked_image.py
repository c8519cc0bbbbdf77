"""LiT: a CLIP on an image trunk that is trained already and stays as it is.

Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", CVPR 2022. The trunk looks at each view once; what
is learnt is the layer behind it and the text tower. The teacher in the package is made this way.
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
from effcli.distill.clip.compact import save_compact, trunk_weights
from effcli.distill.clip.models import ClipModel, new_clip, save_clip
from effcli.distill.clip_kd.batches import Batch, PairBatches, View
from effcli.distill.clip_kd.captions import CaptionSet
from effcli.distill.clip_kd.evaluation import evaluate
from effcli.distill.clip_kd.inputs import Inputs, load_inputs
from effcli.distill.clip_kd.losses import ClipKdLoss, Embeddings
from effcli.distill.clip_kd.pipeline import cache_root, things_of_views
from effcli.distill.clip_kd.recipe import LockedImageRecipe, LossSection
from effcli.distill.clip_kd.teacher_cache import TeacherCache, Things
from effcli.distill.clip_kd.training import Terms, fit, new_optimizer, total_steps

COMPACT_FILE = "model/locked.safetensors"
"""Without the trunk: what ``builtin:`` models are."""


def plan(recipe: LockedImageRecipe) -> Plan[Inputs]:
    """The pairs, and what :func:`train` would do with them."""
    inputs, model = load_inputs(recipe), new_locked(recipe)
    facts = {
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "learnt_parameters": sum(p.numel() for p in model.network.parameters() if p.requires_grad),
        "train_images": len(inputs.train),
        "eval_images": len(inputs.eval),
        "steps": total_steps(recipe, len(inputs.train)),
    }
    return Plan(facts, inputs)


def train(recipe: LockedImageRecipe, inputs: Inputs, run: Run) -> Result:
    """Train on what the trunk sees, measure, write the model."""
    runtime = run.runtime
    torch.manual_seed(recipe.seed)
    model = new_locked(recipe)
    model.network.to(runtime.device)
    features = trunk_features(recipe, model, inputs.train, run)
    towers = runtime.wrap(LockedTowers(model.network))
    loss = ClipKdLoss(LossSection(crd=0, fd=0, icl=0), model.dim, model.dim)

    def loss_of(batch: Batch) -> tuple[Tensor, Terms]:
        drawn = batch.drawn
        rows = np.stack([features[v][i] for i, v in zip(drawn.images, drawn.views, strict=True)])
        seen = torch.from_numpy(rows.astype(np.float32)).to(runtime.device)
        with runtime.autocast():
            embedded = towers(seen, batch.tokens.to(runtime.device))
        terms = loss(embedded, None)
        return loss.total(terms), terms

    batches = PairBatches(
        inputs.train, recipe.n_views, recipe.train.batch_size, runtime, (None, model.tokenize)
    )
    optimizer = new_optimizer(model.network, None, recipe, recipe.student, raw=False)
    fit(model.network, None, batches, total_steps(recipe, len(inputs.train)), recipe, run, loss_of, optimizer)
    metrics, figures = evaluate({"model": model}, inputs, recipe.eval, run)
    if runtime.is_main:
        save_clip(run.path / "model", model)
        file = run.file(COMPACT_FILE)
        save_compact(file, model, recipe.trunk, learnt_words(model, inputs.train))
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
    """A new model on the recipe's trunk, which is not learnt.

    Raises:
        InputError: the configuration's trunk is another.
    """
    model = new_clip(recipe.student)
    visual: Any = model.network.visual
    try:
        visual.trunk.load_state_dict(trunk_weights(recipe.trunk))
    except (AttributeError, RuntimeError):
        raise InputError(f"has not the image trunk {recipe.trunk}", place=recipe.student) from None
    visual.trunk.requires_grad_(False)
    return model


def trunk_features(
    recipe: LockedImageRecipe, model: ClipModel, pairs: CaptionSet, run: Run
) -> list[np.ndarray]:
    """What the trunk sees in each view, fp16 ``[N, F]`` each; kept on the disk."""
    runtime, n_views = run.runtime, recipe.n_views
    assert n_views is not None
    trunk: Any = model.network.visual.trunk  # type: ignore[union-attr]
    view = View(pairs, whole=n_views == 1)
    key = {"trunk": recipe.trunk, "sees": model.preprocess.as_dict(), "pairs": pairs.fingerprint()}
    cache = TeacherCache(cache_root(recipe), {**key, "precision": recipe.precision}, int(trunk.num_features))

    @torch.inference_mode()
    def look(number: int, rows: range) -> Tensor:
        images = torch.stack([view(i, number, (model.preprocess,))[0] for i in rows]).to(runtime.device)
        with runtime.autocast():
            seen: Tensor = trunk(images)
        return seen.float()

    return [
        cache.load(Things(one.name, one.n, lambda rows, number=number: look(number, rows)), run)  # type: ignore[misc]
        for number, one in enumerate(things_of_views(n_views, len(pairs)))
    ]


def learnt_words(model: ClipModel, pairs: CaptionSet) -> Tensor:
    """The numbers of the tokens that occur in the captions, in order."""
    texts, _ = pairs.texts()
    words: Tensor = model.tokenize(texts).unique()
    return words
