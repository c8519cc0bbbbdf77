"""The settings of `effcli enhance`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from effcli.core.recipe import CompatRecipe, Recipe, Section, Switch
from effcli.core.recipe_changes import Added, Renamed
from effcli.enhance.brightness import AUTO, BrightnessField
from effcli.enhance.network.config import WalMaFaConfig

Detail = Literal["auto", "full", "fast"]
"""How large pictures are computed."""

RENAMED = (
    Renamed("data.train", "data.source"),
    Renamed("data.eval", "eval.data"),
    Added("network.head", "picture", methods=("walmafa",)),
)


class EnhanceDataSection(Section):
    """The training pairs."""

    source: tuple[str, ...] = Field(
        ("builtin:scenes",),
        description="Training pairs: folders or .tar files with low/ and high/ (or train/ and eval/ with both in "
        "each), with a folder per scene (reference and darker pictures), or builtin:scenes.",
    )
    held_out: tuple[str, ...] = Field(
        (),
        description="Names of pairs, or of their folders, that are held out from sources without parts: "
        "training skips them, and eval measures only them.",
    )


class EnhanceEvalSection(Section):
    """The evaluation pairs."""

    data: tuple[str, ...] = Field(
        (),
        description="Pairs that are measured after training, in the form of data.source; empty measures nothing.",
    )


class EnhanceRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["enhance"] = Field("enhance", description="The command this recipe is for.")
    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Blend of the result with the input, 0 to 1: 0 is the input, 1 the result alone.",
    )
    data: EnhanceDataSection = Field(EnhanceDataSection(), description="The training pairs.")
    eval: EnhanceEvalSection = Field(EnhanceEvalSection(), description="The evaluation pairs.")


class WalMaFaDataSection(EnhanceDataSection):
    """The training pairs, and how patches are sampled."""

    patch: int = Field(
        128,
        ge=16,
        multiple_of=16,
        description="Side of the square training patches in pixels, a multiple of 16. Larger patches take longer and "
        "make whole pictures come out better exposed.",
    )
    gamma_jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="j, 0 to below 1: each dark patch is raised to a random power from 1 - j to 1 + j, so "
        "that the brightness of the input says less about that of the result. 0 turns it off. "
        "Only for the head picture.",
    )
    identity: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of samples whose dark picture is the reference itself, 0 to 1, so that well-lit "
        "pictures stay unchanged. Only for the head exposure, like the next four.",
    )
    darken: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of samples whose dark picture is the reference darkened by a camera model, 0 to 1.",
    )
    charts: float = Field(
        0.08,
        ge=0,
        le=1,
        description="Share of samples that are charts of flat colours instead of a pair, 0 to 1: they teach "
        "that every colour keeps its hue and saturation.",
    )
    recolour: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of samples whose colour channels are permuted and whose saturation is varied, 0 to 1.",
    )
    other_levels: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of samples whose target level differs from that of their reference, 0 to 1.",
    )


class EnhanceTrainSection(Section):
    """The optimisation."""

    steps: int = Field(20_000, ge=1, description="Optimiser steps, 1 or more.")
    batch_size: int = Field(12, ge=1, description="Patches per step, 1 or more, over all processes.")
    learning_rate: float = Field(8e-4, gt=0, description="Initial learning rate of Adam, above 0.")
    min_learning_rate: float = Field(
        1e-6, ge=0, description="Learning rate at the end of the cosine schedule, 0 to train.learning_rate."
    )
    adam_eps: float = Field(
        5e-5, gt=0, description="Epsilon of Adam, above 0. Larger values damp small gradients."
    )
    grad_clip: float | None = Field(
        None, gt=0, description="Largest gradient norm, above 0; null does not clip."
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the averaged weights that are saved, 0 to below 1. Higher values average over more "
        "steps; 0 saves the last weights.",
    )
    tv_weight: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Weight of total variation in the loss, 0 to 1; L1 and SSIM get the rest. Higher values "
        "smooth more.",
    )
    ssim: bool = Field(
        True, description="true adds an SSIM term to the loss; false leaves it out (ablation)."
    )
    gt_mean_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the loss that ignores overall brightness, 0 to 1 (GT-mean loss, ICCV 2025). 0 leaves it "
        "out, as the released code does.",
    )
    level_steps: int = Field(
        3000, ge=1, description="Steps of the level predictor, 1 or more. Only for the head exposure."
    )
    level_batch_size: int = Field(
        32, ge=1, description="Pictures per step of the level predictor, 1 or more, over all processes."
    )
    level_learning_rate: float = Field(
        1e-3, gt=0, description="Initial learning rate of the level predictor, above 0; it falls to 0."
    )
    level_weight_decay: float = Field(
        0.05, ge=0, description="Weight decay of the level predictor (AdamW), 0 or more."
    )
    init: str | None = Field(
        None,
        description="Weights that training starts from: a file or builtin:NAME; null starts from random weights.",
    )


class WalMaFaRecipe(EnhanceRecipe, CompatRecipe):
    """WalMaFa: `effcli enhance run` and `eval` use weights, strength and max_memory_mb, `train` all others."""

    switches: ClassVar = {
        "network.mamba_band": Switch(paper="ll", released="high", ours="ll"),
        "network.token_order": Switch(paper="transpose", released="reshape", ours="transpose"),
        "network.head": Switch(paper="picture", released="picture", ours="exposure"),
    }
    method: Literal["walmafa"] = Field("walmafa", description="The method.")
    weights: str = Field(
        "builtin:walmafa", description="Weights that run and eval use: a file or builtin:NAME."
    )
    brightness: BrightnessField = Field(
        AUTO,
        description="Level to reach: auto, which leaves well-lit pictures alone; a mean grey level above 0 and up to "
        "0.95; or stops from what auto chooses, such as +1EV or -0.5EV.",
    )
    detail: Detail = Field(
        "auto",
        description="How large pictures are computed: with full the network sees every pixel; with fast it "
        "sees a version of about one megapixel, and its output is carried to the full size; "
        "auto is fast above 8 megapixels. Only for weights with an exposure head; others are "
        "always computed in full.",
    )
    max_memory_mb: int | None = Field(
        None,
        ge=64,
        description="Memory for one picture in MB, 64 or more; null takes up to half of what is free, and "
        "on a CPU no more than needed for strips of moderate height. A picture that needs more "
        "is computed in strips, with the same result up to rounding.",
    )
    network: WalMaFaConfig = Field(WalMaFaConfig(), description="The network that train builds.")
    data: WalMaFaDataSection = Field(
        WalMaFaDataSection(), description="The training pairs, and how patches are sampled."
    )
    train: EnhanceTrainSection = Field(EnhanceTrainSection(), description="The optimisation.")

    @model_validator(mode="after")
    def _shares_fit(self) -> WalMaFaRecipe:
        if self.data.identity + self.data.darken + self.data.charts > 1:
            raise ValueError("data.identity, data.darken and data.charts are more than 1 together")
        return self

    @model_validator(mode="after")
    def _schedule_falls(self) -> WalMaFaRecipe:
        if self.train.min_learning_rate > self.train.learning_rate:
            raise ValueError("train.min_learning_rate is above train.learning_rate")
        return self
