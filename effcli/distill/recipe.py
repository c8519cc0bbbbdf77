"""The settings of `effcli distill` for diffusion models, and of the models that distillation starts from."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from effcli.core.recipe import CompatRecipe, Recipe, Section, Switch
from effcli.core.recipe_changes import Renamed
from effcli.diffusion.sampler_settings import ConditionSection, SamplerSettings
from effcli.metrics.distance_settings import DistanceSettings

_PROGRESSIVE = ("pd", "rcfd", "rdd")
_CLIP = ("clip-kd", "lit")
_FLIPS = {True: 0.5, False: 0.0}

RENAMED = (
    Renamed("steps", "student_steps", methods=_PROGRESSIVE),
    Renamed("train.updates", "train.steps", methods=_PROGRESSIVE),
    Renamed("train.few_step_updates", "train.last_rounds_steps", methods=_PROGRESSIVE),
    Renamed("train.conversion_updates", "train.conversion_steps", methods=_PROGRESSIVE),
    Renamed("data.flip", "augment.flip", _FLIPS, methods=(*_PROGRESSIVE, "teacher", "classifier")),
    Renamed("relations.queue", "relations.queue", {"correct": "pixels", "released": "mixed"}),
    Renamed("eval.source", "eval.data", methods=_CLIP),
    Renamed("loss.mask", "loss.mask", {"released": "unused"}, methods=_CLIP),
    Renamed(
        "loss.gd_temperature",
        "loss.gd_temperature",
        {"correct": "inverse-scale", "released": "scale"},
        methods=_CLIP,
    ),
)


class DistillRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["distill"] = Field("distill", description="The command this recipe is for.")


class DistillAugmentSection(Section):
    """Random changes of the training images."""

    flip: float = Field(
        0.0, ge=0, le=1, description="Share of the training images that are mirrored, 0 to 1."
    )


# --- few-step students -------------------------------------------------------------------------------------


_GREY_TEACHER = "builtin:fashion-diffusion"
CLOTHES = "builtin:fashion-images"
"""The images in the package, those that the grey teacher in the package learned from."""

SAMPLED = "teacher"
"""In place of images: what the teacher samples."""


class DistillImagesSection(Section):
    """The images whose noisy versions students learn from; they are resized to the teacher's side."""

    source: str | None = Field(
        None,
        description="Training images: a folder of pictures, a folder of IDX files, a packed .npz, or "
        "builtin:fashion-images; for text-conditional teachers images with captions, as for "
        "CLIP-KD; or teacher: images that the teacher samples itself. null: builtin:fashion-images for "
        "builtin:fashion-diffusion, which learned from them, and teacher for all others.",
    )
    sampled: int = Field(
        2048,
        ge=1,
        description="Number of images that the teacher samples before training, where it is to sample them.",
    )


class StudentTrainSection(Section):
    """The optimisation of students."""

    conversion_steps: int = Field(
        500,
        ge=1,
        description="Optimiser steps of the round that changes what the network predicts, where there is one.",
    )
    batch_size: int = Field(64, ge=1, description="Images per optimiser step, over all processes.")
    learning_rate: float = Field(
        5e-5, gt=0, description="Adam's first learning rate in a round; a cosine takes it to 0."
    )
    grad_clip: float = Field(
        1.0, gt=0, description="Largest norm of the gradient; larger gradients are scaled down to it."
    )


class StudentsRecipe(DistillRecipe):
    """Of the methods whose students are a diffusion model's, of fewer sampling steps."""

    model: str = Field(
        _GREY_TEACHER,
        description="The teacher: a diffusers folder, a Hub id, a run of `effcli distill train`, or builtin:NAME.",
    )
    data: DistillImagesSection = Field(DistillImagesSection(), description="The training images.")
    augment: DistillAugmentSection = Field(
        DistillAugmentSection(), description="Random changes of the training images."
    )
    guidance: float = Field(
        1.0,
        ge=0,
        description="Classifier-free guidance scale of the teacher, which is built into the students, so "
        "that they need one network call per step; 1 is no guidance.",
    )
    condition: ConditionSection = Field(
        ConditionSection(), description="The conditions of a conditional teacher."
    )
    student: str | None = Field(
        None,
        description="The students' network. null: the teacher's; width=SHARE: its channels times this, above 0 to 1; "
        "layers=N: that many residual blocks per level; both with a comma; or a config.json of a UNet2DModel. A new "
        "network first learns for train.conversion_steps at the teacher's number of steps.",
    )
    teacher_steps: int = Field(
        64, ge=1, description="Sampling steps of the teacher, which the first round halves; a power of two."
    )
    student_steps: int = Field(
        1, ge=1, description="Sampling steps of the last student; a power of two, below teacher_steps."
    )
    train: StudentTrainSection = Field(StudentTrainSection(), description="The optimisation.")
    eval: DistanceSettings = Field(DistanceSettings(), description="What is measured at the end.")

    @property
    def training_images(self) -> str:
        """Where the training images are, or :data:`SAMPLED`: ``data.source`` with its default."""
        return self.data.source or (CLOTHES if self.model == _GREY_TEACHER else SAMPLED)


