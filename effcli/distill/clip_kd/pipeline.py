"""CLIP-KD step by step: load, embed with the teacher, train the student, measure both; and the verb eval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.plan import Plan
from effcli.core.registry import recipe_of_run
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.models import load_clip, save_clip
from effcli.distill.clip_kd.batches import PairBatch, PairBatches
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.long_captions import say_cut_captions
from effcli.distill.clip_kd.evaluation import compare, compare_for_report
from effcli.distill.clip_kd.gradient_cache import embed_in_parts
from effcli.distill.clip_kd.inputs import (
    ClipInputs,
    UnreadableImages,
    load_eval,
    load_inputs,
    load_zero_shot,
    say_what_was_tuned,
    uses_stored,
)
from effcli.distill.clip_kd.losses import ClipKdLoss, Embeddings, SeveralTeachersLoss
from effcli.distill.clip_kd.recipe import ClipKdRecipe
from effcli.distill.clip_kd.reinforced.format import ReinforcedHeader, read_header, reinforced_folder
from effcli.distill.clip_kd.soft_targets import SoftTargets
from effcli.distill.clip_kd.students import new_student
from effcli.distill.clip_kd.teacher_cache import CachedItems
from effcli.distill.clip_kd.teacher_embeddings import (
    TeacherEmbeddings,
    items_of_views,
    needs_teacher,
    not_computed,
    open_cache,
    stored_embeddings_of,
    teacher_embeddings_of,
)
from effcli.distill.clip_kd.training import StepLoss, Terms, Towers, fit, new_optimizer, total_steps


@dataclass(frozen=True)
class ClipModelsAndPairs:
    """What a run of CLIP-KD works on; where the data hold the teachers' embeddings, what they say of them."""

    inputs: ClipInputs
    teachers: tuple[ClipModel, ...]
    student: ClipModel
    header: ReinforcedHeader | None = None


def plan(recipe: ClipKdRecipe) -> Plan[ClipModelsAndPairs]:
    """Pairs, teachers and student, and what :func:`distill` would do with them."""
    inputs, teachers = load_inputs(recipe), tuple(map(load_clip, recipe.teachers))
    say_what_was_tuned(recipe, len(inputs.train))
    folder = reinforced_folder(recipe.data.source) if uses_stored(recipe) else None
    header = None if folder is None else read_header(folder)
    student = new_student(recipe, teachers[0] if teachers else None)
    Towers(student.network, recipe.loss.mask_ratio if recipe.loss.mfd else None)
    say_cut_captions(inputs.train, named_models(recipe, teachers, student))
    planned: dict[str, Any] = {
        "teacher_parameters": sum(map(_n_parameters, teachers)) if header is None else None,
        "student_parameters": _n_parameters(student),
        "learned_parameters": sum(p.numel() for p in student.network.parameters() if p.requires_grad),
        "train_images": len(inputs.train),
        "train_captions": sum(map(len, inputs.train.captions)),
        "eval_images": len(inputs.eval),
        "left_out": len(inputs.train.left_out),
        "steps": total_steps(recipe, len(inputs.train)),
    }
    if header is not None:
        planned["teachers_in_the_data"] = [one.source for one in header.teachers]
        planned["views"] = header.views
    elif recipe.n_views is not None and needs_teacher(recipe):
        caches = [open_cache(recipe, one, inputs.train, remember=False) for one in teachers]
        items = [
            CachedItems("captions", planned["train_captions"], not_computed),
            *items_of_views(recipe.n_views, len(inputs.train)),
        ]
        n_items = sum(one.n for one in items)
        planned["teacher_cache_bytes"] = sum(cache.size_bytes(n_items) for cache in caches)
        planned["teacher_cache"] = ", ".join(str(cache.folder) for cache in caches)
        planned["teacher_cache_is_there"] = all(cache.is_there(one) for cache in caches for one in items)
    return Plan(planned, ClipModelsAndPairs(inputs, teachers, student, header))


def distill(recipe: ClipKdRecipe, loaded: ClipModelsAndPairs, run: Run) -> Result:
    """Teach the student, measure it beside its teachers, write it to ``model/``."""
    runtime, inputs, student = run.runtime, loaded.inputs, loaded.student
    for teacher in loaded.teachers:
        teacher.network.to(runtime.device).requires_grad_(False)
    student.network.to(runtime.device)
    unreadable = UnreadableImages(inputs.train, recipe.data)
    embed, n_views = None, recipe.n_views
    if loaded.header is not None:
        n_views = loaded.header.views
        embed = stored_embeddings_of(loaded.header, inputs.train, runtime.device)
    elif needs_teacher(recipe):
        embed = teacher_embeddings_of(recipe, loaded.teachers, inputs.train, run, unreadable)
    embed = embed if needs_teacher(recipe) else None
    measured = train(student, embed, inputs.train, recipe, run, unreadable, n_views)
    models = named_models(recipe, loaded.teachers, student)
    metrics, figures = compare_for_report(models, inputs, recipe.eval, run)
    runtime.on_main(lambda: save_clip(run.path / "model", student))
    metrics |= measured
    metrics["train_images"] = len(inputs.train)
    metrics["left_out"] = [*inputs.train.left_out, *unreadable.lines][:100]
    return run.finish(metrics, figures)


