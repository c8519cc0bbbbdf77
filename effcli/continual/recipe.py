"""The settings of `effcli continual`; those of detectors are in :mod:`effcli.continual.egor.recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from effcli.core.recipe import CompatRecipe, Recipe, Section, Switch
from effcli.core.recipe_changes import Renamed
from effcli.nn.wavelet_names import HAAR, WaveletName

DETECTORS = ("egor", "detector")

RENAMED = (
    Renamed("data.hold_out", "eval.hold_out"),
    Renamed("data.eval_per_class", "eval.per_class"),
    Renamed("augment.flip", "augment.flip", {True: 0.5, False: 0.0}),
    Renamed("frequency.alphas", "frequency.alphas", {"paper": "equation-4"}),
    Renamed("subnets.statistics", "subnets.statistics", {"released": "updated"}),
    Renamed("network.weights", "network.init", methods=DETECTORS),
    Renamed("train.flip", "augment.flip", {True: 0.5, False: 0.0}, methods=DETECTORS),
    Renamed("base.flip", "", methods=DETECTORS, hint="augment.flip holds for both trainings"),
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
        description="What is learned from: a folder with one sub-folder per class, a packed .npz, a "
        "folder of IDX "
        "files, builtin:NAME, or one of cifar10, cifar100, tiny-imagenet.",
    )
    root: str | None = Field(
        None,
        description="Folder that holds the named data sets, or that they are downloaded to; null: the "
        "user's cache.",
    )
    side: int | None = Field(
        None,
        ge=8,
        description="Images are resized to squares of this side, in pixels; null: the side of the first "
        "image, made "
        "even and at most 64.",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1: grey, 3: RGB; null: grey if no image has colour."
    )
    tasks: int | str | tuple[int, ...] | tuple[tuple[str, ...], ...] = Field(
        5,
        description="The split into tasks: a number of tasks of equal size; 50+10x5 for one of 50 "
        "classes and ten of 5; "
        "a list of sizes; or a list of lists of class names.",
    )
    order_seed: int | None = Field(
        None, ge=0, description="Seed of a random order of the classes; null keeps the order of the data."
    )
    more: tuple[str, ...] = Field(
        (),
        description="Folders with one further task of new classes each, learned in this order after the "
        "others.",
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
    """What accuracy is measured on."""

    hold_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the images of each class that is held out where the data has no test part.",
    )
    per_class: int | None = Field(
        None, ge=1, description="Only the first N test images of each class are used; null: all."
    )


class ResNetSection(Section):
    """ResNet-18 for small images."""

    width: int = Field(
        64,
        ge=1,
        description="Channels of the first stage; the last has 8 times as many, which are the features.",
    )


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

    epochs: int = Field(50, ge=1, description="Passes over the images of each task.")
    batch_size: int = Field(32, ge=2, description="New images per step; at least 2, which batch norm needs.")
    learning_rate: float = Field(
        0.1, gt=0, description="Learning rate of SGD, constant and without momentum."
    )


class BufferSection(Section):
    """Images kept from earlier tasks, chosen by reservoir sampling."""

    size: int = Field(
        50,
        ge=2,
        description="Number of images that are kept; in the frequency domain 4 times as many features are.",
    )
    batch_size: int = Field(32, ge=2, description="Kept images per step.")
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="Type of kept features; float16 halves their memory. Images are kept as bytes."
    )


class FrequencySection(Section):
    """CLFD (docs/methods/clfd.md): frequency features of half the side, and a subset of the features per class."""

    enabled: bool = Field(False, description="true: learn in the frequency domain (CLFD).")
    encode: bool = Field(
        True,
        description="true: images are replaced by frequency features of half the side (FFE); false: "
        "CFFS alone.",
    )
    select: bool = Field(
        True,
        description="true: each class uses a subset of the features of its own (CFFS); false: FFE alone.",
    )
    wavelet: WaveletName = Field(
        HAAR,
        description="Wavelet of the bands: haar (the paper), or another discrete wavelet by its name in PyWavelets, "
        "such as db2, sym4 or bior2.2. Longer filters look further, and around the image's ends.",
    )
    kept: float = Field(
        0.6, gt=0, le=1, description="k / N: share of the features that are kept per image; 1 keeps all."
    )
    similarity_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="lambda of equation 4, 0..1: raised, frequency dropout looks more at dissimilar and "
        "less at similar classes.",
    )
    concentration: float = Field(
        2.0,
        gt=0,
        description="beta_c of equation 5: raised, semantic dropout keeps features that were used sooner.",
    )
    semantic_from: float = Field(
        0.4, ge=0, le=1, description="E: share of a task's epochs that pass before semantic dropout begins."
    )
    alphas: Literal["shifted", "equation-4"] = Field(
        "shifted",
        description="Exponents of frequency dropout: equation-4, as the paper writes them; shifted, as "
        "its code "
        "computes them, which keeps their sign.",
    )
    multiple: int = Field(
        4, ge=1, description="Number of features kept per image of buffer.size; they are a quarter as large."
    )


class ContinualRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["continual"] = Field("continual", description="The command this recipe is for.")
    data: TaskStreamSection = Field(TaskStreamSection(), description="What is learned from.")
    eval: TaskEvalSection = Field(TaskEvalSection(), description="What accuracy is measured on.")
    network: ResNetSection = Field(ResNetSection(), description="The network.")
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


class BufferedRecipe(SgdTrainedRecipe):
    """Of the methods that keep images."""

    buffer: BufferSection = Field(BufferSection(), description="Images kept from earlier tasks.")


class RehearsalRecipe(BufferedRecipe, CompatRecipe):
    """Of the methods that CLFD can be put around."""

    switches: ClassVar = {"frequency.alphas": Switch("equation-4", "shifted", "shifted")}
    frequency: FrequencySection = Field(FrequencySection(), description="CLFD around the method.")

    @property
    def is_encoded(self) -> bool:
        """Whether the network takes frequency features instead of images."""
        return self.frequency.enabled and self.frequency.encode


class ErRecipe(RehearsalRecipe):
    """Experience replay."""

    method: Literal["er"] = Field("er", description="The method.")
    passes: Literal["auto", "joint", "separate"] = Field(
        "auto",
        description="joint: new and kept images go through the network in one batch, as in Mammoth; "
        "separate: one after "
        "the other, as in CLFD; auto: separate in the frequency domain, else joint.",
    )


class ClfdRecipe(ErRecipe):
    """CLFD around experience replay, the paper's CLFD-ER."""

    method: Literal["clfd"] = Field("clfd", description="The method.")  # type: ignore[assignment]
    frequency: FrequencySection = Field(FrequencySection(enabled=True), description="CLFD.")

    @model_validator(mode="before")
    @classmethod
    def _in_the_frequency_domain(cls, data: Any) -> Any:
        section = data.get("frequency") if isinstance(data, Mapping) else None
        if not isinstance(section, Mapping):
            return data
        return {**data, "frequency": {"enabled": True, **section}}

    @model_validator(mode="after")
    def _is_clfd(self) -> ClfdRecipe:
        if not self.frequency.enabled:
            raise ValueError("frequency.enabled: false is method er")
        return self


