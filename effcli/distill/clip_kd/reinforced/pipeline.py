"""`effcli distill reinforce`: embed pairs with teachers, and write both as shards that any trainer reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from effcli.core.errors import InputError
from effcli.core.evidence.result import Result
from effcli.core.files import make_folder
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.embedding import embed_texts, encode_images
from effcli.distill.clip.models import load_clip
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.long_captions import say_cut_captions
from effcli.distill.clip_kd.inputs import UnreadableImages, load_pairs
from effcli.distill.clip_kd.recipe import ReinforceRecipe
from effcli.distill.clip_kd.reinforced.format import ReinforcedTeacher
from effcli.distill.clip_kd.reinforced.writing import needed_bytes, write_reinforced
from effcli.distill.clip_kd.teacher_embeddings import cached

_TIMED = 16
"""Images and captions that a teacher embeds to be timed."""


def plan_reinforce(recipe: ReinforceRecipe) -> Plan[tuple[CaptionSet, tuple[ClipModel, ...]]]:
    """Pairs and teachers, and what :func:`reinforce` would write."""
    pairs, teachers = load_pairs(recipe.data), tuple(map(load_clip, recipe.teachers))
    if pairs.stored:
        raise InputError(
            "is reinforced already", place=recipe.data.source, hint="give the data it was made from"
        )
    say_cut_captions(pairs, {f"teacher {one.source}": one for one in teachers})
    n_captions = sum(map(len, pairs.captions))
    rows = recipe.views * len(pairs) + n_captions
    facts = {
        "images": len(pairs),
        "captions": n_captions,
        "views": recipe.views,
        "left_out": len(pairs.left_out),
        "shards": -(-len(pairs) // recipe.shard_images),
        "shard_bytes": needed_bytes(pairs, 2 * rows * sum(one.dim for one in teachers)),
    }
    return Plan(facts, (pairs, teachers))


def reinforce(recipe: ReinforceRecipe, inputs: tuple[CaptionSet, tuple[ClipModel, ...]], run: Run) -> Result:
    """Embed what is not in the cache yet, and write ``data/``."""
    pairs, teachers = inputs
    runtime = run.runtime
    unreadable = UnreadableImages(pairs, recipe.data.model_copy(update={"most_left_out": 0.0}))
    for teacher in teachers:
        teacher.network.to(runtime.device).requires_grad_(False)
    seconds = sum(seconds_per_epoch(one, pairs, runtime) for one in teachers)
    kept = [cached(recipe, one, pairs, run, unreadable) for one in teachers]
    folder = make_folder(run.path / "data")
    runtime.on_main(
        lambda: write_reinforced(
            folder, pairs, kept, _described(teachers), recipe.shard_images, run.check_stop
        )
    )
    files = sorted(folder.glob("*.tar"))
    metrics: dict[str, Any] = {
        "images": len(pairs),
        "captions": sum(map(len, pairs.captions)),
        "views": recipe.views,
        "shards": len(files),
        "shard_bytes": sum(file.stat().st_size for file in files),
        "teacher_s_per_epoch": round(seconds, 2),
        "left_out": list(pairs.left_out[:100]),
    }
    run.say(f"each epoch that reads this data instead of running the teacher saves about {seconds:.1f} s")
    return run.finish(metrics)


def seconds_per_epoch(teacher: ClipModel, pairs: CaptionSet, runtime: Runtime) -> float:
    """Seconds that a teacher takes here for one view of every image and one caption each, by a few of them."""
    n = min(_TIMED, len(pairs))
    images = torch.zeros(n, 3, *teacher.preprocess.size)
    texts = [pairs.captions[i][0] for i in range(n)]
    seconds = []
    for _ in range(2):  # the first is slower
        started = time.perf_counter()
        encode_images(teacher, images, runtime)
        embed_texts(teacher, texts, runtime)
        seconds.append(time.perf_counter() - started)
    return seconds[-1] / n * len(pairs)


def _described(teachers: Sequence[ClipModel]) -> list[ReinforcedTeacher]:
    return [
        ReinforcedTeacher(
            source=str(Path(one.source).resolve()) if Path(one.source).exists() else one.source,
            fingerprint=one.fingerprint(),
            dim=one.dim,
            scale=float(one.network.logit_scale.detach().exp()),  # type: ignore[operator]
        )
        for one in teachers
    ]
