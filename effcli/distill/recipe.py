"""The settings of `effcli distill`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from effcli.core.recipe import Recipe, Section
from effcli.diffusion.sampler_settings import SamplerSettings


class DataSection(Section):
    """The images."""

    source: str = Field(
        description="Images to learn from: a folder of pictures, of IDX files, or a packed .npz."
    )
    side: int = Field(16, ge=8, multiple_of=4, description="Side of the images, pixels; others are resized.")
    channels: Literal[1, 3] = Field(1, description="1 for grey, 3 for RGB.")
    flip: bool = Field(False, description="Mirror half of the images.")


class UNetSection(Section):
    """The teacher's network, a `UNet2DModel` of diffusers."""

    block_out_channels: tuple[int, ...] = Field((32, 64, 96), description="Width of each level.")
    layers_per_block: int = Field(1, ge=1, description="Residual blocks a level.")
    attention_levels: tuple[int, ...] = Field(
        (1,), description="Levels with attention, 0 is full resolution."
    )
    attention_head_dim: int = Field(32, ge=1, description="Channels a head.")
    norm_num_groups: int = Field(16, ge=1, description="Groups of GroupNorm.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in residual blocks.")


class ScheduleSection(Section):
    """Noise levels, by the names of the diffusers schedulers."""

    num_train_timesteps: int = Field(1024, ge=2, description="Noise levels; a power of two halves exactly.")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "squaredcos_cap_v2", description="How noise grows; squaredcos_cap_v2 is the cosine schedule."
    )
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = Field(
        "v_prediction", description="What the network predicts; epsilon cannot be distilled to one step."
    )


class TrainSection(Section):
    """The optimisation."""

    steps: int = Field(10_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(128, ge=1, description="Images a step, over all processes.")
    learning_rate: float = Field(2e-4, gt=0, description="Adam's learning rate after the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the rate rises linearly.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="Decay of the averaged weights that are saved.")
    grad_clip: float = Field(1.0, gt=0, description="Largest gradient norm.")


class DistillRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["distill"] = Field("distill", description="The command this recipe is for.")
    data: DataSection = Field(description="The images.")
    train: TrainSection = Field(TrainSection(), description="The optimisation.")


class TeacherRecipe(DistillRecipe):
    """A diffusion model."""

    method: Literal["teacher"] = Field("teacher", description="What is trained.")
    unet: UNetSection = Field(UNetSection(), description="The network.")
    schedule: ScheduleSection = Field(ScheduleSection(), description="The noise levels.")
    sampler: SamplerSettings = Field(
        SamplerSettings(), description="How the pictures of the report are drawn."
    )


class ClassifierRecipe(DistillRecipe):
    """A classifier whose features compare images."""

    method: Literal["classifier"] = Field("classifier", description="What is trained.")
    width: int = Field(32, ge=4, description="Channels of the first layer.")
