"""The settings of `effcli distill`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.metrics.distance_settings import DistanceSettings


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
    attention_head_dim: int | None = Field(32, ge=1, description="Channels a head; null is one head.")
    norm_num_groups: int = Field(16, ge=1, description="Groups of GroupNorm.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in residual blocks.")
    class_conditional: bool = Field(False, description="Tell the network the class of each image.")


class ScheduleSection(Section):
    """Noise levels, by the names of the diffusers schedulers."""

    num_train_timesteps: int = Field(1024, ge=2, description="Noise levels; a power of two halves exactly.")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "squaredcos_cap_v2", description="How noise grows; squaredcos_cap_v2 is the cosine schedule."
    )
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = Field(
        "v_prediction",
        description="What the network predicts; students of epsilon are converted to v_prediction first.",
    )
    set_alpha_to_one: bool = Field(
        True,
        description="Whether the last step ends at the clean image; false: at level 0, as in RDD's table of 2^m + 1.",
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


class TrainedRecipe(DistillRecipe):
    """Of a model that is trained from images alone."""

    data: DataSection = Field(description="The images.")
    train: TrainSection = Field(TrainSection(), description="The optimisation.")


class TeacherRecipe(TrainedRecipe):
    """A diffusion model."""

    method: Literal["teacher"] = Field("teacher", description="What is trained.")
    unet: UNetSection = Field(UNetSection(), description="The network.")
    schedule: ScheduleSection = Field(ScheduleSection(), description="The noise levels.")
    sampler: SamplerSettings = Field(
        SamplerSettings(steps=16), description="How the pictures of the report are drawn."
    )


class ClassifierRecipe(TrainedRecipe):
    """A classifier whose features compare images."""

    method: Literal["classifier"] = Field("classifier", description="What is trained.")
    network: Literal["small", "densenet201"] = Field(
        "small", description="small: five convolutions; densenet201: RDD's, with a stem for small images."
    )
    width: int = Field(32, ge=4, description="Channels of the small network's first layer.")


class ImagesSection(Section):
    """The images whose noisy versions students learn from; they are resized to the teacher's side."""

    source: str = Field(
        "builtin:fashion-images",
        description="A folder of pictures, of IDX files, a packed .npz, or builtin:fashion-images.",
    )
    flip: bool = Field(False, description="Mirror half of the images.")


class RoundsSection(Section):
    """The optimisation of each round."""

    updates: int = Field(500, ge=1, description="Updates of each round that ends at 8 steps or more.")
    few_step_updates: int = Field(
        500,
        ge=1,
        description="Updates of the round from 8 to 4 steps; those to 2 and to 1 have twice as many.",
    )
    conversion_updates: int = Field(
        500, ge=1, description="Updates of the round that changes the prediction, where there is one."
    )
    batch_size: int = Field(64, ge=1, description="Images an update, over all processes.")
    learning_rate: float = Field(
        5e-5, gt=0, description="Adam's first learning rate; a cosine takes it to 0."
    )
    grad_clip: float = Field(1.0, gt=0, description="Largest gradient norm.")


class ProgressiveRecipe(DistillRecipe):
    """Of the methods that halve the sampling steps of a diffusion model round by round."""

    model: str = Field(
        "builtin:fashion-diffusion",
        description="The teacher: a diffusers folder, a hub id, a run of `effcli distill train`, or builtin:NAME.",
    )
    data: ImagesSection = Field(ImagesSection(), description="The images.")
    teacher_steps: int = Field(64, ge=1, description="Steps that the first round halves; a power of two.")
    steps: int = Field(1, ge=1, description="Steps of the last student; a power of two.")
    prediction: Literal["auto", "sample", "v_prediction"] = Field(
        "auto",
        description="What students predict; a teacher that predicts something else is converted in a first round. "
        "auto: what the teacher predicts, but velocity where that is noise, of which no single step can be made.",
    )
    train: RoundsSection = Field(RoundsSection(), description="The optimisation of each round.")
    eval: DistanceSettings = Field(DistanceSettings(), description="What is measured at the end.")


class PdRecipe(ProgressiveRecipe):
    """PD: pixels in all rounds."""

    method: Literal["pd"] = Field("pd", description="The method.")


class FeatureRecipe(ProgressiveRecipe):
    """Of the methods whose last rounds compare features."""

    features: str = Field(
        "builtin",
        description="The network whose feature maps are compared: builtin, unet (the teacher's own), "
        "torchvision:NAME, timm:NAME, or a classifier's file.",
    )
    feature_side: int | None = Field(
        None, ge=8, description="Resize images to this side for it; null leaves them as they are."
    )
    features_from: int = Field(8, ge=1, description="Rounds from so many steps or fewer compare features.")
    cfd_weight: float = Field(1.0, ge=0, description="Weight of CFD, the KL divergence of pooled features.")
    cfd_temperature: float = Field(
        0.9, gt=0, description="tau, which sharpens the target's features alone; below 1."
    )
    pixel_weight: float = Field(0.0, ge=0, description="Weight of PD's pixel loss beside them.")


class RcfdRecipe(FeatureRecipe):
    """RCFD: pooled features in the last rounds."""

    method: Literal["rcfd"] = Field("rcfd", description="The method.")


class RelationSection(Section):
    """Relations between the pixels of feature maps."""

    is_weight: float = Field(1.0, ge=0, description="Weight of IS_P2P, relations between pixels of a batch.")
    is_temperature: float = Field(1.0, gt=0, description="tau of IS_P2P.")
    rows: Literal["pairs", "intra"] = Field(
        "pairs",
        description="Relations of IS_P2P: between all pairs of images, as released; or inside each image.",
    )
    m_weight: float = Field(0.1, ge=0, description="Weight of M_P2P, relations to a queue of earlier pixels.")
    contrast_temperature: float = Field(0.1, gt=0, description="By which the cosines of M_P2P are divided.")
    queue_size: int = Field(20_000, ge=1, description="Pixels in the queue.")
    contrast: int = Field(4096, ge=1, description="Pixels of the queue that a batch is compared with.")
    enqueue: int = Field(128, ge=1, description="Pixels of a batch that enter the queue.")
    head: Literal["projection", "none"] = Field(
        "projection", description="A learnt projection of the student's maps in M_P2P, or none."
    )
    queue: Literal["correct", "released"] = Field(
        "correct",
        description="released: random vectors at first, mostly unread, its pixels mixed across images and channels.",
    )

    @model_validator(mode="after")
    def _contrast_fits(self) -> RelationSection:
        if self.contrast > self.queue_size:
            raise ValueError(f"contrast {self.contrast} is more than queue_size {self.queue_size}")
        return self


class RddRecipe(FeatureRecipe):
    """RDD: pooled features and relations in the last rounds."""

    method: Literal["rdd"] = Field("rdd", description="The method.")
    relations: RelationSection = Field(RelationSection(), description="Relations between pixels.")