class RoundsSection(StudentTrainSection):
    """The optimisation of each round."""

    steps: int = Field(
        500, ge=1, description="Optimiser steps of each round whose student has 8 sampling steps or more."
    )
    last_rounds_steps: int = Field(
        500,
        ge=1,
        description="Optimiser steps of the round from 8 to 4 sampling steps; those to 2 and to 1 have twice as many.",
    )


class ProgressiveRecipe(StudentsRecipe):
    """Of the methods that halve the sampling steps of a diffusion model round by round."""

    prediction: Literal["auto", "sample", "v_prediction"] = Field(
        "auto",
        description="What students predict: the image (sample) or the velocity (v_prediction); a teacher that predicts "
        "something else is converted in a first round. auto: what the teacher predicts, but the velocity where "
        "that is noise, because noise cannot be turned into an image in one step.",
    )
    train: RoundsSection = Field(RoundsSection(), description="The optimisation of each round.")


class PdRecipe(ProgressiveRecipe):
    """PD: pixels in all rounds."""

    method: Literal["pd"] = Field("pd", description="The method.")


class FeatureRecipe(ProgressiveRecipe):
    """Of the methods whose last rounds compare features."""

    features: str = Field(
        "builtin",
        description="The network whose feature maps are compared: builtin (grey 16x16 clothes), unet (the teacher's "
        "own middle block), torchvision:NAME, timm:NAME, or a classifier's file.",
    )
    feature_side: int | None = Field(
        None,
        ge=8,
        description="Side in pixels to which images are resized for the feature network; null: not resized.",
    )
    features_from: int = Field(
        8, ge=1, description="Rounds whose teacher has this many sampling steps or fewer compare features."
    )
    layers: Literal["last", "all"] = Field(
        "last",
        description="Which feature maps are compared. last: the last one, pooled, by CFD, as in the paper; "
        "all: those of all layers, pixel by pixel, normalised over channels, as in LPIPS. "
        "Relations always use the last map.",
    )
    cfd_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of CFD, the KL divergence of pooled features; with layers: all, of the distance "
        "between all maps.",
    )
    cfd_temperature: float = Field(
        0.9,
        gt=0,
        description="Temperature tau of the target's features, not of the student's; below 1 it sharpens them.",
    )
    pixel_weight: float = Field(
        0.0, ge=0, description="Weight of PD's pixel loss in the rounds that compare features."
    )


class RcfdRecipe(FeatureRecipe):
    """RCFD: pooled features in the last rounds."""

    method: Literal["rcfd"] = Field("rcfd", description="The method.")


class RelationSection(Section):
    """Relations between the pixels of feature maps."""

    is_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of IS_P2P, the relations between the pixels of a batch; 0: not computed.",
    )
    is_temperature: float = Field(
        1.0, gt=0, description="Temperature tau of IS_P2P, by which cosines are divided."
    )
    rows: Literal["pairs", "intra"] = Field(
        "pairs",
        description="Pixels that IS_P2P relates. pairs: those of every pair of images in a batch; intra: those of one "
        "image.",
    )
    m_weight: float = Field(
        0.1,
        ge=0,
        description="Weight of M_P2P, the relations to a queue of pixels of earlier batches; 0: not computed.",
    )
    contrast_temperature: float = Field(
        0.1, gt=0, description="Temperature of M_P2P, by which cosines are divided."
    )
    queue_size: int = Field(20_000, ge=1, description="Pixels in the queue.")
    contrast: int = Field(
        4096, ge=1, description="Pixels of the queue that a batch is compared with; at most queue_size."
    )
    enqueue: int = Field(128, ge=1, description="Pixels of a batch that enter the queue, over all processes.")
    head: Literal["projection", "none"] = Field(
        "projection",
        description="What the student's feature maps pass through before M_P2P: a learned projection, or nothing.",
    )
    queue: Literal["pixels", "mixed"] = Field(
        "pixels",
        description="Contents of the queue. pixels: pixel vectors, all of which may be read; mixed: as in "
        "the released code, vectors mixed across images and channels, random at first, of which "
        "always the same fifth is read.",
    )

    @model_validator(mode="after")
    def _contrast_fits(self) -> RelationSection:
        if self.contrast > self.queue_size:
            raise ValueError(f"contrast {self.contrast} is more than queue_size {self.queue_size}")
        return self


