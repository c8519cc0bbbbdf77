"""The teachers' embeddings of a batch: from the cache, or from the teachers themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.files import cache_folder
from effcli.core.run import Run
from effcli.distill.clip.clip_model import ClipModel, Tokenizer
from effcli.distill.clip.embedding import embed_texts, encode_images
from effcli.distill.clip.views import Preprocess
from effcli.distill.clip_kd.batches import ImageViews, PairBatch
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.checksums import checksum
from effcli.distill.clip_kd.inputs import UnreadableImages
from effcli.distill.clip_kd.losses import Embeddings
from effcli.distill.clip_kd.recipe import ClipKdRecipe, ClipRecipe, ReinforceRecipe
from effcli.distill.clip_kd.reinforced.format import ReinforcedHeader
from effcli.distill.clip_kd.reinforced.reading import stored_rows
from effcli.distill.clip_kd.teacher_cache import CachedItems, TeacherCache, unit_rows

CHECKSUMS = "checksums"
"""The folder of remembered checksums of pairs, beside those of embeddings."""


@dataclass(frozen=True)
class TeacherEmbeddings:
    """The embeddings of a batch by all teachers.

    Attributes:
        of_batch: unit embeddings and scale of each teacher.
        dims: the width of each teacher's embeddings.
        inputs: preprocessing and tokenizer of those that run in every step.
    """

    of_batch: Callable[[PairBatch], list[Embeddings]]
    dims: tuple[int, ...]
    inputs: tuple[tuple[Preprocess, Tokenizer], ...] = ()

    def __call__(self, batch: PairBatch) -> list[Embeddings]:
        """Unit embeddings ``[B, D]`` of a batch's images and texts, and the scale, of each teacher."""
        return self.of_batch(batch)


def teacher_embeddings_of(
    recipe: ClipKdRecipe,
    teachers: Sequence[ClipModel],
    pairs: CaptionSet,
    run: Run,
    unreadable: UnreadableImages,
) -> TeacherEmbeddings:
    """From the cache, which is filled first; or from the teachers themselves."""
    device = run.runtime.device
    scales = [one.network.logit_scale.detach().exp() for one in teachers]  # type: ignore[operator]
    dims = tuple(one.dim for one in teachers)
    if recipe.n_views is None:
        inputs = tuple((one.preprocess, one.tokenize) for one in teachers)
        return TeacherEmbeddings(lambda batch: _embed(teachers, batch, scales, run), dims, inputs)
    kept = [cached(recipe, one, pairs, run, unreadable) for one in teachers]
    return TeacherEmbeddings(
        lambda batch: [
            look_up(views, captions, batch, scale, device)
            for (views, captions), scale in zip(kept, scales, strict=True)
        ],
        dims,
    )


def look_up(
    views: Sequence[np.ndarray], captions: np.ndarray, batch: PairBatch, scale: Tensor, device: torch.device
) -> Embeddings:
    """The kept embeddings of a batch's views and captions, normalised again."""
    images = np.stack([views[v][i] for i, v in zip(batch.rows.images, batch.rows.views, strict=True)])
    return Embeddings(
        unit_rows(images, np.arange(len(images)), device),
        unit_rows(captions, batch.rows.captions, device),
        scale,
    )


def stored_embeddings_of(
    header: ReinforcedHeader, pairs: CaptionSet, device: torch.device
) -> TeacherEmbeddings:
    """Those that reinforced data hold."""
    _, first = pairs.texts()
    scales = [torch.tensor(one.scale, device=device) for one in header.teachers]

    def of_batch(batch: PairBatch) -> list[Embeddings]:
        images, numbers, captions = (np.asarray(one) for one in batch.rows)
        stored = [pairs.stored[i] for i in images]
        own = captions - first[images]
        v = stored_rows([one.views for one in stored], numbers.tolist(), header.dims, device)
        s = stored_rows([one.captions for one in stored], own.tolist(), header.dims, device)
        return [Embeddings(*three) for three in zip(v, s, scales, strict=True)]

    return TeacherEmbeddings(of_batch, header.dims)


def cached(
    recipe: ClipKdRecipe | ReinforceRecipe,
    teacher: ClipModel,
    pairs: CaptionSet,
    run: Run,
    unreadable: UnreadableImages,
) -> tuple[list[np.ndarray], np.ndarray]:
    """The teacher's embeddings of all views ``[N, D]`` each, and of all captions ``[M, D]``; made where missing."""
    runtime, n_views = run.runtime, recipe.n_views
    assert n_views is not None
    cache, view = open_cache(recipe, teacher, pairs), ImageViews(pairs, whole=n_views == 1)
    texts, _ = pairs.texts()

    def embed_view(number: int, rows: range) -> Tensor:
        images = stack_views(view, rows, number, teacher.preprocess, unreadable)
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


def stack_views(
    view: ImageViews, rows: range, number: int, preprocess: Preprocess, unreadable: UnreadableImages
) -> Tensor:
    """One view of several images, ``[n, 3, H, W]``; zeros for those that cannot be read, which no batch has."""
    images = []
    for row in rows:
        try:
            images.append(view(row, number, (preprocess,))[0])
        except InputError as error:
            unreadable.add([str(error)])
            images.append(torch.zeros(3, *preprocess.size))
    return torch.stack(images)


def open_cache(
    recipe: ClipKdRecipe | ReinforceRecipe, teacher: ClipModel, pairs: CaptionSet, *, remember: bool = True
) -> TeacherCache:
    """The folder for this teacher, these pairs and this kind of view; a plan does not remember their checksum."""
    root = cache_root(recipe)
    key = {
        "weights": teacher.fingerprint(),
        "pairs": checksum(pairs, root / CHECKSUMS, remember=remember),
        "precision": recipe.precision,
    }
    return TeacherCache(root, key, teacher.dim, about={"teacher": teacher.source, "data": recipe.data.source})


def cache_root(recipe: ClipRecipe | ReinforceRecipe) -> Path:
    """The folder of all caches of teacher embeddings."""
    return Path(recipe.cache_dir) if recipe.cache_dir else cache_folder("clip")


def needs_teacher(recipe: ClipKdRecipe) -> bool:
    """Whether any loss compares with the teacher."""
    loss = recipe.loss
    return any(
        weight > 0 for weight in (loss.crd, loss.fd, loss.mfd, loss.gd, loss.icl, loss.afd, loss.cross)
    )


def _embed(
    teachers: Sequence[ClipModel], batch: PairBatch, scales: Sequence[Tensor], run: Run
) -> list[Embeddings]:
    device, unit, found = run.runtime.device, torch.nn.functional.normalize, []
    for teacher, (images, tokens), scale in zip(teachers, batch.for_teachers, scales, strict=True):
        network: Any = teacher.network
        with torch.no_grad(), run.runtime.autocast():
            v = network.encode_image(images.to(device))
            s = network.encode_text(tokens.to(device))
        found.append(Embeddings(unit(v.float(), dim=1), unit(s.float(), dim=1), scale))
    return found


def items_of_views(n_views: int, n_images: int) -> list[CachedItems]:
    """The views by name, without a way to embed them."""
    return [
        CachedItems("whole" if n_views == 1 else f"view-{number}", n_images, not_computed)
        for number in range(n_views)
    ]


def not_computed(rows: range) -> Tensor:
    """For items that are only counted, in a plan."""
    raise AssertionError("a plan computes nothing")
