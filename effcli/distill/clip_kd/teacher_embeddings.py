"""The teacher's embeddings of a batch: from the cache, or from the teacher itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.core.run import Run
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.embedding import embed_texts, encode_images
from effcli.distill.clip_kd.batches import ImageViews, PairBatch
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.checksums import checksum
from effcli.distill.clip_kd.losses import Embeddings
from effcli.distill.clip_kd.recipe import ClipKdRecipe, ClipRecipe
from effcli.distill.clip_kd.teacher_cache import CachedItems, TeacherCache, default_root, unit_rows

CHECKSUMS = "checksums"
"""The folder of remembered checksums of pairs, beside those of embeddings."""


@dataclass(frozen=True)
class TeacherEmbeddings:
    """The teacher's embeddings of a batch.

    Attributes:
        of_batch: unit embeddings and scale.
        is_live: whether the teacher runs in every step.
    """

    of_batch: Callable[[PairBatch], Embeddings]
    is_live: bool

    def __call__(self, batch: PairBatch) -> Embeddings:
        """Unit embeddings ``[B, D]`` of a batch's images and texts, and the teacher's scale."""
        return self.of_batch(batch)


def teacher_embeddings_of(
    recipe: ClipKdRecipe, teacher: ClipModel, pairs: CaptionSet, run: Run
) -> TeacherEmbeddings:
    """From the cache, which is filled first; or from the teacher itself."""
    runtime = run.runtime
    scale = teacher.network.logit_scale.detach().exp()  # type: ignore[operator]
    if recipe.n_views is None:
        return TeacherEmbeddings(lambda batch: _embed(teacher, batch, scale, run), is_live=True)
    views, captions = cached(recipe, teacher, pairs, run)

    def look_up(batch: PairBatch) -> Embeddings:
        images = np.stack([views[v][i] for i, v in zip(batch.rows.images, batch.rows.views, strict=True)])
        return Embeddings(
            unit_rows(images, np.arange(len(images)), runtime.device),
            unit_rows(captions, batch.rows.captions, runtime.device),
            scale,
        )

    return TeacherEmbeddings(look_up, is_live=False)


def cached(
    recipe: ClipKdRecipe, teacher: ClipModel, pairs: CaptionSet, run: Run
) -> tuple[list[np.ndarray], np.ndarray]:
    """The teacher's embeddings of all views ``[N, D]`` each, and of all captions ``[M, D]``; made where missing."""
    runtime, n_views = run.runtime, recipe.n_views
    assert n_views is not None
    cache, view = open_cache(recipe, teacher, pairs), ImageViews(pairs, whole=n_views == 1)
    texts, _ = pairs.texts()

    def embed_view(number: int, rows: range) -> Tensor:
        images = torch.stack([view(i, number, (teacher.preprocess,))[0] for i in rows])
        return encode_images(teacher, images, runtime)

    captions = CachedItems(
        "captions", len(texts), lambda rows: embed_texts(teacher, texts[rows.start : rows.stop], runtime)
    )
    views = [
        CachedItems(one.name, one.n, lambda rows, number=number: embed_view(number, rows))  # type: ignore[misc]
        for number, one in enumerate(items_of_views(n_views, len(pairs)))
    ]
    cache.reserve([*views, captions], run)
    return [cache.load(one, run) for one in views], cache.load(captions, run)


def open_cache(recipe: ClipKdRecipe, teacher: ClipModel, pairs: CaptionSet) -> TeacherCache:
    """The folder for this teacher, these pairs and this kind of view."""
    root = cache_root(recipe)
    key = {
        "weights": teacher.fingerprint(),
        "pairs": checksum(pairs, root / CHECKSUMS),
        "precision": recipe.precision,
    }
    return TeacherCache(root, key, teacher.dim, about={"teacher": teacher.source, "data": recipe.data.source})


def cache_root(recipe: ClipRecipe) -> Path:
    """The folder of all caches of teacher embeddings."""
    return Path(recipe.cache_dir) if recipe.cache_dir else default_root()


def needs_teacher(recipe: ClipKdRecipe) -> bool:
    """Whether any loss compares with the teacher."""
    loss = recipe.loss
    return any(
        weight > 0 for weight in (loss.crd, loss.fd, loss.mfd, loss.gd, loss.icl, loss.afd, loss.cross)
    )


def _embed(teacher: ClipModel, batch: PairBatch, scale: Tensor, run: Run) -> Embeddings:
    assert batch.teacher_images is not None and batch.teacher_tokens is not None
    network: Any = teacher.network
    with torch.no_grad(), run.runtime.autocast():
        images = network.encode_image(batch.teacher_images.to(run.runtime.device))
        texts = network.encode_text(batch.teacher_tokens.to(run.runtime.device))
    unit = torch.nn.functional.normalize
    return Embeddings(unit(images.float(), dim=1), unit(texts.float(), dim=1), scale)


def items_of_views(n_views: int, n_images: int) -> list[CachedItems]:
    """The views by name, without a way to embed them."""
    return [
        CachedItems("whole" if n_views == 1 else f"view-{number}", n_images, not_computed)
        for number in range(n_views)
    ]


def not_computed(rows: range) -> Tensor:
    """For items that are only counted, in a plan."""
    raise AssertionError("a plan computes nothing")
