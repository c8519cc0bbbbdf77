"""The settings of CLIP-KD, and of training a CLIP on a locked image trunk."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from effcli.core.recipe import Section
from effcli.distill.recipe import DistillRecipe


class PairsSection(Section):
    """Images and captions."""

    source: str = Field(
        "builtin:twemoji-captions",
        description="A CSV, WebDataset .tar shards, a folder of images with captions, an .npz, or builtin:NAME.",
    )
    image_column: str | None = Field(None, description="Column of a CSV with image paths; null finds it.")
    caption_column: str | None = Field(None, description="Column of a CSV with captions; null finds it.")
    most_left_out: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of listed images that may be missing, damaged or without a caption.",
    )
    workers: int = Field(0, ge=0, description="Processes that decode images; 0 decodes in the main one.")


class EvalSection(Section):
    """What is measured at the end."""

    source: str | None = Field(
        None, description="Pairs to measure on; null takes the eval part of the data, or holds some out."
    )
    hold_out: float = Field(
        0.05, gt=0, lt=1, description="Share of the images held out where there is no other part."
    )
    zero_shot: str | None = Field(
        None,
        description="A folder with a sub-folder a class, or an .npz with labels; null takes the pairs' own classes.",
    )
    templates: Literal["openai", "simple"] | tuple[str, ...] = Field(
        ("a photo of a {}",),
        min_length=1,
        description="Sentences about each class, {} for its name; openai: its 80 for ImageNet; simple: 7 of them.",
    )
    captions: Literal["first", "all"] = Field(
        "first", description="Retrieval with each image's first caption, as in CLIP-KD's tables, or with all."
    )
    batch_size: int = Field(64, ge=1, description="Images embedded at a time.")


class LossSection(Section):
    """Weights of the losses (section 3 of the paper); those of weight 0 are not computed."""

    clip: float = Field(1.0, ge=0, description="L_CLIP, the student's own contrastive loss.")
    crd: float = Field(1.0, ge=0, description="CRD: the student's softmax over the batch near the teacher's.")
    fd: float = Field(2000.0, ge=0, description="FD: embeddings near the teacher's.")
    fd_reduction: Literal["mean", "sample"] = Field(
        "mean",
        description="Squared distances of fd and mfd averaged over the width, as in the released code, or summed: "
        "2000 averaged is 3.906 summed at width 512.",
    )
    mfd: float = Field(0.0, ge=0, description="MFD: FD of masked images; ViT students only.")
    mask_ratio: float = Field(0.25, ge=0, lt=1, description="Share of the patches that mfd hides.")
    mask: Literal["applied", "released"] = Field(
        "applied", description="released: as in the released code, where the masked image is never used."
    )
    gd: float = Field(0.0, ge=0, description="GD: gradients of the contrastive loss near the teacher's.")
    gd_temperature: Literal["correct", "released"] = Field(
        "correct", description="released: cosines divided by the scale, as in the released code; weight 1e8."
    )
    icl: float = Field(
        1.0, ge=0, description="ICL: the student's images against the teacher's texts, and so on."
    )
    afd: float = Field(0.0, ge=0, description="AFD: contrast of embeddings that fuse student and teacher.")
    cross: float = Field(
        0.0, ge=0, description="KL between ICL's logits and the teacher's; not in the paper."
    )
    scales: Literal["exp", "raw"] = Field(
        "exp", description="Learnt scales of icl and afd: exp as CLIP's, or raw and decayed as released."
    )


class ClipTrainSection(Section):
    """The optimisation."""

    epochs: int = Field(32, ge=1, description="Passes over the data.")
    batch_size: int = Field(1024, ge=2, description="Pairs a step, over all processes.")
    learning_rate: float = Field(
        1e-3, gt=0, description="AdamW's rate after the warm-up; a cosine takes it to 0."
    )
    warmup_steps: int = Field(10_000, ge=0, description="Steps over which the rate rises linearly.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay of matrices.")
    betas: Literal["auto"] | tuple[float, float] = Field(
        "auto", description="AdamW's betas; auto: 0.9 and 0.98 for ViTs, 0.9 and 0.999 for others."
    )
    grad_clip: float | None = Field(None, gt=0, description="Largest gradient norm; null does not limit it.")


class ClipRecipe(DistillRecipe):
    """What both methods have."""

    data: PairsSection = Field(PairsSection(), description="Images and captions to learn from.")
    teacher_cache: str = Field(
        "on",
        pattern=r"^(on|off|[1-9][0-9]*-views)$",
        description="on: the teacher embeds each whole image once; N-views: N fixed crops of each; off: a new crop "
        "each epoch, and the teacher runs in every step.",
    )
    cache_dir: str | None = Field(
        None,
        description="Where what the teacher embedded is kept; null is effcli's folder in the user's cache.",
    )
    train: ClipTrainSection = Field(ClipTrainSection(), description="The optimisation.")
    eval: EvalSection = Field(EvalSection(), description="What is measured at the end.")

    @property
    def n_views(self) -> int | None:
        """How many fixed views of each image there are; None: a new one each epoch."""
        if self.teacher_cache == "off":
            return None
        return 1 if self.teacher_cache == "on" else int(self.teacher_cache.split("-")[0])


class ClipKdRecipe(ClipRecipe):
    """CLIP-KD."""

    method: Literal["clip-kd"] = Field("clip-kd", description="The method.")
    model: str = Field(
        "builtin:twemoji-clip",
        description="The teacher: NAME:TAG or NAME:FILE of open_clip, a folder, hf-hub:OWNER/NAME, or builtin:NAME.",
    )
    student: str = Field(
        "ViT-Mini-8-64",
        description="The student: a model name of open_clip or ours, a .json configuration, or a folder.",
    )
    loss: LossSection = Field(LossSection(), description="Weights of the losses.")


class LockedImageRecipe(ClipRecipe):
    """LiT: a CLIP whose image trunk is trained already and stays as it is."""

    method: Literal["lit"] = Field("lit", description="The method.")
    student: str = Field("Lite0-128", description="A model name or .json configuration with a timm trunk.")
    trunk: Literal["efficientnet-lite0"] = Field("efficientnet-lite0", description="The trained trunk.")

    @field_validator("teacher_cache")
    @classmethod
    def _is_cached(cls, value: str) -> str:
        if value == "off":
            raise ValueError("the trunk's features are always computed once: on or N-views")
        return value
