"""The steps of CLIP-KD: load, let the teacher look once, train the student, measure both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.distill.clip.embedding import embed_texts, encode_images
from effcli.distill.clip.models import ClipModel, load_clip, new_clip, save_clip
from effcli.distill.clip_kd.batches import Batch, PairBatches, View
from effcli.distill.clip_kd.captions import CaptionSet
from effcli.distill.clip_kd.evaluation import evaluate
from effcli.distill.clip_kd.inputs import Inputs, load_inputs
from effcli.distill.clip_kd.losses import ClipKdLoss, Embeddings
from effcli.distill.clip_kd.recipe import ClipKdRecipe, ClipRecipe
from effcli.distill.clip_kd.teacher_cache import TeacherCache, Things, default_root, unit_rows
from effcli.distill.clip_kd.training import Terms, Towers, fit, new_optimizer, total_steps


def plan(recipe: ClipKdRecipe) -> Plan[tuple[Inputs, ClipModel]]:
    """Pairs and teacher, and what :func:`distill` would do with them."""
    inputs, teacher, student = load_inputs(recipe), load_clip(recipe.model), new_clip(recipe.student)
    Towers(student.network, recipe.loss.mask_ratio if recipe.loss.mfd else None)
    planned: dict[str, Any] = {
        "teacher_parameters": _n_parameters(teacher),
        "student_parameters": _n_parameters(student),
        "train_images": len(inputs.train),
        "train_captions": sum(map(len, inputs.train.captions)),
        "eval_images": len(inputs.eval),
        "left_out": len(inputs.train.left_out),
        "steps": total_steps(recipe, len(inputs.train)),
    }
    if recipe.n_views is not None and needs_teacher(recipe):
        cache = open_cache(recipe, teacher, inputs.train)
        things = [
            Things("captions", planned["train_captions"], _nothing),
            *things_of_views(recipe.n_views, len(inputs.train)),
        ]
        planned["teacher_cache_bytes"] = cache.size_bytes(sum(one.n for one in things))
        planned["teacher_cache"] = str(cache.folder)
        planned["teacher_cache_is_there"] = all(map(cache.is_there, things))
    return Plan(planned, (inputs, teacher))


def distill(recipe: ClipKdRecipe, loaded: tuple[Inputs, ClipModel], run: Run) -> Result:
    """Teach a new student, measure it beside its teacher, write it to ``model/``."""
    runtime = run.runtime
    inputs, teacher = loaded
    teacher.network.to(runtime.device).requires_grad_(False)
    torch.manual_seed(recipe.seed)
    student = new_clip(recipe.student)
    student.network.to(runtime.device)
    looks = sight_of(recipe, teacher, inputs.train, run) if needs_teacher(recipe) else None
    train(student, teacher, looks, inputs.train, recipe, run)
    metrics, figures = evaluate({"teacher": teacher, "student": student}, inputs, recipe.eval, run)
    runtime.on_main(lambda: save_clip(run.path / "model", student))
    metrics["train_images"] = len(inputs.train)
    metrics["left_out"] = list(inputs.train.left_out[:100])
    return run.finish(metrics, figures)


def train(
    student: ClipModel,
    teacher: ClipModel,
    looks: Sight | None,
    pairs: CaptionSet,
    recipe: ClipKdRecipe,
    run: Run,
) -> None:
    """Train ``student`` in place; without ``looks`` alone, by its own contrastive loss."""
    runtime, settings = run.runtime, recipe.loss
    torch.manual_seed(recipe.seed)
    loss = ClipKdLoss(settings, student.dim, teacher.dim).to(runtime.device)
    mask = settings.mask_ratio if settings.mfd else None
    towers = runtime.wrap(Towers(student.network, mask))
    compare = runtime.wrap(loss) if any(True for _ in loss.parameters()) else loss

    def loss_of(batch: Batch) -> tuple[Tensor, Terms]:
        with runtime.autocast():
            embedded, masked = towers(batch.images.to(runtime.device), batch.tokens.to(runtime.device))
        if settings.mask == "released":
            masked = embedded.images
        terms = compare(embedded, None if looks is None else looks(batch), masked if settings.mfd else None)
        return loss.total(terms), terms

    n_steps = total_steps(recipe, len(pairs))
    batches = PairBatches(
        pairs,
        recipe.n_views,
        recipe.train.batch_size,
        runtime,
        (student.preprocess, student.tokenize),
        (teacher.preprocess, teacher.tokenize) if looks is not None and looks.is_live else None,
    )
    optimizer = new_optimizer(student.network, loss, recipe, recipe.student, raw=settings.scales == "raw")
    fit(student.network, loss, batches, n_steps, recipe, run, loss_of, optimizer)


@dataclass(frozen=True)
class Sight:
    """The teacher's embeddings of a batch.

    Attributes:
        of_batch: unit embeddings and scale.
        is_live: whether the teacher has to look at each batch.
    """

    of_batch: Callable[[Batch], Embeddings]
    is_live: bool

    def __call__(self, batch: Batch) -> Embeddings:
        """Unit embeddings ``[B, D]`` of a batch's images and texts, and the teacher's scale."""
        return self.of_batch(batch)


def sight_of(recipe: ClipKdRecipe, teacher: ClipModel, pairs: CaptionSet, run: Run) -> Sight:
    """From the cache, which is filled first; or from the teacher itself."""
    runtime = run.runtime
    scale = teacher.network.logit_scale.detach().exp()  # type: ignore[operator]
    if recipe.n_views is None:
        return Sight(lambda batch: _look(teacher, batch, scale, run), is_live=True)
    views, captions = cached(recipe, teacher, pairs, run)

    def find(batch: Batch) -> Embeddings:
        drawn = batch.drawn
        rows = np.stack([views[v][i] for i, v in zip(drawn.images, drawn.views, strict=True)])
        return Embeddings(
            unit_rows(rows, np.arange(len(rows)), runtime.device),
            unit_rows(captions, drawn.captions, runtime.device),
            scale,
        )

    return Sight(find, is_live=False)


def cached(
    recipe: ClipKdRecipe, teacher: ClipModel, pairs: CaptionSet, run: Run
) -> tuple[list[np.ndarray], np.ndarray]:
    """The teacher's embeddings of all views ``[N, D]`` each, and of all captions ``[M, D]``; made where missing."""
    runtime, n_views = run.runtime, recipe.n_views
    assert n_views is not None
    cache, view = open_cache(recipe, teacher, pairs), View(pairs, whole=n_views == 1)
    texts, _ = pairs.texts()

    def look(number: int, rows: range) -> Tensor:
        images = torch.stack([view(i, number, (teacher.preprocess,))[0] for i in rows])
        return encode_images(teacher, images, runtime)

    captions = Things(
        "captions", len(texts), lambda rows: embed_texts(teacher, texts[rows.start : rows.stop], runtime)
    )
    views = [
        Things(one.name, one.n, lambda rows, number=number: look(number, rows))  # type: ignore[misc]
        for number, one in enumerate(things_of_views(n_views, len(pairs)))
    ]
    return [cache.load(one, run) for one in views], cache.load(captions, run)


