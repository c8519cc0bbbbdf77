"""What is left of a run when nothing more is learnt: one network from images to logits, and its file.

It needs neither recipe nor buffer. The file is safetensors with the names of the classes and all that the network is
built from in its metadata; or ONNX, for other programs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, Json
from torch import Tensor, nn

from effcli.continual.learner import Classifier
from effcli.continual.methods.clfd import FrequencyEncoder, FrequencyLearner, top_units
from effcli.continual.methods.rehearsal import Method
from effcli.core.errors import InputError
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Count, Header, Side, build_network, read_weights
from effcli.nn.onnx_file import save_onnx
from effcli.nn.resnet import ResNet18, Widths

FORMAT, VERSION = "effcli-continual-classifier", "1"
FILE_NAME = "model/classifier.safetensors"


@dataclass(frozen=True)
class About:
    """What a classifier is built from, and what its outputs mean.

    Attributes:
        method: that it was learnt with.
        tasks: the names of the classes, in the order of the logits, by the task that they were learnt in.
        side: of the images, pixels.
        channels: of the images, 1 or 3.
        outs, mids: channel counts of the network, as in :class:`~effcli.nn.resnet.Widths`.
        is_encoded: whether frequency features go into the network.
        n_kept: how many units of the features are kept for an image (CFFS); None for all.
    """

    method: str
    tasks: tuple[tuple[str, ...], ...]
    side: Side
    channels: Literal[1, 3]
    outs: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4)]
    mids: Annotated[tuple[Count, ...], Field(min_length=8, max_length=8)]
    is_encoded: bool
    n_kept: Count | None

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each logit."""
        return tuple(name for task in self.tasks for name in task)


class ClassifierHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    about: Json[About]


class ImageClassifier(nn.Module):
    """Preprocessing, features and head.

    Args:
        about: its parts.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, about: About) -> None:
        super().__init__()
        self.about = about
        self.register_buffer("mean", torch.zeros(about.channels, 1, 1))
        self.register_buffer("std", torch.ones(about.channels, 1, 1))
        self.encoder = FrequencyEncoder(about.channels) if about.is_encoded else None
        in_channels = 3 if about.is_encoded else about.channels
        backbone = ResNet18(Widths(about.outs, about.mids), in_channels)
        self.classifier = Classifier(backbone, len(about.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, n_classes]`` of images ``[B, channels, side, side]`` in 0..1."""
        x = (images - self.mean) / self.std
        if self.encoder is not None:
            x = self.encoder(x)
        features = self.classifier.backbone(x)
        if self.about.n_kept is not None:
            features = features * top_units(features, self.about.n_kept)
        logits: Tensor = self.classifier.head(features)
        return logits

    def scores(self, images: Tensor) -> Tensor:
        """The same for uint8 images."""
        logits: Tensor = self(images.float() / 255)
        return logits


def classifier_of(method: Method, tasks: Sequence[Sequence[str]], side: int) -> ImageClassifier:
    """What a method would answer with: in evaluation mode, on the CPU.

    Args:
        method: that has learnt.
        tasks: the classes of each task.
        side: of the images.
    """
    learner, network = method.learner, method.exported()
    encoder = learner.encoder if isinstance(learner, FrequencyLearner) else None
    selection = learner.selection if isinstance(learner, FrequencyLearner) else None
    widths = network.backbone.widths
    about = About(
        method=name_of(method.recipe),
        tasks=tuple(map(tuple, tasks)),
        side=side,
        channels=len(learner.mean),  # type: ignore[arg-type]
        outs=widths.outs,
        mids=widths.mids,
        is_encoded=encoder is not None,
        n_kept=None if selection is None else selection.n_kept,
    )
    found = ImageClassifier(about)
    found.mean.copy_(learner.mean)
    found.std.copy_(learner.std)
    found.classifier.load_state_dict(network.state_dict())
    if found.encoder is not None and encoder is not None:
        found.encoder.load_state_dict(encoder.state_dict())
    return found.eval()


def name_of(recipe: Any) -> str:
    """``clfd-er`` for ER with CLFD around it."""
    is_wrapped = getattr(recipe, "frequency", None) is not None and recipe.frequency.enabled
    return f"clfd-{recipe.method}" if is_wrapped else str(recipe.method)


def save_classifier(file: Path, classifier: ImageClassifier) -> None:
    """Write a safetensors file."""
    metadata = {"format": FORMAT, "version": VERSION, "about": json.dumps(asdict(classifier.about))}
    tensors = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    save_tensors(file, tensors, metadata)


def load_classifier(place: str | Path) -> ImageClassifier:
    """Read a classifier.

    Args:
        place: its file, or the run directory that it lies in.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = Path(place) / FILE_NAME if Path(place).is_dir() else Path(place)
    if not file.is_file():
        raise InputError(
            "holds no classifier", place=str(place), hint="name a finished run of `effcli continual`"
        )
    header, tensors = read_weights(file, str(file), ClassifierHeader)
    return build_network(lambda: ImageClassifier(header.about), tensors, str(file))


def export_onnx(file: Path, classifier: ImageClassifier) -> None:
    """Write an ONNX file: ``images`` in 0..1 to ``logits``, any batch size, preprocessing inside.

    The names of the classes and the size of the images are in its metadata.

    Raises:
        UsageError: the packages for it are not installed.
    """
    about = classifier.about
    example = torch.zeros(2, about.channels, about.side, about.side)
    metadata = {
        "classes": json.dumps(about.classes),
        "tasks": json.dumps(about.tasks),
        "method": about.method,
        "input": f"images, float32, 0..1, [batch, {about.channels}, {about.side}, {about.side}]",
    }
    save_onnx(classifier, example, file, input_name="images", output_name="logits", metadata=metadata)