def named_models(
    recipe: ClipKdRecipe, teachers: Sequence[ClipModel], student: ClipModel
) -> dict[str, ClipModel]:
    """The teachers and the student by what they are called in results."""
    return {**dict(zip(teacher_names(recipe), teachers, strict=True)), "student": student}


def teacher_names(recipe: ClipKdRecipe) -> list[str]:
    """``teacher``, ``teacher_2``, …: what the teachers are called in results."""
    return ["teacher", *(f"teacher_{n}" for n in range(2, len(recipe.teachers) + 1))][: len(recipe.teachers)]


def train(
    student: ClipModel,
    embed: TeacherEmbeddings | None,
    pairs: CaptionSet,
    recipe: ClipKdRecipe,
    run: Run,
    unreadable: UnreadableImages,
    n_views: int | None,
) -> dict[str, float]:
    """Train ``student`` in place; without ``embed`` by its own contrastive loss only. Returns what was measured."""
    runtime, settings = run.runtime, recipe.loss
    torch.manual_seed(recipe.seed)
    loss = new_loss(recipe, student.dim, embed).to(runtime.device)
    towers = runtime.wrap(Towers(student.network, settings.mask_ratio if settings.mfd else None))
    compare = runtime.wrap(loss) if any(True for _ in loss.parameters()) else loss
    targets = SoftTargets(settings, run)

    def loss_of(batch: PairBatch) -> StepLoss:
        teachers = [] if embed is None else embed(batch)
        embedded, masked, pass_on = embed_batch(towers, batch, recipe.train.forward_pairs, runtime)
        if settings.mask == "unused":
            masked = embedded.images
        theirs = teachers if isinstance(loss, SeveralTeachersLoss) else next(iter(teachers), None)
        terms: Terms = compare(embedded, theirs, masked if settings.mfd else None)
        total = loss.total(terms)

        def backward() -> None:
            total.backward()
            pass_on()

        return StepLoss(total, terms, backward, partial(targets.measure, teachers))

    batches = PairBatches(
        pairs,
        n_views,
        recipe.train.batch_size,
        runtime,
        (student.preprocess, student.tokenize),
        () if embed is None else embed.inputs,
    )
    optimizer = new_optimizer(student.network, loss, recipe, student.config, raw=settings.scales == "raw")
    n_steps = total_steps(recipe, len(pairs))
    fit(student.network, loss, batches, n_steps, recipe, run, loss_of, optimizer, unreadable)
    return targets.metrics()


def new_loss(
    recipe: ClipKdRecipe, dim: int, embed: TeacherEmbeddings | None
) -> ClipKdLoss | SeveralTeachersLoss:
    """The loss of a student with embeddings of width ``dim``."""
    if embed is None or len(embed.dims) == 1:
        return ClipKdLoss(recipe.loss, dim, dim if embed is None else embed.dims[0])
    return SeveralTeachersLoss(
        recipe.loss, dim, embed.dims, recipe.teacher_weights or [1.0] * len(embed.dims)
    )


def embed_batch(
    towers: nn.Module, batch: PairBatch, forward_pairs: int | None, runtime: Runtime
) -> tuple[Embeddings, Tensor | None, Callable[[], None]]:
    """The student's embeddings, those of masked images, and what to call when their loss has gone backward."""

    def embed(images: Tensor, tokens: Tensor) -> tuple[Embeddings, Tensor | None]:
        with runtime.autocast():
            found: tuple[Embeddings, Tensor | None] = towers(
                images.to(runtime.device), tokens.to(runtime.device)
            )
        return found

    if forward_pairs is None or forward_pairs >= len(batch.images):
        return *embed(batch.images, batch.tokens), lambda: None
    images, tokens = batch.images.split(forward_pairs), batch.tokens.split(forward_pairs)
    return embed_in_parts(towers, lambda i: embed(images[i], tokens[i]), len(images), runtime)


def evaluate(run: str | Path, changes: Mapping[str, Any], runtime: Runtime) -> Result:
    """The student of a finished run beside its teacher.

    Args:
        run: the directory.
        changes: settings of :class:`ClipEvalSection` that replace the run's.
        runtime: device and precision.

    Raises:
        InputError: it holds no student, or its teacher is not there any more.
    """
    started = time.perf_counter()
    recipe: Any = recipe_of_run("distill", run)
    models = {"student": load_clip(str(run))}
    if isinstance(recipe, ClipKdRecipe):
        named = zip(teacher_names(recipe), recipe.teachers, strict=True)
        models = {**{name: load_clip(source) for name, source in named}, **models}
    settings = recipe.eval.model_copy(update=dict(changes))
    data = settings.data
    pairs = load_inputs(recipe).eval if data is None else load_eval(data, recipe.data)
    say_cut_captions(pairs, models)
    metrics, _ = compare(models, pairs, load_zero_shot(settings, pairs), settings, runtime)
    return result_of_verb(
        "distill",
        "eval",
        recipe.method,
        recipe=Path(run).resolve().name,
        output=str(run),
        metrics=metrics,
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


def _n_parameters(model: ClipModel) -> int:
    return sum(p.numel() for p in model.network.parameters())