def open_cache(recipe: ClipKdRecipe, teacher: ClipModel, pairs: CaptionSet) -> TeacherCache:
    """The folder for this teacher, these pairs and this kind of view."""
    key = {
        "teacher": teacher.source,
        "weights": teacher.fingerprint(),
        "pairs": pairs.fingerprint(),
        "precision": recipe.precision,
    }
    return TeacherCache(cache_root(recipe), key, teacher.dim)


def cache_root(recipe: ClipRecipe) -> Path:
    """Where what teachers embedded is kept."""
    return Path(recipe.cache_dir) if recipe.cache_dir else default_root()


def needs_teacher(recipe: ClipKdRecipe) -> bool:
    """Whether any loss compares with the teacher."""
    loss = recipe.loss
    return any(
        weight > 0 for weight in (loss.crd, loss.fd, loss.mfd, loss.gd, loss.icl, loss.afd, loss.cross)
    )


def _look(teacher: ClipModel, batch: Batch, scale: Tensor, run: Run) -> Embeddings:
    assert batch.teacher_images is not None and batch.teacher_tokens is not None
    network: Any = teacher.network
    with torch.no_grad(), run.runtime.autocast():
        images = network.encode_image(batch.teacher_images.to(run.runtime.device))
        texts = network.encode_text(batch.teacher_tokens.to(run.runtime.device))
    unit = torch.nn.functional.normalize
    return Embeddings(unit(images.float(), dim=1), unit(texts.float(), dim=1), scale)


def things_of_views(n_views: int, n_images: int) -> list[Things]:
    """The views by name, which nothing is asked to embed."""
    return [
        Things("whole" if n_views == 1 else f"view-{number}", n_images, _nothing) for number in range(n_views)
    ]


def _nothing(rows: range) -> Tensor:
    raise AssertionError("nothing is computed for a plan")


def _n_parameters(model: ClipModel) -> int:
    return sum(p.numel() for p in model.network.parameters())
