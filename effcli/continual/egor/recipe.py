"""The settings of detectors that learn new classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from effcli.core.recipe import CompatRecipe, Recipe, Section, Switch


class DetectionDataSection(Section):
    """Images with boxes."""

    source: str = Field(
        "builtin:garment-scenes",
        description="Training images with boxes: COCO annotations (.json), a data.yaml of YOLO, a folder or "
        "a tar with COCO, YOLO or Pascal VOC labels and the images, or builtin:garment-scenes.",
    )
    images: str | None = Field(
        None,
        description="Folder with the images of a .json; null: searched beside the file and one level above.",
    )
    tasks: int | str | tuple[int, ...] | tuple[tuple[str, ...], ...] | None = Field(
        None,
        description="The split of the classes into groups that are learned one after another: 5+5, "
        "40+20+20, a list of "
        "sizes, or a list of lists of names; null: one group.",
    )
    cooccur: bool = Field(
        False,
        description="true: also use images that show classes learned before, which are not labelled there; "
        "false: leave them out.",
    )
    longest_side: int | None = Field(
        None,
        ge=32,
        description="Pixels that the longer side of images is scaled to, also of smaller ones; null: any.",
    )
    shortest_side: int | None = Field(
        None,
        ge=32,
        description="Pixels that the shorter side is scaled to; with both, the smaller scale counts; null: any.",
    )


class DetectionEvalSection(Section):
    """The data for measuring average precision."""

    hold_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the images that is held out where the data has no evaluation part.",
    )
    old_data: str | None = Field(
        None,
        description="Images with boxes of classes that the detector already knows, to measure forgetting "
        "where the training data does not show them; null: the images that the detector's own "
        "run held out, else objects synthesised from it.",
    )


class DetectionAugmentSection(Section):
    """Augmentation of training images."""

    flip: float = Field(
        0.5, ge=0, le=1, description="Share of the training samples that are mirrored; 0: none."
    )


class DetectorSection(Section):
    """The detector."""

    backbone: Literal["tiny", "resnet50"] = Field(
        "tiny", description="tiny: a GFL of 0.7 million parameters for small images; resnet50: GFL-R50."
    )
    norm: Literal["live", "frozen"] = Field(
        "live",
        description="Batch norm of the backbone. live: it learns and updates running statistics; frozen: it "
        "stays as in the weights.",
    )
    frozen_stages: int = Field(
        0, ge=0, le=4, description="Number of ResNet stages, counted from the stem, that are not trained."
    )
    init: str | None = Field(
        None,
        description="Weights that the backbone starts from: a state dict of torchvision's ResNet-50, "
        ".pth or .safetensors; "
        "null: random.",
    )


class DetectorTrainSection(Section):
    """The optimisation with SGD: the learning rate is divided by 10 after 8/12 and 11/12 of the steps."""

    epochs: int = Field(12, ge=1, description="Passes over the training images.")
    batch_size: int = Field(16, ge=1, description="Images per step.")
    learning_rate: float = Field(0.01, gt=0, description="Learning rate after the warm-up.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of SGD.")
    warmup_steps: int = Field(
        500,
        ge=0,
        description="Steps over which the learning rate rises linearly from a thousandth; 0: no warm-up.",
    )
    grad_clip: float | None = Field(None, gt=0, description="Upper bound of the gradient norm; null: none.")


class InversionSection(Section):
    """Objects synthesised by inverting the old detector."""

    source: str | None = Field(
        None, description="Run whose synthesised objects are used instead of new ones; null: new ones."
    )
    per_class: int = Field(10, ge=1, description="Images per class, each with one object.")
    side: int = Field(160, ge=32, multiple_of=32, description="Side of the images, pixels, a multiple of 32.")
    box_sides: tuple[float, float] = Field(
        (0.6, 0.8),
        description="Smallest and largest length of an object's longer side, as a share of the image's side.",
    )
    iterations: int = Field(2000, ge=1, description="Optimisation steps per batch of images.")
    batch_size: int = Field(40, ge=1, description="Number of images optimised together.")
    learning_rate: float = Field(
        0.2, gt=0, description="Initial learning rate of Adam; half a cosine takes it to 0."
    )
    detect_weight: float = Field(10.0, gt=0, description="Weight of the detector's loss.")
    tv_weight: float = Field(
        1.0, ge=0, description="Weight of total variation (L1); higher values give smoother images."
    )
    statistics: Literal["shipped", "images", "none"] = Field(
        "shipped",
        description="Statistics of features that images are drawn to (R_BN): shipped, batch norm's running ones, or "
        "those beside builtin:nanodet-m, whose batch norm is folded; images, measured on the new images; none.",
    )
    bn_weight: float = Field(0.1, ge=0, description="Weight of the distance from these statistics (R_BN).")
    first_bn_weight: float = Field(0.3, ge=0, description="Additional weight of R_BN at the first layer.")
    shift: float = Field(
        0.125,
        ge=0,
        lt=1,
        description="Images are rolled by a random offset of up to this share of their side.",
    )
    flip: float = Field(0.5, ge=0, le=1, description="Share of the steps in which the batch is mirrored.")
    brightness: float = Field(
        0.2,
        ge=0,
        description="Standard deviation of the random offset that is added to each normalised image.",
    )
    erase: float = Field(0.5, ge=0, le=1, description="Share of the images that have a random patch erased.")
    save: Literal["denormalise", "minmax"] = Field(
        "denormalise",
        description="How pixels become 8-bit images. denormalise: with the colours that the detector was "
        "shown; minmax: each image stretched to the full range.",
    )
    min_score: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Objects that the old detector finds with a lower score are dropped; 0: all are kept.",
    )


class CompositionSection(Section):
    """Synthesised objects pasted into new images."""

    enabled: bool = Field(
        True, description="true: objects are pasted into the new images; false: distillation alone."
    )
    online: bool = Field(
        True,
        description="true: different objects and positions in every epoch; false: chosen once for all epochs.",
    )
    scale: tuple[float, float] = Field(
        (0.5, 1.0), description="Range of the random factor by which objects are resized."
    )
    flip: float = Field(
        0.5, ge=0, le=1, description="Share of the pasted objects that are mirrored; 0: none."
    )
    blend: float | None = Field(
        None,
        ge=0,
        le=1,
        description="lambda: share of the background under a pasted object; null: sampled from Beta(2, 2).",
    )


class DistillationSection(Section):
    """Distances from the old detector."""

    weight: float = Field(1.0, ge=0, description="Weight of all distillation terms; 0: none.")
    feature_weight: float = Field(
        0.03, ge=0, description="Weight of the distance of features in pasted boxes."
    )
    box_weight: float = Field(0.25, ge=0, description="Weight of the KL divergence of edge distributions.")
    balance: bool = Field(
        True,
        description="true: the terms are multiplied by s, which falls as new classes are learned; "
        "false: s = 1.",
    )
    select: Literal["top", "threshold"] = Field(
        "top",
        description="Locations that are distilled. top: those with the highest responses; threshold: those "
        "above mean + 2 standard deviations, as in ERD.",
    )
    top_k: int = Field(1000, ge=1, description="Number of locations for select top.")
    nms: Literal["strides", "pixels"] = Field(
        "strides",
        description="Boxes in the NMS of locations. strides: edges in units of the stride, as in the "
        "released code; pixels: true boxes.",
    )
    reduction: Literal["batch-8", "sum"] = Field(
        "batch-8",
        description="Class and box terms. sum: summed over the images of a batch; batch-8: scaled as if a "
        "batch had 8 images.",
    )


class LearningSection(Section):
    """Which objects serve as labels."""

    columns: Literal["new", "all"] = Field(
        "new",
        description="Class outputs that the detector's loss covers. new: those of the new classes; all: all of them.",
    )
    pasted_as_labels: bool = Field(
        False, description="true: pasted objects are labels of their old class; needs columns all."
    )
    pseudo_labels: bool = Field(
        False,
        description="true: detections of old classes by the old detector in new images serve as labels; "
        "needs columns all.",
    )
    pseudo_score: float = Field(0.5, ge=0, le=1, description="Lowest score of a pseudo-label.")
    trunk: Literal["learned", "frozen"] = Field(
        "learned",
        description="The network before the heads (backbone and pyramid): learned with the heads, or frozen.",
    )


class DetectionRecipe(Recipe):
    """What recipes of detectors have."""

    task: Literal["continual"] = Field("continual", description="The command this recipe is for.")
    data: DetectionDataSection = Field(DetectionDataSection(), description="Images with boxes.")
    eval: DetectionEvalSection = Field(
        DetectionEvalSection(), description="The data for measuring average precision."
    )
    augment: DetectionAugmentSection = Field(
        DetectionAugmentSection(), description="Augmentation of training images."
    )
    network: DetectorSection = Field(DetectorSection(), description="A new detector, where one is made.")


class DetectorRecipe(DetectionRecipe):
    """A first detector."""

    method: Literal["detector"] = Field("detector", description="The method.")
    train: DetectorTrainSection = Field(DetectorTrainSection(), description="The optimisation.")


class EgorRecipe(DetectionRecipe, CompatRecipe):
    """EGOR, and by its switches ERD, distillation alone, replay alone and fine-tuning."""

    switches: ClassVar = {
        "inversion.save": Switch("denormalise", "minmax", "denormalise"),
        "inversion.min_score": Switch(0.3, 0.0, 0.3),
        "composition.online": Switch(False, False, True),
        "composition.scale": Switch((0.5, 1.0), (1.0, 1.0), (0.5, 1.0)),
        "composition.flip": Switch(0.5, 0.0, 0.5),
        "distillation.reduction": Switch("batch-8", "sum", "batch-8"),
        "distillation.nms": Switch("strides", "strides", "strides"),
    }
    method: Literal["egor"] = Field("egor", description="The method.")
    detector: str | None = Field(
        None,
        description="The detector that learns new classes: a run or a file; null: one is trained on the "
        "first group of "
        "classes.",
    )
    detector_classes: tuple[str, ...] = Field(
        (), description="Its class names, where it is a state dict of torchvision's FCOS or RetinaNet."
    )
    base: DetectorTrainSection = Field(DetectorTrainSection(), description="Training of the first detector.")
    inversion: InversionSection = Field(
        InversionSection(), description="Objects synthesised by inverting the old detector."
    )
    composition: CompositionSection = Field(
        CompositionSection(), description="How synthesised objects are pasted into new images."
    )
    distillation: DistillationSection = Field(
        DistillationSection(), description="Distances from the old detector."
    )
    learning: LearningSection = Field(LearningSection(), description="Which objects serve as labels.")
    train: DetectorTrainSection = Field(DetectorTrainSection(), description="Training on new classes.")
    references: tuple[Literal["finetune", "joint"], ...] = Field(
        (),
        description="Detectors that are also trained for comparison; joint needs images of the old classes.",
    )

    @property
    def needs_objects(self) -> bool:
        """Whether synthesised objects are used."""
        return self.composition.enabled

    @model_validator(mode="after")
    def _fits_together(self) -> EgorRecipe:
        labels = self.learning
        if labels.columns == "new" and (labels.pasted_as_labels or labels.pseudo_labels):
            raise ValueError("learning.columns: labels of old classes need columns all")
        if labels.pasted_as_labels and not self.composition.enabled:
            raise ValueError(
                "learning.pasted_as_labels: needs composition.enabled, without which nothing is pasted"
            )
        low, high = self.composition.scale
        if not 0 < low <= high:
            raise ValueError("composition.scale: two numbers above 0, the smaller first")
        low, high = self.inversion.box_sides
        if not 0 < low <= high <= 1:
            raise ValueError("inversion.box_sides: two shares of at most 1, the smaller first")
        if self.detector is None and self.data.tasks is None:
            raise ValueError(
                "data.tasks: say which classes the first detector learns, as in 5+5, or name a detector"
            )
        return self


class BranchSection(Section):
    """The network that is added for new classes: heads on the frozen detector's pyramid."""

    start: Literal["new", "copy"] = Field(
        "new",
        description="new: a small head with random weights; copy: a copy of the old detector's heads, with new classes "
        "in place of its own.",
    )
    channels: int = Field(
        64, ge=8, multiple_of=8, description="Channels of the convolutions of a new head, a multiple of 8."
    )
    convolutions: int = Field(
        2, ge=0, description="Number of the depthwise-separable convolutions of a new head."
    )


class BranchRecipe(DetectionRecipe):
    """A frozen detector, and a branch for each group of new classes."""

    method: Literal["branch"] = Field("branch", description="The method.")
    data: DetectionDataSection = Field(DetectionDataSection(cooccur=True), description="Images with boxes.")
    detector: str = Field(
        "builtin:nanodet-m",
        description="The detector that gets a branch: a run, a file or builtin:nanodet-m.",
    )
    detector_classes: tuple[str, ...] = Field(
        (), description="Its class names, where it is a state dict of torchvision's FCOS or RetinaNet."
    )
    branch: BranchSection = Field(BranchSection(), description="The network for new classes.")
    train: DetectorTrainSection = Field(DetectorTrainSection(), description="Training on new classes.")

    @model_validator(mode="before")
    @classmethod
    def _learns_beside_known_classes(cls, data: Any) -> Any:
        """Objects of known classes do no harm: the branch alone learns."""
        section = data.get("data") if isinstance(data, Mapping) else None
        if not isinstance(section, Mapping):
            return data
        return {**data, "data": {"cooccur": True, **section}}