class DerppRecipe(RehearsalRecipe):
    """Dark experience replay++."""

    method: Literal["derpp"] = Field("derpp", description="The method.")
    alpha: float = Field(
        0.1,
        ge=0,
        description="Weight of the squared distance from the logits that were kept with old images.",
    )
    beta: float = Field(0.5, ge=0, description="Weight of the cross-entropy of kept images.")


class ErAceRecipe(RehearsalRecipe):
    """ER with asymmetric cross-entropy."""

    method: Literal["er-ace"] = Field("er-ace", description="The method.")


class ClsErRecipe(RehearsalRecipe):
    """Two averaged models beside the network."""

    method: Literal["cls-er"] = Field("cls-er", description="The method.")
    passes: Literal["auto", "joint", "separate"] = Field(
        "auto",
        description="joint: new and kept images go through the network in one batch; separate: one "
        "after the other; "
        "auto: separate in the frequency domain, else joint.",
    )
    stable_rate: float = Field(
        0.05, ge=0, le=1, description="r_S: probability per step that the stable model is updated."
    )
    plastic_rate: float = Field(
        0.2, ge=0, le=1, description="r_P: probability per step that the plastic model is updated."
    )
    regularisation: float = Field(
        0.15, ge=0, description="Weight of the squared distance from the averaged models' logits."
    )
    decay: float = Field(0.999, ge=0, lt=1, description="Upper bound of the decay of both averages.")


