"""The settings of CLIP-KD, and of training a CLIP on a locked image trunk."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from effcli.core.recipe import CompatRecipe, Section, Switch
from effcli.distill.recipe import DistillRecipe

STORED = "data"
"""The teacher whose embeddings the data hold."""


class ClipPairsSection(Section):
    """Images and captions."""

    source: str = Field(
        "builtin:twemoji-captions",
        description="Training pairs: a CSV, WebDataset .tar shards, a folder of images with captions, an .npz, or "
        "builtin:NAME.",
    )
    part: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]*/[1-9][0-9]*$",
        description="K/N: use only the K-th of N disjoint parts of the training images, so that teacher and "
        "student can learn from different images; null: all.",
    )
    image_column: str | None = Field(
        None, description="Column of a CSV with the paths of images; null: one of the usual names."
    )
    caption_column: str | None = Field(
        None, description="Column of a CSV with captions; null: one of the usual names."
    )
    most_left_out: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest share of listed images, 0 to 1, that may be missing, damaged or without a caption.",
    )
    workers: int = Field(
        0, ge=0, description="Processes that decode images ahead of time; 0: the main process decodes."
    )

    @field_validator("part")
    @classmethod
    def _is_one_of_them(cls, value: str | None) -> str | None:
        if value is not None:
            number, _, n_parts = value.partition("/")
            if int(number) > int(n_parts):
                raise ValueError(f"there are {n_parts} parts, 1/{n_parts} to {n_parts}/{n_parts}")
        return value


class ClipEvalSection(Section):
    """What is measured at the end."""

    data: str | None = Field(
        None,
        description="Pairs to measure on; null: the eval part of data.source, or where it has none the images that are "
        "held out.",
    )
    hold_out: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of the images, 0 to 1, that is held out where the data has no eval part.",
    )
    zero_shot: str | None = Field(
        None,
        description="Images with classes for zero-shot classification: a folder with one sub-folder per class, or an "
        ".npz with labels; null: the pairs' own classes.",
    )
    templates: Literal["auto", "openai", "simple"] | tuple[str, ...] = Field(
        "auto",
        min_length=1,
        description="Sentences about each class with {} for its name, whose embeddings are averaged. openai: 80 for "
        "ImageNet; simple: 7 of them; auto: those in zeroshot_classification_templates.txt beside shards, else 'a "
        "photo of a {}'; for emoji '{}:', as their captions begin.",
    )
    captions: Literal["first", "all"] = Field(
        "first",
        description="Captions of each image that retrieval uses. first: one, as in CLIP-KD's tables; all: the usual "
        "protocol of COCO and Flickr.",
    )
    batch_size: int = Field(64, ge=1, description="Images that are embedded at a time.")


class ClipLossSection(Section):
    """Weights of the losses (docs/methods/clip-kd.md); those of weight 0 are not computed."""

    clip: float = Field(1.0, ge=0, description="Weight of L_CLIP, the student's own contrastive loss.")
    contrast: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="Form of L_CLIP. softmax: CLIP's, each row of the batch against its own pair; sigmoid: "
        "SigLIP's, each pair on its own, with a learned bias.",
    )
    crd: float = Field(
        1.0,
        ge=0,
        description="Weight of CRD, the KL divergence between the teacher's and the student's softmax over the batch.",
    )
    fd: float = Field(
        2000.0,
        ge=0,
        description="Weight of FD, the squared distance between the student's and the teacher's embeddings.",
    )
    fd_reduction: Literal["mean", "sample"] = Field(
        "mean",
        description="How fd and mfd reduce squared distances over the width of embeddings: their mean, or their sum "
        "(sample). A weight of 2000 with mean equals 3.906 with sample at width 512.",
    )
    mfd: float = Field(0.0, ge=0, description="Weight of MFD, FD of masked images; ViT students only.")
    mask_ratio: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="Share of the patches, 0 to 1, that mfd masks; higher values make its task harder.",
    )
    mask: Literal["applied", "unused"] = Field(
        "applied",
        description="Images of mfd. applied: masked ones, in a second pass of the student; unused: the unmasked ones.",
    )
    gd: float = Field(
        0.0,
        ge=0,
        description="Weight of GD, the squared distance between the gradients of the contrastive loss of student and "
        "teacher.",
    )
    gd_temperature: Literal["inverse-scale", "scale"] = Field(
        "inverse-scale",
        description="Temperature of the softmax in gd. inverse-scale: cosines are multiplied by the model's scale; "
        "scale: they are divided by it, which needs weights near 1e8.",
    )
    icl: float = Field(
        1.0,
        ge=0,
        description="Weight of ICL, the contrastive loss of the student's images with the teacher's texts, and the "
        "reverse.",
    )
    afd: float = Field(
        0.0,
        ge=0,
        description="Weight of AFD, the contrastive loss of embeddings that fuse student and teacher.",
    )
    cross: float = Field(
        0.0,
        ge=0,
        description="Weight of the KL divergence between the teacher's softmax and that of icl's logits.",
    )
    vrd: float = Field(
        0.0,
        ge=0,
        description="Weight of VRD (CLIP-RD, from its abstract): how alike images find their teacher's among those of "
        "the batch, and texts theirs.",
    )
    xrd: float = Field(
        0.0,
        ge=0,
        description="Weight of XRD (CLIP-RD, from its abstract): how alike the student's images find the teacher's "
        "texts, and its texts the teacher's images.",
    )
    scales: Literal["exp", "raw"] = Field(
        "exp",
        description="Learned scales of icl and afd. exp: exponentials, kept in 1 to 100, without weight decay; raw: "
        "used as they are, without bounds, decayed by 0.01.",
    )


class ClipInitSection(Section):
    """The initial weights of the student's towers."""

    image: str = Field(
        "new",
        description="Weights of the image tower. new: as student says; teacher: the teacher's, of which a "
        "narrower or shallower tower inherits a part; timm: timm's for the trunk; "
        "torchvision:NAME: torchvision's; or a file with a state dict of either.",
    )
    text: Literal["new", "teacher", "kept"] = Field(
        "new",
        description="Weights of the text tower. new: as student says; teacher: inherited from the "
        "teacher's; kept: the teacher's own tower, frozen, so that only the image tower is "
        "trained.",
    )


