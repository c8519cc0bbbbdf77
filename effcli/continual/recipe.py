"""The settings of `effcli continual`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section


class TaskStreamSection(Section):
    """The images, and how their classes are cut into tasks."""

    source: str = Field(
        "builtin:fashion-images",
        description="A folder with a sub-folder a class, a packed .npz, IDX files, builtin:NAME, or cifar10, cifar100, "
        "tiny-imagenet.",
    )
    root: str | None = Field(
        None, description="Where named data sets lie or are downloaded to; null: the cache."
    )
    side: int | None = Field(
        None,
        ge=8,
        description="Side of the images, pixels; others are resized. Null: the first one's, at most 64, even.",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1 for grey, 3 for RGB; null looks whether there are colours."
    )
    tasks: int | str | tuple[int, ...] | tuple[tuple[str, ...], ...] = Field(
        5,
        description="How many tasks of equal size; 50+10x5 for 50 classes and ten tasks of 5; sizes; or names.",
    )
    order_seed: int | None = Field(
        None, ge=0, description="Seed of a random order of the classes; null keeps the order of the data."
    )
    more: tuple[str, ...] = Field(
        (),
        description="Folders with further tasks of new classes, learnt after the others, one after another.",
    )
    hold_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of each class held out for measuring, where the data has no test part.",
    )
    train_per_class: int | None = Field(
        None, ge=1, description="Use the first N training images of each class."
    )
    eval_per_class: int | None = Field(None, ge=1, description="Use the first N test images of each class.")
    mean: tuple[float, ...] | None = Field(
        None, description="Mean of each channel, 0..1; null takes that of the first task."
    )
    std: tuple[float, ...] | None = Field(
        None, description="Standard deviation of each channel; null takes that of the first task."
    )


class ResNetSection(Section):
    """ResNet-18 for small images."""

    width: int = Field(64, ge=1, description="Channels of the first stage; the features are 8 times as many.")


class ImageAugmentSection(Section):
    """What happens to training images, in batches."""

    pad: int = Field(4, ge=0, description="Pixels added at each side before a random crop of the old size.")
    flip: bool = Field(True, description="Mirror half of the images.")
    brightness: float = Field(0.0, ge=0, lt=1, description="Brightness times 1 - b to 1 + b.")


class SgdTrainSection(Section):
    """The optimisation."""

    epochs: int = Field(50, ge=1, description="Passes over each task's images.")
    batch_size: int = Field(32, ge=2, description="New images a step; BatchNorm needs two.")
    learning_rate: float = Field(0.1, gt=0, description="SGD's, constant and without momentum.")


class BufferSection(Section):
    """Images kept from earlier tasks, by reservoir sampling."""

    size: int = Field(
        50, ge=2, description="How many images; the frequency domain keeps 4 times as many features."
    )
    batch_size: int = Field(32, ge=2, description="Old images a step.")
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="Of kept features; images are kept in bytes."
    )


class FrequencySection(Section):
    """CLFD (section 3 of the paper): features of half the side before the network, and a part of the units a class."""

    enabled: bool = Field(False, description="Learn in the frequency domain.")
    encode: bool = Field(True, description="Replace images by the frequency features (FFE).")
    select: bool = Field(True, description="Let each class use its own units (CFFS).")
    kept: float = Field(
        0.6, gt=0, le=1, description="Share of the units that are kept for each image, k / N."
    )
    similarity_weight: float = Field(
        0.5, ge=0, le=1, description="lambda: dissimilar against similar classes in frequency dropout."
    )
    concentration: float = Field(2.0, gt=0, description="beta: how soon semantic dropout keeps a used unit.")
    semantic_from: float = Field(
        0.4, ge=0, le=1, description="E: share of the epochs before semantic dropout."
    )
    alphas: Literal["shifted", "paper"] = Field(
        "shifted",
        description="Exponents of frequency dropout as in the released code, or as written in equation 4.",
    )
    multiple: int = Field(4, ge=1, description="Features kept for each image of the buffer's size.")


class ContinualRecipe(Recipe):
    """What the recipes of all methods have; a method adds its own keys."""

    task: Literal["continual"] = Field("continual", description="The command this recipe is for.")
    data: TaskStreamSection = Field(TaskStreamSection(), description="The stream of tasks.")
    network: ResNetSection = Field(ResNetSection(), description="The network.")
    augment: ImageAugmentSection = Field(
        ImageAugmentSection(), description="What happens to training images."
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

    buffer: BufferSection = Field(BufferSection(), description="The buffer.")


class RehearsalRecipe(BufferedRecipe):
    """Of the methods that CLFD may stand around."""

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
        description="New and old images through the network together, as Mammoth has it, or after each other, as CLFD; "
        "auto: separate in the frequency domain.",
    )


class DerppRecipe(RehearsalRecipe):
    """Dark experience replay++."""

    method: Literal["derpp"] = Field("derpp", description="The method.")
    alpha: float = Field(0.1, ge=0, description="Weight of the distance from kept logits.")
    beta: float = Field(0.5, ge=0, description="Weight of the cross-entropy of old images.")


class ErAceRecipe(RehearsalRecipe):
    """ER with asymmetric cross-entropy."""

    method: Literal["er-ace"] = Field("er-ace", description="The method.")


class ClsErRecipe(RehearsalRecipe):
    """Two averaged models beside the network."""

    method: Literal["cls-er"] = Field("cls-er", description="The method.")
    passes: Literal["auto", "joint", "separate"] = Field("auto", description="As for er.")
    stable_rate: float = Field(0.05, ge=0, le=1, description="r_S: how often the stable model follows.")
    plastic_rate: float = Field(0.2, ge=0, le=1, description="r_P: how often the plastic model follows.")
    regularisation: float = Field(0.15, ge=0, description="Weight of the distance from their logits.")
    decay: float = Field(0.999, ge=0, lt=1, description="Largest weight of the old average.")


class E2NetSection(Section):
    """E2Net: subnets, and what is done with the representative one."""

    ratios: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        min_length=1,
        description="Shares of channels that a subnet may have, ascending.",
    )
    candidates: int = Field(500, ge=1, description="Subnets drawn before each task.")
    shortlist: int = Field(30, ge=1, description="How many of the best may be taken.")
    most_parameters: float = Field(
        0.95, gt=0, le=1, description="Share of the parameters that it stays below."
    )
    growth: float | Literal["auto"] = Field(
        "auto",
        description="r: how fast larger ratios are allowed, 4 in the released code; auto: all for the last task.",
    )
    size_bonus: bool = Field(
        True, description="Scores times exp(-share of the parameters), as in the released code."
    )
    distillation: float = Field(0.05, ge=0, description="Weight of representative network distillation.")
    gate: float = Field(0.75, ge=0, description="Batches are kept with probability exp(-gate * share).")
    statistics: Literal["kept", "released"] = Field(
        "kept",
        description="kept: subnets leave BatchNorm's running statistics alone; released: they write into them.",
    )


class E2NetRecipe(BufferedRecipe):
    """E2Net: DER++ with a representative subnet."""

    method: Literal["e2net"] = Field("e2net", description="The method.")
    buffer: BufferSection = Field(BufferSection(size=200), description="The buffer.")
    alpha: float = Field(0.1, ge=0, description="Weight of the distance from kept logits.")
    beta: float = Field(0.5, ge=0, description="Weight of the cross-entropy of old images.")
    subnets: E2NetSection = Field(E2NetSection(), description="The representative subnet.")


class IrSection(Section):
    """Incremental representation."""

    enlarge: Literal["rotation", "mixup", "soft", "none"] = Field(
        "rotation",
        description="More classes by turning or by mixing images; soft: mixed images with mixed labels.",
    )
    space_weight: float = Field(
        10.0, ge=0, description="lambda: weight of the distance from the old features."
    )
    reduction: Literal["batch", "mean"] = Field(
        "batch", description="One norm over the batch, as PASS has it, or the mean of each image's."
    )
    temperature: float = Field(
        0.1, gt=0, description="tau: the temporary classifier's logits are divided by it."
    )
    distance: Literal["euclidean", "cosine"] = Field("euclidean", description="From a prototype.")
    prototypes: Literal["kept", "sdc"] = Field(
        "kept", description="Old prototypes stay, or follow the drift of near features (beyond the paper)."
    )
    sdc_width: float = Field(
        0.3, gt=0, description="Width of the neighbourhood of sdc, in mean feature norms."
    )
    freeze_statistics: bool = Field(False, description="Keep BatchNorm's statistics after the first task.")


class IrTrainSection(Section):
    """The optimisation with Adam."""

    first_epochs: int = Field(101, ge=1, description="Passes over the first task's images.")
    epochs: int = Field(101, ge=0, description="Passes over those of each later task; 0: prototypes alone.")
    batch_size: int = Field(64, ge=2, description="New images a step, before they are enlarged.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's first learning rate.")
    weight_decay: float = Field(2e-4, ge=0, description="Adam's.")
    decay_every: float = Field(
        0.4455, gt=0, description="Share of the epochs after which the rate is divided by 10."
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
