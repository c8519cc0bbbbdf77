"""The settings of `effcli quantize`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from effcli.core.recipe import Recipe, Section
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.metrics.distance_settings import DistanceSettings
from effcli.quantize.bit_widths import BitWidths, parse_bits


class ConditionSection(Section):
    """What a conditional model is asked for while it is calibrated, fine-tuned and evaluated."""

    prompts: str | None = Field(
        None,
        description="Text file, one prompt a line, for text-conditional models; null uses a few general ones.",
    )
    null_class: int | None = Field(
        None, description="Label that means no class, for guidance of class-conditional models."
    )


class AllocationSection(Section):
    """How many bits each row (output channel) gets."""

    rule: Literal["kurtosis", "error", "uniform"] = Field(
        "kurtosis",
        description="kurtosis: the rows' outliers decide (MPQ-DM, OMQ). error: their output errors do. uniform: none.",
    )
    plus: bool = Field(
        False, description="MPQ-DM+: a tenth of the rows get a bit more and none fewer; with rule kurtosis."
    )
    search: Literal["paper", "code"] = Field(
        "paper",
        description="Shares of rows that kurtosis tries to move: 0..50 % a side, or 0 and 10 % as released.",
    )
    profile: Literal["all", "paper"] = Field(
        "all",
        description="Layers that are quantized: all, or as published without skip and downsampling convolutions "
        "and the attention of unconditional UNets.",
    )


class InputsSection(Section):
    """Inputs of the network that ranges are found with, from the model's own samples."""

    n_images: int = Field(32, ge=1, description="Images whose every sampling step is a candidate.")
    n_inputs: int = Field(128, ge=1, description="Network inputs drawn from those to find ranges with.")


class CalibrationSection(InputsSection):
    """Activations seen before training."""

    smoothing: bool = Field(True, description="Share outliers between activations and weights (SmoothQuant).")
    range_method: Literal["mse", "max"] = Field("mse", description="How the first ranges are found.")


class TrainSection(Section):
    """The fine-tuning on the full-precision model's own trajectories."""

    trajectories: int = Field(
        40, ge=0, description="Sampling runs E; each gives S optimiser steps. 0: calibrated only."
    )
    batch_size: int = Field(16, ge=1, description="Images a trajectory, over all processes.")
    rank: int = Field(32, ge=1, description="Rank of the merged low-rank update of each weight.")
    lora_rate_divisor: float = Field(
        2500.0, gt=0, description="A layer's low-rank learning rate is its mean weight scale over this."
    )
    weight_scale_rate: float = Field(
        1e-6, gt=0, description="Learning rate of weight scales and zero-points."
    )
    activation_scale_rate: float = Field(
        5e-4, gt=0, description="Learning rate of activation scales and zero-points."
    )
    zero_points: Literal["integer", "float"] = Field(
        "integer",
        description="While training: integer, as they are used; or float as published, and rounded when packed.",
    )
    per_step_activations: bool = Field(
        True, description="An activation scale a sampling step, or one for all."
    )
    trd: bool = Field(True, description="Time-smoothed relation distillation beside the output error.")
    trd_weight: float = Field(100.0, ge=0, description="Weight of TRD.")
    trd_window: int = Field(2, ge=1, description="Consecutive steps N whose features are averaged.")
    trd_temperature: float = Field(1.0, gt=0, description="tau, by which similarities are divided.")
    trd_pool: int | None = Field(
        16, ge=1, description="Features are pooled to at most this side; null leaves them."
    )
    trd_reduction: Literal["sum", "mean"] = Field("sum", description="Over rows and images.")
    trd_detached: bool = Field(False, description="As released: TRD without a gradient, so without effect.")


class PackingSection(Section):
    """The file."""

    other_dtype: Literal["fp16", "bf16", "fp32"] = Field("fp16", description="Of what is not quantized.")


class QuantizeRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["quantize"] = Field("quantize", description="The command this recipe is for.")
    model: str = Field(
        "builtin:fashion-diffusion", description="A diffusers folder, a hub id, or builtin:NAME."
    )
    bits: str = Field(
        "w2a4", description="Mean bits of weights and bits of activations: w2a4; w4 is weights alone."
    )
    sampler: SamplerSettings = Field(SamplerSettings(), description="How images are drawn, here and later.")
    condition: ConditionSection = Field(ConditionSection(), description="For conditional models.")
    packing: PackingSection = Field(PackingSection(), description="The file.")
    eval: DistanceSettings = Field(DistanceSettings(), description="What is measured at the end.")

    @field_validator("bits")
    @classmethod
    def _bits_are_known(cls, text: str) -> str:
        parse_bits(text)
        return text.lower()

    @property
    def widths(self) -> BitWidths:
        """The bits as numbers."""
        return parse_bits(self.bits)


class MpqDmRecipe(QuantizeRecipe):
    """MPQ-DM."""

    method: Literal["mpq-dm"] = Field("mpq-dm", description="The method.")
    allocation: AllocationSection = Field(AllocationSection(), description="Bits of each row.")
    calibration: CalibrationSection = Field(CalibrationSection(), description="The first ranges.")
    train: TrainSection = Field(TrainSection(), description="The fine-tuning.")