class ClipTrainSection(Section):
    """The optimisation."""

    epochs: int = Field(32, ge=1, description="Passes over the data.")
    batch_size: int = Field(1024, ge=2, description="Pairs per step, over all processes.")
    forward_pairs: int | None = Field(
        None,
        ge=1,
        description="Pairs that each process passes through the student at a time; null: all of a step. "
        "Fewer need less memory, but a second forward pass; the loss and its gradient stay "
        "those of the whole batch (BatchNorm apart).",
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="AdamW's learning rate after the warm-up; a cosine takes it to 0."
    )
    warmup_steps: int = Field(
        10_000, ge=0, description="Steps over which the learning rate rises linearly from 0."
    )
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay of matrices.")
    betas: Literal["auto"] | tuple[float, float] = Field(
        "auto",
        description="AdamW's betas, two numbers below 1; auto: 0.9 and 0.98 where the student's image tower is a ViT, "
        "MobileViT among them, else 0.9 and 0.999.",
    )
    grad_clip: float | None = Field(
        None, gt=0, description="Largest norm of the gradient; null: gradients are not scaled down."
    )


class ClipRecipe(DistillRecipe):
    """What both methods have."""

    data: ClipPairsSection = Field(ClipPairsSection(), description="Images and captions to train on.")
    teacher_cache: str = Field(
        "on",
        pattern=r"^(on|off|[1-9][0-9]*-views)$",
        description="Teacher embeddings that are cached on disk. on: one per whole image; N-views: one per crop, of "
        "N fixed crops of each image; off: none, with a new crop each epoch and the teacher running in every step.",
    )
    cache_dir: str | None = Field(
        None,
        description="Folder of cached teacher embeddings; null: effcli/clip in the user's cache.",
    )
    train: ClipTrainSection = Field(ClipTrainSection(), description="The optimisation.")
    eval: ClipEvalSection = Field(ClipEvalSection(), description="What is measured at the end.")

    @property
    def n_views(self) -> int | None:
        """Number of fixed views of each image; None: a new one each epoch."""
        if self.teacher_cache == "off":
            return None
        return 1 if self.teacher_cache == "on" else int(self.teacher_cache.split("-")[0])


