"""A small run of CLIP-KD in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from effcli.core.run import Run, open_run
from effcli.core.runtime import Runtime
from effcli.distill.clip_kd.recipe import ClipKdRecipe
from tests.distill.clip.tiny_clips import STUDENT, save_pairs, save_teacher, write_config

CPU = Runtime(torch.device("cpu"), "fp32", seed=0)


def small_recipe(folder: Path, *, loss: dict[str, Any] | None = None, **changes: Any) -> ClipKdRecipe:
    """Teacher, student and pairs are made in ``folder`` where they are not there."""
    if not (folder / "teacher").is_dir():
        save_teacher(folder / "teacher")
        write_config(folder / "vit.json", STUDENT)
        save_pairs(folder / "pairs")
    settings: dict[str, Any] = {
        "precision": "fp32",
        "model": str(folder / "teacher"),
        "student": str(folder / "vit.json"),
        "data": {"source": str(folder / "pairs" / "pairs.csv")},
        "cache_dir": str(folder / "cache"),
        "loss": {"fd": 4.0, "fd_reduction": "sample", **(loss or {})},
        "train": {"epochs": 2, "batch_size": 8, "warmup_steps": 2},
        "eval": {"hold_out": 0.2, "batch_size": 4},
    }
    return ClipKdRecipe.model_validate({**settings, **changes})


def opened(path: Path, recipe: ClipKdRecipe, **options: Any) -> Run:
    """Its run directory."""
    return open_run(path, recipe, CPU, verb="run", recipe_name="small", **options)
