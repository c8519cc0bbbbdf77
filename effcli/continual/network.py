"""What is left of a run when nothing more is learned: one network from images to logits, without recipe or buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from effcli.continual.learner import Classifier
from effcli.continual.methods.clfd import FrequencyEncoder, FrequencyLearner, top_units
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.core.weight_file import Count, Side
from effcli.nn.resnet import ResNet18, Widths
from effcli.nn.wavelet_names import HAAR, WaveletName


@dataclass(frozen=True)
class ClassifierSpec:
    """What a classifier is built from, and what its outputs mean.

    Attributes:
        method: that it was learned with.
        tasks: the names of the classes, in the order of the logits, by the task that they were learned in.
        side: of the images, pixels.
        channels: of the images, 1 or 3.
        outs, mids: channel counts of the network, as in :class:`~effcli.nn.resnet.Widths`.
        is_encoded: whether frequency features go into the network.
        n_kept: how many units of the features are kept for an image (CFFS); None for all.
        wavelet: of the frequency features.
    """

    method: str
    tasks: tuple[tuple[str, ...], ...]
    side: Side
    channels: Literal[1, 3]
    outs: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4)]
    mids: Annotated[tuple[Count, ...], Field(min_length=8, max_length=8)]
    is_encoded: bool
    n_kept: Count | None
    wavelet: WaveletName = HAAR

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each logit."""
        return tuple(name for task in self.tasks for name in task)


class ImageClassifier(nn.Module):
    """Preprocessing, features and head.

    Args:
        about: its parts.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, about: ClassifierSpec) -> None:
        super().__init__()
        self.about = about
        self.register_buffer("mean", torch.zeros(about.channels, 1, 1))
        self.register_buffer("std", torch.ones(about.channels, 1, 1))
        self.encoder = FrequencyEncoder(about.channels, about.wavelet) if about.is_encoded else None
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


def classifier_of(method: IncrementalMethod, tasks: Sequence[Sequence[str]], side: int) -> ImageClassifier:
    """What a method would answer with: in evaluation mode, on the CPU.

    Args:
        method: that has learned.
        tasks: the classes of each task.
        side: of the images.
    """
    learner, network = method.learner, method.exported()
    encoder = learner.encoder if isinstance(learner, FrequencyLearner) else None
    selection = learner.selection if isinstance(learner, FrequencyLearner) else None
    widths = network.backbone.widths
    about = ClassifierSpec(
        method=name_of(method.recipe),
        tasks=tuple(map(tuple, tasks)),
        side=side,
        channels=len(learner.mean),  # type: ignore[arg-type]
        outs=widths.outs,
        mids=widths.mids,
        is_encoded=encoder is not None,
        n_kept=None if selection is None else selection.n_kept,
        wavelet=HAAR if encoder is None else encoder.wavelet,
    )
    found = ImageClassifier(about)
    found.mean.copy_(learner.mean)
    found.std.copy_(learner.std)
    found.classifier.load_state_dict(network.state_dict())
    if found.encoder is not None and encoder is not None:
        found.encoder.load_state_dict(encoder.state_dict())
    return found.eval()


def name_of(recipe: Any) -> str:
    """``clfd-er`` for ER with CLFD around it, whichever way the recipe asks for it."""
    is_wrapped = getattr(recipe, "frequency", None) is not None and recipe.frequency.enabled
    host = "er" if recipe.method == "clfd" else recipe.method
    return f"clfd-{host}" if is_wrapped else str(host)
