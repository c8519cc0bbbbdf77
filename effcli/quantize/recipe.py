"""The settings of `effcli quantize`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from effcli.core.recipe import CompatRecipe, Recipe, Section, Switch
from effcli.core.recipe_changes import Renamed
from effcli.diffusion.sampler_settings import ConditionSection, SamplerSettings
from effcli.metrics.distance_settings import DistanceSettings
from effcli.quantize.bit_widths import BitWidths, parse_bits

RENAMED = (
    Renamed("allocation.search", "allocation.search", {"paper": "half", "code": "tenth"}),
    Renamed("allocation.profile", "allocation.profile", {"paper": "main-path"}),
)


class LoraSection(Section):
    """A LoRA that is merged into the network before it is quantized."""

    file: str | None = Field(
        None,
        description="safetensors file of a LoRA, as trainers save it, to merge into the weights; null for "
        "none.",
    )
    scale: float = Field(1.0, description="Factor on the LoRA's update of the weights.")


class WeightsSection(Section):
    """What the codes of weights mean."""

    codes: Literal["affine", "codebook"] = Field(
        "affine",
        description="affine: equal steps from a scale and a zero-point per row; codebook: a table of levels "
        "per row, those of least squared error, for 1 to 4 bits. Layers of 8 bits stay affine.",
    )


class AllocationSection(Section):
    """How many bits each row (output channel) gets."""

    rule: Literal["kurtosis", "error", "uniform"] = Field(
        "kurtosis",
        description="What decides which rows get one bit more and which one bit less. kurtosis: the outliers "
        "of a row "
        "(OMQ of MPQ-DM); error: its output error; uniform: no row changes.",
    )
    plus: bool = Field(
        False,
        description="MPQ-DM+: the 10 % of the rows with the highest kurtosis get one bit more, and no row "
        "gets fewer; only with the rule kurtosis.",
    )
    search: Literal["half", "tenth"] = Field(
        "half",
        description="Shares of rows that the rule kurtosis tries to raise and lower. half: 0, 10, ..., 50 % "
        "each, with quantized "
        "inputs; tenth: 0 or 10 %, with inputs in full precision.",
    )
    profile: Literal["all", "main-path"] = Field(
        "all",
        description="Which layers are quantized. all: every convolution and linear layer; main-path: skip "
        "and "
        "downsampling convolutions, and the attention of unconditional UNets, stay in full precision.",
    )


class CalibrationInputsSection(Section):
    """Inputs of the network that ranges are found with, from the model's own samples."""

    n_images: int = Field(
        32, ge=1, description="Images that are sampled; each of their sampling steps is a candidate input."
    )
    n_inputs: int = Field(
        128, ge=1, description="Network inputs chosen at random from these candidates, to find ranges on."
    )


class CalibrationSection(CalibrationInputsSection):
    """The ranges before fine-tuning."""

    smoothing: bool = Field(
        True,
        description="Move outliers of the activations into the weights, per input channel (SmoothQuant).",
    )
    range_method: Literal["mse", "max"] = Field(
        "mse",
        description="How ranges are found. mse: the range with the smallest mean error to the power 2.4; "
        "max: from the smallest to the largest value.",
    )


class QuantizeTrainSection(Section):
    """The fine-tuning on the full-precision model's own sampling runs."""

    trajectories: int = Field(
        40,
        ge=0,
        description="Sampling runs to fine-tune on; each gives one optimiser step per sampling step. 0: "
        "calibrate "
        "only.",
    )
    batch_size: int = Field(16, ge=1, description="Images per trajectory, over all processes.")
    rank: int = Field(32, ge=1, description="Rank of the low-rank update of each weight.")
    lora_rate_divisor: float = Field(
        2500.0,
        gt=0,
        description="The learning rate of a layer's low-rank update is its mean weight scale divided by this.",
    )
    weight_scale_rate: float = Field(
        1e-6, gt=0, description="Learning rate of the scales and zero-points of weights."
    )
    activation_scale_rate: float = Field(
        5e-4, gt=0, description="Learning rate of the scales and zero-points of activations."
    )
    zero_points: Literal["integer", "float"] = Field(
        "integer",
        description="Zero-points in training. integer: rounded wherever they are used, as in the packed "
        "file; "
        "float: fractions, rounded only when the model is packed.",
    )
    per_step_activations: bool = Field(
        True,
        description="One scale and zero-point of a layer's activations per sampling step; false: one for all "
        "steps.",
    )
    trd: bool = Field(
        True, description="Add TRD, the time-smoothed relation distillation, to the error of the prediction."
    )
    trd_weight: float = Field(100.0, ge=0, description="Weight of TRD beside the error of the prediction.")
    trd_window: int = Field(
        2, ge=1, description="Consecutive sampling steps whose features are averaged for TRD."
    )
    trd_temperature: float = Field(
        1.0,
        gt=0,
        description="Temperature tau of TRD, by which cosine similarities are divided; larger flattens.",
    )
    trd_pool: int | None = Field(
        16,
        ge=1,
        description="Largest side, in pixels, to which features are pooled for TRD; null: not pooled. Memory "
        "grows "
        "with "
        "the fourth power.",
    )
    trd_reduction: Literal["sum", "mean"] = Field(
        "sum", description="Whether TRD is the sum or the mean over all pixels and images of a batch."
    )
    trd_detached: bool = Field(
        False,
        description="Compute TRD without a gradient, as the released code does: it is logged but has no "
        "effect on training.",
    )