class RddRecipe(FeatureRecipe, CompatRecipe):
    """RDD: pooled features and relations in the last rounds; its switches are in docs/methods/rdd.md, Switches."""

    switches: ClassVar = {
        "relations.rows": Switch(paper="intra", released="pairs", ours="pairs"),
        "relations.queue": Switch(paper="pixels", released="mixed", ours="pixels"),
    }
    method: Literal["rdd"] = Field("rdd", description="The method.")
    relations: RelationSection = Field(RelationSection(), description="Relations between pixels.")


# --- the models that distillation starts from --------------------------------------------------------------


class ImageModelDataSection(Section):
    """The images that a model is trained on."""

    source: str = Field(
        description="Images to learn from: a folder of pictures, a folder of IDX files, or a packed .npz."
    )
    side: int = Field(
        16,
        ge=8,
        multiple_of=4,
        description="Side of the images in pixels; others are resized and cropped to it.",
    )
    channels: Literal[1, 3] = Field(1, description="Colour channels: 1 for grey, 3 for RGB.")


class ImageModelTrainSection(Section):
    """The optimisation."""

    steps: int = Field(10_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(128, ge=1, description="Images per step, over all processes.")
    learning_rate: float = Field(2e-4, gt=0, description="AdamW's learning rate after the warm-up.")
    warmup_steps: int = Field(
        0, ge=0, description="Steps over which the learning rate rises linearly from 0 (diffusion models)."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    ema_decay: float = Field(
        0.9999,
        ge=0,
        lt=1,
        description="Decay of the averaged weights, which are saved (diffusion models).",
    )
    grad_clip: float = Field(
        1.0, gt=0, description="Largest norm of the gradient; larger gradients are scaled down to it."
    )


class ImageModelRecipe(DistillRecipe):
    """Of a model that is trained on images only."""

    data: ImageModelDataSection = Field(description="The images.")
    augment: DistillAugmentSection = Field(
        DistillAugmentSection(), description="Random changes of the training images."
    )
    train: ImageModelTrainSection = Field(ImageModelTrainSection(), description="The optimisation.")


class UNetSection(Section):
    """The teacher's network, a `UNet2DModel` of diffusers."""

    block_out_channels: tuple[int, ...] = Field(
        (32, 64, 96), description="Channels of each resolution level, the finest first."
    )
    layers_per_block: int = Field(1, ge=1, description="Residual blocks per level.")
    attention_levels: tuple[int, ...] = Field((1,), description="Levels with attention; 0 is the finest.")
    attention_head_dim: int | None = Field(
        32, ge=1, description="Channels per attention head; null: a single head."
    )
    norm_num_groups: int = Field(
        16, ge=1, description="Groups of GroupNorm; every level's channels are a multiple of it."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of activations dropped in residual blocks.")
    class_conditional: bool = Field(False, description="Tell the network the class of each image.")


class ScheduleSection(Section):
    """Noise levels, by the names of the diffusers schedulers."""

    num_train_timesteps: int = Field(
        1024, ge=2, description="Number of noise levels; with a power of two every halving is exact."
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "squaredcos_cap_v2",
        description="How noise grows over the levels; squaredcos_cap_v2 is the cosine schedule.",
    )
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = Field(
        "v_prediction",
        description="What the network predicts: noise (epsilon), the image (sample) or the velocity (v_prediction).",
    )
    set_alpha_to_one: bool = Field(
        True,
        description="Whether the last sampling step ends at the clean image; false: at noise level 0, as in RDD's "
        "table of 2^m + 1 levels.",
    )


class TeacherTrainSection(ImageModelTrainSection):
    """The optimisation of a diffusion model."""

    weighting: Literal["truncated_snr", "min_snr"] = Field(
        "truncated_snr",
        description="Weight of the image error at each noise level. truncated_snr: max(1, SNR), as in progressive "
        "distillation; min_snr: min(SNR, 5), which reaches good pictures in fewer steps.",
    )
    label_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the images that a class-conditional model sees without their class, from 0 to below 1, "
        "so that it can be guided; the label after the last class then means no class.",
    )


class TeacherRecipe(ImageModelRecipe):
    """A diffusion model."""

    method: Literal["teacher"] = Field("teacher", description="What is trained: a diffusion model.")
    unet: UNetSection = Field(UNetSection(), description="The network.")
    train: TeacherTrainSection = Field(TeacherTrainSection(), description="The optimisation.")
    schedule: ScheduleSection = Field(ScheduleSection(), description="The noise levels.")
    sampler: SamplerSettings = Field(
        SamplerSettings(steps=16), description="How the images in the report are sampled."
    )


class ClassifierRecipe(ImageModelRecipe):
    """A classifier whose features compare images."""

    method: Literal["classifier"] = Field("classifier", description="What is trained: a classifier.")
    network: Literal["small", "densenet201"] = Field(
        "small",
        description="The network. small: five convolutions; densenet201: RDD's, with a stem for small images.",
    )
    width: int = Field(32, ge=4, description="Channels of the small network's first layer.")
