"""The student of CLIP-KD: its architecture, and what its towers start from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effcli.core.errors import UsageError
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.image_trunks import load_trunk
from effcli.distill.clip.inheritance import inherit, is_of_image
from effcli.distill.clip.models import load_clip, new_clip, rebuilt
from effcli.distill.clip_kd.recipe import ClipKdRecipe

SIGLIP_START = {"init_logit_bias": -10.0, "init_logit_scale": math.log(10)}
"""First bias and scale of a student that learns with SigLIP's loss (SigLIP, Sec. 3.2)."""


def new_student(recipe: ClipKdRecipe, teacher: ClipModel | None) -> ClipModel:
    """The student of a recipe; new weights follow from its seed, and the global generators stay as they are.

    Args:
        recipe: names the student and what its towers start from.
        teacher: the first one, whose towers may be inherited or kept; None where there is none.

    Raises:
        InputError: the model is unknown, or its parts do not fit.
        UsageError: it needs a teacher, or cannot be trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _started(recipe, teacher)


def _started(recipe: ClipKdRecipe, teacher: ClipModel | None) -> ClipModel:
    name, init = recipe.student, recipe.init
    is_trained = ":" in name and not Path(name).exists()
    student = load_clip(name) if is_trained else new_clip(name)
    if "multimodal_cfg" in student.config:
        raise UsageError(
            "a CoCa can be a teacher, but not a student", place=name, hint="name its CLIP, such as ViT-B-32"
        )
    if teacher is None and (init.image == "teacher" or init.text != "new"):
        raise UsageError(
            "the data holds only embeddings, no towers to start from", place="init.image or init.text"
        )
    changes = _changes(recipe, student, teacher)
    if changes:
        student = rebuilt(student, changes)
    network: Any = student.network
    if teacher is not None and init.text == "kept":
        student = replace(student, tokenize=teacher.tokenize)
        inherit(student, teacher, "text")
        for part, parameter in network.named_parameters():
            parameter.requires_grad_(is_of_image(part) or part.startswith("logit_"))
    elif teacher is not None and init.text == "teacher":
        inherit(student, teacher, "text")
    if teacher is not None and init.image == "teacher":
        inherit(student, teacher, "image")
    elif init.image not in ("new", "teacher"):
        load_trunk(student, init.image)
    if recipe.loss.contrast == "softmax" and isinstance(getattr(network, "logit_bias", None), nn.Parameter):
        network.logit_bias.requires_grad_(False)  # a softmax does not see it
    return student


def _changes(recipe: ClipKdRecipe, student: ClipModel, teacher: ClipModel | None) -> dict[str, Any]:
    """What the student's configuration takes from its teacher and its loss."""
    changes: dict[str, Any] = {}
    if recipe.loss.contrast == "sigmoid" and getattr(student.network, "logit_bias", None) is None:
        changes |= SIGLIP_START
    if teacher is None:
        return changes
    init, theirs = recipe.init, teacher.config
    if (init.image == "teacher" or init.text != "new") and theirs.get("quick_gelu", False):
        changes["quick_gelu"] = True
    if init.text == "kept":
        changes["embed_dim"] = teacher.dim
        changes["text_cfg"] = {**theirs["text_cfg"], "output_tokens": False}
        changes["custom_text"] = hasattr(teacher.network, "text")
    return {key: value for key, value in changes.items() if student.config.get(key, False) != value}