class E2NetSection(Section):
    """E2Net (docs/methods/e2net.md): the search for a representative subnet, and its uses."""

    ratios: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        min_length=1,
        description="Shares of channels that a subnet may have, 0..1, ascending.",
    )
    candidates: int = Field(
        500, ge=1, description="Number of subnets sampled before each task; raised, a longer search."
    )
    shortlist: int = Field(30, ge=1, description="One of this many best candidates is taken.")
    most_parameters: float = Field(
        0.95, gt=0, le=1, description="Upper bound of a subnet's share of the network's parameters."
    )
    growth: float | Literal["auto"] = Field(
        "auto",
        description="r: ratios that become available per task are proportional to it; auto: all are "
        "available for the last "
        "task.",
    )
    size_bonus: bool = Field(
        True,
        description="true: a candidate's score is multiplied by exp(-share of the parameters), so that "
        "smaller ones win.",
    )
    distillation: float = Field(
        0.05, ge=0, description="Weight of representative network distillation (RND); 0: without."
    )
    gate: float = Field(
        0.75,
        ge=0,
        description="g: a batch is offered to the buffer with probability exp(-g * share of the "
        "parameters) (SCER); 0: always.",
    )
    statistics: Literal["kept", "updated"] = Field(
        "kept",
        description="What subnets do to the running statistics of batch norm: kept, nothing; updated, "
        "they move them.",
    )


class E2NetRecipe(BufferedRecipe, CompatRecipe):
    """E2Net: DER++ with a representative subnet."""

    switches: ClassVar = {
        "subnets.statistics": Switch("kept", "updated", "kept"),
        "subnets.growth": Switch("auto", 4.0, "auto"),
    }
    method: Literal["e2net"] = Field("e2net", description="The method.")
    buffer: BufferSection = Field(BufferSection(size=200), description="Images kept from earlier tasks.")
    alpha: float = Field(
        0.1,
        ge=0,
        description="Weight of the squared distance from the logits that were kept with old images.",
    )
    beta: float = Field(0.5, ge=0, description="Weight of the cross-entropy of kept images.")
    subnets: E2NetSection = Field(E2NetSection(), description="The representative subnet.")


class IrSection(Section):
    """Incremental representation (docs/methods/ir.md)."""

    enlarge: Literal["rotation", "mixup", "soft", "none"] = Field(
        "rotation",
        description="Further classes for the features to tell apart: rotation, each image turned by 90, "
        "180 and 270 "
        "degrees; mixup, mixed pairs of classes; soft, mixed images with mixed labels; none.",
    )
    space_weight: float = Field(
        10.0,
        ge=0,
        description="lambda: weight of the distance from the old features; raised, they move less.",
    )
    reduction: Literal["batch", "mean"] = Field(
        "batch",
        description="Distance from the old features: batch, one norm over the batch, as in PASS; mean, "
        "per image.",
    )
    temperature: float = Field(
        0.1, gt=0, description="tau: the logits of the transient classifier are divided by it."
    )
    distance: Literal["euclidean", "cosine"] = Field("euclidean", description="Distance from a prototype.")
    prototypes: Literal["kept", "sdc"] = Field(
        "kept",
        description="Old prototypes: kept, they stay; sdc, they follow the drift of nearby features "
        "(not in the paper).",
    )
    sdc_width: float = Field(
        0.3, gt=0, description="Width of the neighbourhood of sdc, in units of the mean feature norm."
    )
    freeze_statistics: bool = Field(
        False, description="true: the running statistics of batch norm are fixed after the first task."
    )


class IrTrainSection(Section):
    """The optimisation with Adam."""

    first_epochs: int = Field(101, ge=1, description="Passes over the images of the first task.")
    epochs: int = Field(
        101, ge=0, description="Passes over the images of each later task; 0: prototypes alone are computed."
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
        """Passes over the images of a task."""
        return self.train.epochs if task else self.train.first_epochs


class IrRecipe(PrototypeRecipe):
    """IR: no old images, prototypes in a feature space that holds still."""

    method: Literal["ir"] = Field("ir", description="The method.")


class FrozenNcmRecipe(PrototypeRecipe):
    """The features of the first task, never changed, and the nearest mean: IR's control."""

    method: Literal["frozen-ncm"] = Field("frozen-ncm", description="The method.")

    def epochs_of(self, task: int) -> int:
        """None after the first task."""
        return 0 if task else self.train.first_epochs

    @model_validator(mode="after")
    def _drifts_nowhere(self) -> FrozenNcmRecipe:
        if self.ir.prototypes != "kept":
            raise ValueError("ir.prototypes: frozen features do not drift")
        return self
