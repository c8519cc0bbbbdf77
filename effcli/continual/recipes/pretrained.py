"""The settings of the methods that adapt a trained backbone to each task: SLCA and EASE."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from effcli.continual.recipe import BACKBONES, NetworkSection, SgdTrainedRecipe, SgdTrainSection
from effcli.core.recipe import CompatRecipe, Section, Switch


class AdaptedTrainSection(SgdTrainSection):
    """The optimisation with SGD, momentum and weight decay."""

    epochs: int = Field(20, ge=1, description="Passes over the training images of each task.")
    learning_rate: float = Field(0.01, gt=0, description="Initial learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay of SGD.")


class SlcaTrainSection(AdaptedTrainSection):
    """The optimisation of SLCA."""

    decay_at: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of a task's steps after which the learning rate is divided by 10; 1: never.",
    )


class SlcaNetworkSection(NetworkSection):
    """The trained network, whose backbone learns slowly."""

    backbone: str | None = Field(
        "efficientnet-lite0", description="The trained network to adapt: " + BACKBONES + "."
    )
    backbone_rate: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Learning rate of the backbone as a share of the head's, 0..1; 0: frozen.",
    )


class AlignmentSection(Section):
    """Classifier alignment: the head is trained on samples of each class's Gaussian."""

    epochs: int = Field(
        5, ge=0, description="Passes over the samples after each task but the first; 0: none."
    )
    samples: int = Field(256, ge=1, description="Samples per class and pass, and samples per step.")
    learning_rate: float = Field(
        0.01, gt=0, description="Initial learning rate of SGD; a cosine takes it to 0."
    )
    temperature: float | None = Field(
        0.1,
        gt=0,
        description="tau: logits are divided by tau times their norm, averaged over the tasks; null: they "
        "are not divided.",
    )
    shrink: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Class means are multiplied by a factor from 1 - shrink, for the oldest task, to 1, for "
        "the newest.",
    )


class SlcaRecipe(SgdTrainedRecipe, CompatRecipe):
    """SLCA: a backbone that learns slowly, and a head that is aligned afterwards."""

    switches: ClassVar = {"alignment.shrink": Switch(0.0, 0.1, 0.1)}
    method: Literal["slca"] = Field("slca", description="The method.")
    network: SlcaNetworkSection = Field(SlcaNetworkSection(), description="The trained network.")
    train: SlcaTrainSection = Field(SlcaTrainSection(), description="The optimisation.")
    alignment: AlignmentSection = Field(AlignmentSection(), description="Classifier alignment.")

    @model_validator(mode="after")
    def _has_a_backbone(self) -> SlcaRecipe:
        if self.network.backbone is None:
            raise ValueError("network.backbone: SLCA adapts a trained network, so it cannot be null")
        return self


class EaseSection(Section):
    """EASE: adapters per task, and prototypes in all their feature spaces."""

    hidden: int = Field(64, ge=1, description="r: width of the bottleneck of an adapter.")
    scale: float = Field(0.1, gt=0, description="s: factor on the output of an adapter.")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of the bottleneck that is dropped in training."
    )
    other_spaces: float = Field(
        0.1,
        ge=0,
        description="alpha: weight of the feature spaces of tasks other than a class's own; 0: only its own.",
    )
    average_others: bool = Field(
        True, description="true: alpha is divided among the other spaces; false: each of them gets alpha."
    )


class EaseNetworkSection(NetworkSection):
    """The trained Vision Transformer, which stays frozen."""

    backbone: str | None = Field(
        "timm:vit_base_patch16_224",
        description="A plain Vision Transformer of timm (timm:NAME, timm:NAME:FILE), which stays frozen.",
    )
    backbone_rate: float = Field(0.0, ge=0, le=0, description="0: the network stays frozen.")


class EaseTrainSection(AdaptedTrainSection):
    """The optimisation of the adapters."""

    learning_rate: float = Field(0.025, gt=0, description="Initial learning rate; a cosine takes it to 0.")


class EaseRecipe(SgdTrainedRecipe, CompatRecipe):
    """EASE: an expandable ensemble of feature spaces of a Vision Transformer."""

    switches: ClassVar = {"ease.average_others": Switch(False, True, True)}
    method: Literal["ease"] = Field("ease", description="The method.")
    network: EaseNetworkSection = Field(EaseNetworkSection(), description="The trained network.")
    train: EaseTrainSection = Field(EaseTrainSection(), description="The optimisation of the adapters.")
    ease: EaseSection = Field(EaseSection(), description="Adapters and prototypes.")

    @model_validator(mode="after")
    def _has_a_backbone(self) -> EaseRecipe:
        if self.network.backbone is None:
            raise ValueError(
                "network.backbone: EASE puts adapters into a trained network, so it cannot be null"
            )
        return self