class PackingSection(Section):
    """The packed file."""

    other_dtype: Literal["fp16", "bf16", "fp32"] = Field(
        "fp16", description="Number format of everything that is not quantized: biases, norms, embeddings."
    )


class QuantizeRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["quantize"] = Field("quantize", description="The command this recipe is for.")
    model: str = Field(
        "builtin:fashion-diffusion",
        description="The full-precision model: a diffusers folder, a Hub id, or builtin:NAME.",
    )
    lora: LoraSection = Field(LoraSection(), description="A LoRA to merge into the network first.")
    bits: str = Field(
        "w2a4",
        description="Mean bits per weight and bits per activation, 1 to 8: w2a4; w4 quantizes weights only.",
    )
    sampler: SamplerSettings = Field(
        SamplerSettings(), description="The sampler that the result is made for."
    )
    condition: ConditionSection = Field(ConditionSection(), description="Conditions of a conditional model.")
    packing: PackingSection = Field(PackingSection(), description="The packed file.")
    eval: DistanceSettings = Field(DistanceSettings(), description="What is measured at the end.")

    @field_validator("bits")
    @classmethod
    def _bits_are_known(cls, text: str) -> str:
        parse_bits(text)
        return text.lower()

    @model_validator(mode="after")
    def _fast_is_for_weights(self) -> Self:
        if getattr(self, "fast", False) and self.widths.activations is not None:
            raise ValueError(f"fast quantizes weights only: use bits w{self.widths.weights}, not {self.bits}")
        return self

    @property
    def widths(self) -> BitWidths:
        """The bits as numbers."""
        return parse_bits(self.bits)


class MpqDmRecipe(QuantizeRecipe, CompatRecipe):
    """MPQ-DM; its switches are those of docs/methods/mpq-dm.md, Switches."""

    switches: ClassVar = {
        "allocation.search": Switch(paper="half", released="tenth", ours="half"),
        "allocation.profile": Switch(paper="main-path", released="main-path", ours="all"),
        "train.zero_points": Switch(paper="float", released="float", ours="integer"),
        "train.trd_detached": Switch(paper=False, released=True, ours=False),
        "train.trd_pool": Switch(paper=None, released=None, ours=16),
    }
    method: Literal["mpq-dm"] = Field("mpq-dm", description="The method.")
    fast: bool = Field(
        False,
        description="Quantize weights only, one layer after another, without sampling, fine-tuning or "
        "evaluation; bits must be for weights only, such as w4.",
    )
    weights: WeightsSection = Field(WeightsSection(), description="Codes of the weights.")
    allocation: AllocationSection = Field(AllocationSection(), description="Bits of each row.")
    calibration: CalibrationSection = Field(
        CalibrationSection(), description="The ranges before fine-tuning."
    )
    train: QuantizeTrainSection = Field(QuantizeTrainSection(), description="The fine-tuning.")

    @model_validator(mode="after")
    def _plus_is_by_kurtosis(self) -> Self:
        if self.allocation.plus and self.allocation.rule != "kurtosis":
            raise ValueError(
                f"allocation.plus goes by kurtosis, not with allocation.rule: {self.allocation.rule}"
            )
        return self

    @model_validator(mode="after")
    def _codebooks_are_small(self) -> Self:
        if self.weights.codes == "codebook" and self.widths.weights > 4:
            raise ValueError(f"weights.codes: codebook is for 1 to 4 bits per weight, not {self.bits}")
        return self
