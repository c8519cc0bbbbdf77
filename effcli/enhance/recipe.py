"""The settings of `effcli enhance`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section
from effcli.enhance.network.config import WalMaFaConfig


class PairsSection(Section):
    """Where the pairs come from."""

    train: tuple[str, ...] = Field(
        ("builtin:scenes",),
        description="Training pairs: folders or .tar files with low/ and high/, or builtin:scenes.",
    )
    eval: tuple[str, ...] = Field((), description="Pairs measured at the end; empty means none.")


class EnhanceRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["enhance"] = Field("enhance", description="The command this recipe is for.")
    strength: float = Field(
        1.0, ge=0, le=1, description="Blend of the result with the input; 1 is the result alone."
    )
    data: PairsSection = Field(PairsSection(), description="Training and evaluation pairs.")


class PatchesSection(PairsSection):
    """Where the pairs come from and how patches are drawn."""

    patch: int = Field(128, ge=16, multiple_of=16, description="Side of the square training patches, pixels.")
    gamma_jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The dark image is raised to a power drawn from 1-j..1+j, so exposures vary.",
    )


class TrainSection(Section):
    """The optimisation."""

    steps: int = Field(20_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(12, ge=1, description="Patches a step, over all processes.")
    learning_rate: float = Field(8e-4, gt=0, description="Adam's first learning rate.")
    min_learning_rate: float = Field(1e-6, ge=0, description="Where the cosine schedule ends.")
    adam_eps: float = Field(5e-5, gt=0, description="Adam's epsilon.")
    grad_clip: float | None = Field(
        None, gt=0, description="Largest gradient norm; null leaves gradients alone."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the averaged weights that are saved; 0 saves the last weights."
    )
    tv_weight: float = Field(
        0.05, ge=0, le=1, description="Weight of TV in the loss; L1 and SSIM get the rest."
    )
    ssim: bool = Field(True, description="False leaves the SSIM term out of the loss (ablation).")
    gt_mean_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the loss that is blind to overall brightness (GT-mean loss); 0 as released.",
    )
    init: str | None = Field(
        None, description="Weights to start from (a file or builtin:NAME); null starts anew."
    )


class WalMaFaRecipe(EnhanceRecipe):
    """WalMaFa: `effcli enhance run` and `eval` use weights, strength and max_memory_mb, `train` all others."""

    method: Literal["walmafa"] = Field("walmafa", description="The method.")
    weights: str = Field(
        "builtin:walmafa", description="Weights that `run` and `eval` use: a file or builtin:NAME."
    )
    max_memory_mb: int | None = Field(
        None, ge=64, description="Bound on the memory for one picture; null is half of what is free."
    )
    network: WalMaFaConfig = Field(WalMaFaConfig(), description="The network that `train` builds.")
    data: PatchesSection = Field(PatchesSection(), description="Training and evaluation pairs.")
    train: TrainSection = Field(TrainSection(), description="The optimisation.")

    @model_validator(mode="after")
    def _schedule_falls(self) -> WalMaFaRecipe:
        if self.train.min_learning_rate > self.train.learning_rate:
            raise ValueError("train.min_learning_rate is above train.learning_rate")
        return self
