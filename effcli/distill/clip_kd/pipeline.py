"""CLIP-KD step by step: load, embed with the teacher, train the student, measure both; and the verb eval."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.plan import Plan
from effcli.core.registry import recipe_of_run
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.models import load_clip, new_clip, save_clip
from effcli.distill.clip_kd.batches import PairBatch, PairBatches
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.evaluation import compare, compare_for_report
from effcli.distill.clip_kd.inputs import ClipInputs, load_eval, load_inputs, load_zero_shot
from effcli.distill.clip_kd.losses import ClipKdLoss
from effcli.distill.clip_kd.recipe import ClipKdRecipe
from effcli.distill.clip_kd.teacher_cache import CachedItems
from effcli.distill.clip_kd.teacher_embeddings import (
    TeacherEmbeddings,
    items_of_views,
    needs_teacher,
    not_computed,
    open_cache,
    teacher_embeddings_of,
)
from effcli.distill.clip_kd.training import Terms, Towers, fit, new_optimizer, total_steps


def plan(recipe: ClipKdRecipe) -> Plan[tuple[ClipInputs, ClipModel]]:
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
        items = [
            CachedItems("captions", planned["train_captions"], not_computed),
            *items_of_views(recipe.n_views, len(inputs.train)),
        ]
        planned["teacher_cache_bytes"] = cache.size_bytes(sum(one.n for one in items))
        planned["teacher_cache"] = str(cache.folder)
        planned["teacher_cache_is_there"] = all(map(cache.is_there, items))
    return Plan(planned, (inputs, teacher))


def distill(recipe: ClipKdRecipe, loaded: tuple[ClipInputs, ClipModel], run: Run) -> Result:
    """Teach a new student, measure it beside its teacher, write it to ``model/``."""
    runtime = run.runtime
    inputs, teacher = loaded
    teacher.network.to(runtime.device).requires_grad_(False)
    torch.manual_seed(recipe.seed)
    student = new_clip(recipe.student)
    student.network.to(runtime.device)
    embed = teacher_embeddings_of(recipe, teacher, inputs.train, run) if needs_teacher(recipe) else None
    train(student, teacher, embed, inputs.train, recipe, run)
    metrics, figures = compare_for_report({"teacher": teacher, "student": student}, inputs, recipe.eval, run)
    runtime.on_main(lambda: save_clip(run.path / "model", student))
    metrics["train_images"] = len(inputs.train)
    metrics["left_out"] = list(inputs.train.left_out[:100])
    return run.finish(metrics, figures)


def train(
    student: ClipModel,
    teacher: ClipModel,
    embed: TeacherEmbeddings | None,
    pairs: CaptionSet,
    recipe: ClipKdRecipe,
    run: Run,
) -> None:
    """Train ``student`` in place; without ``embed`` by its own contrastive loss only."""
    runtime, settings = run.runtime, recipe.loss
    torch.manual_seed(recipe.seed)
    loss = ClipKdLoss(settings, student.dim, teacher.dim).to(runtime.device)
    mask = settings.mask_ratio if settings.mfd else None
    towers = runtime.wrap(Towers(student.network, mask))
    compare = runtime.wrap(loss) if any(True for _ in loss.parameters()) else loss

    def loss_of(batch: PairBatch) -> tuple[Tensor, Terms]:
        with runtime.autocast():
            embedded, masked = towers(batch.images.to(runtime.device), batch.tokens.to(runtime.device))
        if settings.mask == "unused":
            masked = embedded.images
        terms = compare(embedded, None if embed is None else embed(batch), masked if settings.mfd else None)
        return loss.total(terms), terms

    n_steps = total_steps(recipe, len(pairs))
    batches = PairBatches(
        pairs,
        recipe.n_views,
        recipe.train.batch_size,
        runtime,
        (student.preprocess, student.tokenize),
        (teacher.preprocess, teacher.tokenize) if embed is not None and embed.is_live else None,
    )
    optimizer = new_optimizer(student.network, loss, recipe, recipe.student, raw=settings.scales == "raw")
    fit(student.network, loss, batches, n_steps, recipe, run, loss_of, optimizer)


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
        models = {"teacher": load_clip(recipe.model), **models}
    settings = recipe.eval.model_copy(update=dict(changes))
    data = settings.data
    pairs = load_inputs(recipe).eval if data is None else load_eval(data, recipe.data)
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
