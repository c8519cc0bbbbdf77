"""The settings that all methods of `effcli continual` share, and those of fine-tuning.

Those of the families of methods are in :mod:`effcli.continual.recipes`, those of detectors in
:mod:`effcli.continual.egor.recipe`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section
from effcli.core.recipe_changes import Renamed

DETECTORS = ("egor", "branch", "detector")

RENAMED = (
    Renamed("data.hold_out", "eval.hold_out"),
    Renamed("data.eval_per_class", "eval.per_class"),
    Renamed("augment.flip", "augment.flip", {True: 0.5, False: 0.0}),
    Renamed("frequency.alphas", "frequency.alphas", {"paper": "equation-4"}),
    Renamed("subnets.statistics", "subnets.statistics", {"released": "updated"}),
    Renamed("network.weights", "network.init", methods=DETECTORS),
    Renamed("train.flip", "augment.flip", {True: 0.5, False: 0.0}, methods=DETECTORS),
    Renamed("base.flip", "", methods=DETECTORS, hint="augment.flip applies to both trainings"),
    Renamed("composition.mirror", "composition.flip", {True: 0.5, False: 0.0}, methods=DETECTORS),
    Renamed(
        "distillation.nms",
        "distillation.nms",
        {"reference": "strides", "scaled": "pixels"},
        methods=DETECTORS,
    ),
)
"""Keys and values of version 0.1."""


class TaskStreamSection(Section):
    """The images, and how their classes are split into tasks."""

    source: str = Field(
        "builtin:fashion-images",
        description="Training images: a folder with one sub-folder per class, a packed .npz, a folder of "
        "IDX files, builtin:NAME, or one of cifar10, cifar100, tiny-imagenet.",
    )
    root: str | None = Field(
        None,
        description="Folder that holds the named data sets, or that they are downloaded to; null: the "
        "user's cache.",
    )
    side: int | None = Field(
        None,
        ge=8,
        description="Images are resized to squares of this side, in pixels; null: the median "
        "of the shorter sides, made even, 8 to 64.",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1: grey, 3: RGB; null: grey if no image has colour."
    )
    tasks: int | str | tuple[int, ...] | tuple[tuple[str, ...], ...] = Field(
        5,
        description="The split into tasks: auto, up to five tasks of nearly equal size; a number of tasks of equal "
        "size; 50+10x5 for one of 50 "
        "classes and ten of 5; "
        "a list of sizes; or a list of lists of class names.",
    )
    order_seed: Annotated[int, Field(ge=0)] | Literal["seed"] | None = Field(
        None,
        description="Seed of a random order of the classes; seed: the recipe's; null keeps the order of the data.",
    )
    more: tuple[str, ...] = Field(
        (),
        description="Folders with one additional task each, learned in this order after the others: new "
        "classes, or more images of known ones.",
    )
    train_per_class: int | None = Field(
        None, ge=1, description="Only the first N training images of each class are used; null: all."
    )
    mean: tuple[float, ...] | None = Field(
        None,
        description="Mean of each channel, 0..1, for the normalisation; null: measured on the first task.",
    )
    std: tuple[float, ...] | None = Field(
        None, description="Standard deviation of each channel, 0..1; null: measured on the first task."
    )


class TaskEvalSection(Section):
    """The images for measuring accuracy."""

    hold_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the images of each class that is held out where the data has no test part.",
    )
    per_class: int | None = Field(
        None, ge=1, description="Only the first N test images of each class are used; null: all."
    )


BACKBONES = (
    "efficientnet-lite0, which is installed; timm:NAME, torchvision:NAME or open_clip:NAME:TAG, whose weights are "
    "downloaded once, or are in a file (timm:NAME:FILE); or the classifier of a run: its directory or file"
)
"""What ``network.backbone`` can be."""

SIDE_OF_BACKBONE = (
    "Images are resized to squares of this side before they go into a backbone, in pixels; null: the backbone's own "
    "side, but at most twice that of the images or 128."
)


class NetworkSection(Section):
    """ResNet-18 for small images, or a trained backbone that is trained further."""

    width: int = Field(
        64,
        ge=1,
        description="Channels of the first stage of the ResNet-18; the last has 8 times as many, which are the "
        "features.",
    )
    backbone: str | None = Field(
        None,
        description="A trained network to start from instead of a new ResNet-18: " + BACKBONES + ".",
    )
    side: int | None = Field(None, ge=8, description=SIDE_OF_BACKBONE)
    backbone_rate: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Learning rate of the backbone as a share of the head's, 0..1; with lower values its "
        "features change less; 0: they stay fixed.",
    )

    @property
    def is_frozen(self) -> bool:
        """Whether the features never change."""
        return self.backbone is not None and self.backbone_rate == 0

    @model_validator(mode="after")
    def _is_about_a_backbone(self) -> NetworkSection:
        given = [name for name in ("side", "backbone_rate") if name in self.model_fields_set]
        if self.backbone is None and given and (self.side is not None or self.backbone_rate != 1):
            raise ValueError(f"{given[0]} is a setting of a trained backbone; none is named")
        return self


class ImageAugmentSection(Section):
    """Augmentation of training images, in batches."""

    pad: int = Field(
        4,
        ge=0,
        description="Pixels of padding at each side before a random crop of the old size; 0: no crop.",
    )
    flip: float = Field(
        0.5, ge=0, le=1, description="Share of the training samples that are mirrored; 0: none."
    )
    brightness: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="b: brightness is multiplied by a random factor from 1 - b to 1 + b; 0: unchanged.",
    )


class SgdTrainSection(Section):
    """The optimisation."""

    epochs: int = Field(50, ge=1, description="Passes over the training images of each task.")
    batch_size: int = Field(32, ge=2, description="New images per step; at least 2, which batch norm needs.")
    learning_rate: float = Field(
        0.1, gt=0, description="Learning rate of SGD, constant and without momentum."
    )


class ContinualRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    absent: ClassVar = {
        "train": "nothing is trained by gradients, so there are no epochs",
        "buffer": "no image is kept",
        "frequency": "er, derpp, er-ace and cls-er learn in the frequency domain",
    }
    task: Literal["continual"] = Field("continual", description="The command this recipe is for.")
    data: TaskStreamSection = Field(TaskStreamSection(), description="The training images and the tasks.")
    eval: TaskEvalSection = Field(TaskEvalSection(), description="The images for measuring accuracy.")
    network: NetworkSection = Field(NetworkSection(), description="The network.")
    augment: ImageAugmentSection = Field(
        ImageAugmentSection(), description="Augmentation of training images."
    )


class SgdTrainedRecipe(ContinualRecipe):
    """Of the methods that are trained with plain SGD."""

    train: SgdTrainSection = Field(SgdTrainSection(), description="The optimisation.")

    def epochs_of(self, task: int) -> int:
        """Passes over the images of a task."""
        return self.train.epochs


class SgdRecipe(SgdTrainedRecipe):
    """Fine-tuning: the lower bound."""

    method: Literal["sgd"] = Field("sgd", description="The method.")


class JointRecipe(SgdTrainedRecipe):
    """All tasks at once: the upper bound."""

    method: Literal["joint"] = Field("joint", description="The method.")
