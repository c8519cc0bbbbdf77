"""The settings of the methods of `effcli distill` that teach all numbers of sampling steps in one training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from effcli.distill.recipe import StudentsRecipe, StudentTrainSection


class AnyStepsTrainSection(StudentTrainSection):
    """The optimisation."""

    steps: int = Field(2000, ge=1, description="Optimiser steps.")
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of the averaged weights, 0 to below 1, which give the targets and are saved; "
        "higher values are steadier and slower.",
    )


class AnyStepsRecipe(StudentsRecipe):
    """What these methods share."""

    train: AnyStepsTrainSection = Field(AnyStepsTrainSection(), description="The optimisation.")


class CdRecipe(AnyStepsRecipe):
    """Consistency distillation."""

    method: Literal["cd"] = Field("cd", description="The method.")
    features: str | None = Field(
        None,
        description="How two images are compared. null: by the squared error of pixels; a network: by its "
        "feature maps, as in LPIPS: builtin (grey 16x16 clothes), unet (the teacher's own), "
        "torchvision:NAME, timm:NAME, or a classifier's file.",
    )
    feature_side: int | None = Field(
        None,
        ge=8,
        description="Side in pixels to which images are resized for the feature network; null: not resized.",
    )


class ShortcutRecipe(AnyStepsRecipe):
    """A shortcut model, learned from a teacher."""

    method: Literal["shortcut"] = Field("shortcut", description="The method.")
    teacher_share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Share of each batch whose targets come from the teacher, above 0 and below 1; the "
        "others come from the student itself.",
    )
