"""The settings of the methods that classify by the nearest prototype and keep no images: IR, and its control."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from effcli.continual.recipe import ContinualRecipe
from effcli.core.recipe import Section


class IrSection(Section):
    """Incremental representation (docs/methods/ir.md)."""

    enlarge: Literal["rotation", "mixup", "soft", "none"] = Field(
        "rotation",
        description="Additional classes for learning features. rotation: each image rotated by 90, 180 and "
        "270 degrees; mixup: mixed pairs of classes; soft: mixed images with mixed labels; "
        "none: no additional classes.",
    )
    space_weight: float = Field(
        10.0,
        ge=0,
        description="lambda: weight of the distance from the old features; with higher values they move less.",
    )
    reduction: Literal["batch", "mean"] = Field(
        "batch",
        description="Distance from the old features. batch: one norm over the batch, as in PASS; mean: the "
        "mean of the norms of the images.",
    )
    temperature: float = Field(
        0.1, gt=0, description="tau: the logits of the transient classifier are divided by it."
    )
    distance: Literal["euclidean", "cosine"] = Field("euclidean", description="Distance from a prototype.")
    prototypes: Literal["kept", "sdc"] = Field(
        "kept",
        description="Old prototypes. kept: they stay; sdc: they follow the drift of nearby features (not in "
        "the paper).",
    )
    sdc_width: float = Field(
        0.3, gt=0, description="Width of the neighbourhood of sdc, in units of the mean feature norm."
    )
    freeze_statistics: bool = Field(
        False, description="true: the running statistics of batch norm are fixed after the first task."
    )


class IrTrainSection(Section):
    """The optimisation with Adam."""

    first_epochs: int = Field(
        101,
        ge=0,
        description="Passes over the training images of the first task; 0, with a trained backbone: its "
        "features stay fixed.",
    )
    epochs: int = Field(
        101,
        ge=0,
        description="Passes over the training images of each later task; 0: only prototypes are computed.",
    )
    batch_size: int = Field(64, ge=2, description="New images per step, before ir.enlarge adds to them.")
    learning_rate: float = Field(1e-3, gt=0, description="Initial learning rate of Adam.")
    weight_decay: float = Field(2e-4, ge=0, description="Weight decay of Adam.")
    decay_every: float = Field(
        0.4455,
        gt=0,
        description="Share of a task's epochs after which the learning rate is divided by 10, each time.",
    )


class PrototypeRecipe(ContinualRecipe):
    """Of the methods that classify by the nearest prototype."""

    train: IrTrainSection = Field(IrTrainSection(), description="The optimisation.")
    ir: IrSection = Field(IrSection(), description="Features and prototypes.")

    def epochs_of(self, task: int) -> int:
        """Passes over the images of a task; none where features never change, as all heads are thrown away."""
        if self.network.is_frozen:
            return 0
        return self.train.epochs if task else self.train.first_epochs

    @model_validator(mode="after")
    def _has_features(self) -> PrototypeRecipe:
        if not self.train.first_epochs and self.network.backbone is None:
            raise ValueError("train.first_epochs: 0 needs a trained network: set network.backbone")
        return self


class IrRecipe(PrototypeRecipe):
    """IR: no old images, prototypes in a feature space that holds still."""

    method: Literal["ir"] = Field("ir", description="The method.")


class FrozenNcmRecipe(PrototypeRecipe):
    """The features of the first task, never changed, and the nearest mean: IR's control."""

    method: Literal["frozen-ncm"] = Field("frozen-ncm", description="The method.")

    def epochs_of(self, task: int) -> int:
        """None after the first task."""
        return 0 if task else super().epochs_of(task)

    @model_validator(mode="after")
    def _drifts_nowhere(self) -> FrozenNcmRecipe:
        if self.ir.prototypes != "kept":
            raise ValueError("ir.prototypes: frozen features do not drift, so only kept is possible")
        return self
