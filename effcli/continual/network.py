"""What is left of a run when nothing more is learned: one network from images to logits, without recipe or buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from effcli.continual.backbones import Backbone, BackboneSpec, OwnFeatures, ResNetSpec, build_backbone
from effcli.continual.learner import Classifier
from effcli.continual.methods.clfd import FrequencyLearner
from effcli.continual.methods.frequency_encoder import FrequencyEncoder, top_units
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.core.errors import InputError
from effcli.core.weight_file import Count, Side
from effcli.nn.resnet import ResNet18, Widths
from effcli.nn.wavelet_names import HAAR, WaveletName


@dataclass(frozen=True)
class Calibration:
    """What the scores of a classifier are worth, found on test images.

    Attributes:
        temperature: logits are divided by it before the softmax.
        unknown_below: a score below it is more likely of no known class, 0..1.
        n_images: that it was found on.
    """

    temperature: Annotated[float, Field(gt=0)]
    unknown_below: Annotated[float, Field(ge=0, le=1)]
    n_images: Count

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class ClassifierSpec:
    """What a classifier is built from, and what its outputs mean.

    Attributes:
        method: that it was learned with.
        tasks: the names of the classes, in the order of the logits, by the task that they were learned in.
        side: of the images, pixels.
        channels: of the images, 1 or 3.
        outs, mids: channel counts of the network, as in :class:`~effcli.nn.resnet.Widths`; None with a backbone.
        is_encoded: whether frequency features go into the network.
        n_kept: how many units of the features are kept for an image (CFFS); None for all.
        wavelet: of the frequency features.
        backbone: the trained network of a library that gives the features; None for a ResNet-18.
        n_projected: random features behind it; None for none.
    """

    method: str
    tasks: tuple[tuple[str, ...], ...]
    side: Side
    channels: Literal[1, 3]
    outs: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4)] | None
    mids: Annotated[tuple[Count, ...], Field(min_length=8, max_length=8)] | None
    is_encoded: bool
    n_kept: Count | None
    wavelet: WaveletName = HAAR
    backbone: BackboneSpec | None = None
    n_projected: Count | None = None

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each logit."""
        return tuple(name for task in self.tasks for name in task)


class ImageClassifier(nn.Module):
    """Preprocessing, features and head.

    Args:
        about: its parts.

    Attributes:
        calibration: of its scores; None where there were no images for it.
    """

    mean: Tensor
    std: Tensor
    calibration: Calibration | None = None

    def __init__(self, about: ClassifierSpec) -> None:
        super().__init__()
        self.about = about
        channels = about.channels if about.backbone is None else len(about.backbone.mean)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.encoder = FrequencyEncoder(about.channels, about.wavelet) if about.is_encoded else None
        in_channels = 3 if about.is_encoded else about.channels
        backbone = _backbone_of(about, in_channels)
        self.classifier = Classifier(backbone, len(about.classes), about.n_projected)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, n_classes]`` of images ``[B, channels, side, side]`` in 0..1."""
        x = (images - self.mean) / self.std
        if self.encoder is not None:
            x = self.encoder(x)
        features = self.classifier.backbone(x)
        if self.about.n_kept is not None:
            features = features * top_units(features, self.about.n_kept)
        return self.classifier.name(features)

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
    backbone = network.backbone
    widths = backbone.widths if isinstance(backbone, ResNet18) else None
    about = ClassifierSpec(
        method=name_of(method.recipe),
        tasks=tuple(map(tuple, tasks)),
        side=side,
        channels=len(learner.mean),  # type: ignore[arg-type]
        outs=None if widths is None else widths.outs,
        mids=None if widths is None else widths.mids,
        is_encoded=encoder is not None,
        n_kept=None if selection is None else selection.n_kept,
        wavelet=HAAR if encoder is None else encoder.wavelet,
        backbone=backbone.about if isinstance(backbone, Backbone) else None,
        n_projected=None if network.projection is None else network.head.in_features,
    )
    found = ImageClassifier(about)
    found.mean.copy_(learner.mean)
    found.std.copy_(learner.std)
    found.classifier.load_state_dict(network.state_dict())
    if found.encoder is not None and encoder is not None:
        found.encoder.load_state_dict(encoder.state_dict())
    return found.eval()


def backbone_of(classifier: ImageClassifier) -> Backbone:
    """What a classifier looks at before its head and its random features, as the backbone of another."""
    about, network = classifier.about, classifier.classifier.backbone
    if isinstance(network, Backbone):
        return network
    widths: Widths = network.widths
    resnet = ResNetSpec(
        widths.outs, widths.mids, about.channels, about.is_encoded, about.n_kept, about.wavelet
    )
    mean, std = (tuple(values.flatten().tolist()) for values in (classifier.mean, classifier.std))
    features = OwnFeatures(resnet)
    features.backbone.load_state_dict(network.state_dict())
    if features.encoder is not None and classifier.encoder is not None:
        features.encoder.load_state_dict(classifier.encoder.state_dict())
    spec = BackboneSpec("effcli", about.method, about.side, mean, std, resnet)
    return Backbone(spec, features.eval(), network.dim)


def _backbone_of(about: ClassifierSpec, in_channels: int) -> ResNet18 | Backbone:
    if about.backbone is not None:
        return build_backbone(about.backbone)
    if about.outs is None or about.mids is None:
        raise InputError("names neither a backbone nor channel counts", place=about.method)
    return ResNet18(Widths(about.outs, about.mids), in_channels)


def name_of(recipe: Any) -> str:
    """``clfd-er`` for ER with CLFD around it, whichever way the recipe asks for it."""
    is_wrapped = getattr(recipe, "frequency", None) is not None and recipe.frequency.enabled
    host = "er" if recipe.method == "clfd" else recipe.method
    return f"clfd-{host}" if is_wrapped else str(host)