class ClipKdRecipe(ClipRecipe, CompatRecipe):
    """CLIP-KD; its switches are those of docs/methods/clip-kd.md, Switches."""

    switches: ClassVar = {
        "loss.mask_ratio": Switch(paper=0.25, released=0.75, ours=0.25),
        "loss.mask": Switch(paper="applied", released="unused", ours="applied"),
        "loss.gd_temperature": Switch(paper="inverse-scale", released="scale", ours="inverse-scale"),
        "loss.scales": Switch(paper="exp", released="raw", ours="exp"),
        "teacher_cache": Switch(paper="off", released="off", ours="on"),
    }
    method: Literal["clip-kd"] = Field("clip-kd", description="The method.")
    model: str = Field(
        "builtin:twemoji-clip",
        description="The teacher: NAME:TAG or NAME:FILE of open_clip, a folder, hf-hub:OWNER/NAME, or builtin:NAME; "
        "data: the embeddings that reinforced data hold.",
    )
    more_teachers: tuple[str, ...] = Field(
        (), description="Further teachers, named as model; each has losses of its own, which are averaged."
    )
    teacher_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="Weights of the teachers in the order of model and more_teachers; null: equal."
    )
    student: str = Field(
        "ViT-Mini-8-64",
        description="The student. New weights: a model name of open_clip or effcli, a .json configuration, or a "
        "folder; trained ones: NAME:TAG or NAME:FILE of open_clip, hf-hub:OWNER/NAME, or builtin:NAME.",
    )
    init: ClipInitSection = Field(
        ClipInitSection(), description="The initial weights of the student's towers."
    )
    loss: ClipLossSection = Field(ClipLossSection(), description="Weights of the losses.")

    @model_validator(mode="after")
    def _one_weight_per_teacher(self) -> Self:
        if self.model == STORED:
            if self.more_teachers:
                raise ValueError(
                    "more_teachers: reinforced data already holds the embeddings of all teachers"
                )
        elif self.teacher_weights is not None and len(self.teacher_weights) != len(self.teachers):
            raise ValueError(
                f"teacher_weights: {len(self.teacher_weights)} weights for {len(self.teachers)} teachers"
            )
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of all teachers to load; none where the data hold their embeddings."""
        return () if self.model == STORED else (self.model, *self.more_teachers)


class ReinforceRecipe(DistillRecipe):
    """Storing the embeddings of pairs with them."""

    method: Literal["reinforce"] = Field("reinforce", description="The method.")
    model: str = Field(
        "builtin:twemoji-clip",
        description="The teacher: NAME:TAG or NAME:FILE of open_clip, a folder, hf-hub:OWNER/NAME, or builtin:NAME.",
    )
    more_teachers: tuple[str, ...] = Field(
        (), description="Further teachers, named as model; their embeddings are stored side by side."
    )
    data: ClipPairsSection = Field(ClipPairsSection(), description="Images and captions.")
    views: int = Field(
        8,
        ge=1,
        description="Crops of each image whose embeddings are stored; 1: the whole image. More give more "
        "variety and need more space.",
    )
    shard_images: int = Field(1000, ge=1, description="Largest number of images in a shard.")
    cache_dir: str | None = Field(
        None,
        description="Folder of cached teacher embeddings; null: effcli/clip in the user's cache.",
    )

    @property
    def n_views(self) -> int:
        """Number of fixed views of each image."""
        return self.views

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of all teachers."""
        return (self.model, *self.more_teachers)


class LockedImageRecipe(ClipRecipe):
    """LiT: a CLIP on a trained image trunk that stays as it is."""

    method: Literal["lit"] = Field("lit", description="The method.")
    student: str = Field(
        "Lite0-128", description="The model: a name or a .json configuration with a timm trunk."
    )
    trunk: Literal["efficientnet-lite0"] = Field("efficientnet-lite0", description="The trained image trunk.")

    @field_validator("teacher_cache")
    @classmethod
    def _is_cached(cls, value: str) -> str:
        if value == "off":
            raise ValueError("the trunk's features are always cached: on or N-views")
        return value
