"""The settings of detectors that learn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section


class DetectionDataSection(Section):
    """Images with boxes."""

    source: str = Field(
        "builtin:garment-scenes",
        description="COCO annotations (.json), a folder or a tar with annotations/ and the images, or "
        "builtin:garment-scenes.",
    )
    images: str | None = Field(
        None, description="Folder of the images of a .json; null looks beside it and above."
    )
    tasks: int | str | tuple[int, ...] | tuple[tuple[str, ...], ...] | None = Field(
        None,
        description="How the classes are cut: 5+5, 40+20+20, sizes, or lists of names; null: all together.",
    )
    cooccur: bool = Field(
        False, description="Also learn from images that show classes learnt before, which are not labelled."
    )
    hold_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the images to measure on, where the data have no part for it."
    )
    longest_side: int | None = Field(
        None, ge=32, description="Images are scaled so that the longer side is at most this; null: any."
    )
    shortest_side: int | None = Field(
        None, ge=32, description="And so that the shorter one is at most this; null: any."
    )


class DetectorSection(Section):
    """The detector."""

    backbone: Literal["tiny", "resnet50"] = Field(
        "tiny", description="Half a million parameters, or GFL-R50."
    )
    norm: Literal["live", "frozen"] = Field(
        "live", description="BatchNorm learns statistics, or keeps those of the backbone's weights."
    )
    frozen_stages: int = Field(
        0, ge=0, le=4, description="Stages of a ResNet, after the stem, that do not learn."
    )
    weights: str | None = Field(
        None, description="A state dict of torchvision's ResNet-50, as .pth or .safetensors; null: random."
    )


class DetectorTrainSection(Section):
    """The optimisation with SGD: rate times 0.1 after 8 and 11 of 12 parts."""

    epochs: int = Field(12, ge=1, description="Passes over the images.")
    batch_size: int = Field(16, ge=1, description="Images a step.")
    learning_rate: float = Field(0.01, gt=0, description="After warming up.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's.")
    weight_decay: float = Field(1e-4, ge=0, description="SGD's.")
    warmup_steps: int = Field(500, ge=0, description="Steps of a linear rise from a thousandth of the rate.")
    grad_clip: float | None = Field(None, gt=0, description="Largest norm of the gradient; null: any.")
    flip: bool = Field(True, description="Mirror half of the images.")


class InversionSection(Section):
    """ObjectBoxes drawn out of the old detector."""

    source: str | None = Field(
        None, description="Run whose generated objects are taken instead of new ones; null makes them."
    )
    per_class: int = Field(10, ge=1, description="Images a class, each with one object.")
    side: int = Field(160, ge=32, multiple_of=32, description="Of the images, pixels.")
    box_sides: tuple[float, float] = Field(
        (0.6, 0.8), description="Least and most length of an object's longer side, as a share of the image's."
    )
    iterations: int = Field(2000, ge=1, description="Steps of the optimisation.")
    batch_size: int = Field(40, ge=1, description="Images at once.")
    learning_rate: float = Field(0.2, gt=0, description="First rate; it falls to 0 on half a cosine.")
    detect_weight: float = Field(10.0, gt=0, description="Weight of the detector's loss.")
    tv_weight: float = Field(1.0, ge=0, description="Weight of total variation (L1).")
    bn_weight: float = Field(0.1, ge=0, description="Weight of BatchNorm statistics.")
    first_bn_weight: float = Field(0.3, ge=0, description="Further weight of those of the first layer.")
    shift: float = Field(0.125, ge=0, lt=1, description="Images roll by up to this share of the side.")
    flip: float = Field(0.5, ge=0, le=1, description="Share of the steps that see the batch mirrored.")
    brightness: float = Field(0.2, ge=0, description="Deviation of what is added to each image.")
    erase: float = Field(0.5, ge=0, le=1, description="Share of the images with a patch missing.")
    save: Literal["denormalise", "minmax"] = Field(
        "denormalise",
        description="Pictures as the detector was shown them, or stretched one by one (released).",
    )
    min_score: float = Field(
        0.3, ge=0, le=1, description="ObjectBoxes that the old detector finds with less are dropped."
    )


class CompositionSection(Section):
    """Generated objects in new images."""

    enabled: bool = Field(True, description="Paste objects.")
    online: bool = Field(True, description="Other pastes in every epoch; false: once for all, as the paper.")
    scale: tuple[float, float] = Field((0.5, 1.0), description="ObjectBoxes become this many times as large.")
    mirror: bool = Field(True, description="Mirror half of the objects.")
    blend: float | None = Field(
        None, ge=0, le=1, description="lambda, the share of the image under an object; null: Beta(2, 2)."
    )


class DistillationSection(Section):
    """Distances from the old detector."""

    weight: float = Field(1.0, ge=0, description="Of all terms; 0 distils nothing.")
    feature_weight: float = Field(0.03, ge=0, description="Of features in pasted boxes.")
    box_weight: float = Field(0.25, ge=0, description="Of the distributions of edges.")
    balance: bool = Field(True, description="Multiply by s, which falls as new classes are learnt.")
    select: Literal["top", "threshold"] = Field(
        "top", description="Places with the highest responses, or those above mean + 2 deviations (ERD)."
    )
    top_k: int = Field(1000, ge=1, description="How many places are the highest.")
    nms: Literal["reference", "scaled"] = Field(
        "reference",
        description="Boxes for the NMS of places: with edges in strides (released), or in pixels.",
    )
    reduction: Literal["batch-8", "sum"] = Field(
        "batch-8", description="Images' terms are summed (released), or scaled as if a batch had 8."
    )


class LearningSection(Section):
    """What counts as an object of which class."""

    columns: Literal["new", "all"] = Field(
        "new", description="The detector's loss sees the columns of new classes alone, or all."
    )
    pasted_as_labels: bool = Field(
        False, description="Pasted objects are labelled objects of their old class; needs all columns."
    )
    pseudo_labels: bool = Field(
        False, description="So are objects of old classes that the old detector finds; needs all columns."
    )
    pseudo_score: float = Field(0.5, ge=0, le=1, description="Least score of those.")


class DetectionRecipe(Recipe):
    """What recipes of detectors have."""

    task: Literal["continual"] = Field("continual", description="The command this recipe is for.")
    data: DetectionDataSection = Field(DetectionDataSection(), description="The images.")
    network: DetectorSection = Field(DetectorSection(), description="The detector, where a new one is made.")


class DetectorRecipe(DetectionRecipe):
    """A first detector."""

    method: Literal["detector"] = Field("detector", description="The method.")
    train: DetectorTrainSection = Field(DetectorTrainSection(), description="The optimisation.")


class EgorRecipe(DetectionRecipe):
    """EGOR, and by its switches ERD, distillation alone, replay alone and fine-tuning."""

    method: Literal["egor"] = Field("egor", description="The method.")
    detector: str | None = Field(
        None,
        description="Run or file of the old detector; null trains one on the first classes of the split.",
    )
    detector_classes: tuple[str, ...] = Field(
        (), description="Names of its classes, where it is a state dict of torchvision's FCOS or RetinaNet."
    )
    base: DetectorTrainSection = Field(DetectorTrainSection(), description="Training of a first detector.")
    inversion: InversionSection = Field(InversionSection(), description="Generated objects.")
    composition: CompositionSection = Field(CompositionSection(), description="How they are pasted.")
    distillation: DistillationSection = Field(DistillationSection(), description="What keeps old classes.")
    learning: LearningSection = Field(LearningSection(), description="What is learnt as what.")
    train: DetectorTrainSection = Field(DetectorTrainSection(), description="Training with new classes.")
    references: tuple[Literal["finetune", "joint"], ...] = Field(
        (), description="Also train these, to compare with; joint needs the old images."
    )

    @property
    def needs_objects(self) -> bool:
        """Whether generated objects are used."""
        return self.composition.enabled

    @model_validator(mode="after")
    def _fits_together(self) -> EgorRecipe:
        labels = self.learning
        if labels.columns == "new" and (labels.pasted_as_labels or labels.pseudo_labels):
            raise ValueError("learning.columns: labels of old classes need all columns")
        if labels.pasted_as_labels and not self.composition.enabled:
            raise ValueError("learning.pasted_as_labels: nothing is pasted without composition.enabled")
        low, high = self.composition.scale
        if not 0 < low <= high:
            raise ValueError("composition.scale: two numbers above 0, the smaller first")
        low, high = self.inversion.box_sides
        if not 0 < low <= high <= 1:
            raise ValueError("inversion.box_sides: two shares, the smaller first")
        if self.detector is None and self.data.tasks is None:
            raise ValueError("data.tasks: says which classes a first detector learns, or name a detector")
        return self
