"""From a recipe to a learner, a buffer and a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from effcli.continual.backbones import LIBRARIES, Backbone, open_backbone, with_side
from effcli.continual.learner import Classifier, Learner
from effcli.continual.methods.buffer import Reservoir
from effcli.continual.methods.clfd import FrequencyLearner
from effcli.continual.methods.frequency_encoder import N_FEATURE_MAPS
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.network import backbone_of
from effcli.continual.recipe import ContinualRecipe
from effcli.continual.recipes.features import FrozenFeaturesRecipe, RanpacRecipe
from effcli.continual.recipes.rehearsal import BufferedRecipe, RehearsalRecipe
from effcli.continual.weights import load_classifier
from effcli.core.errors import InputError, UsageError
from effcli.core.registry import load_method
from effcli.core.runtime import DTYPES
from effcli.nn.efficientnet_lite import LITE
from effcli.nn.resnet import ResNet18, Widths


def new_learner(
    recipe: ContinualRecipe,
    n_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    buffer: Reservoir,
    image_side: int,
) -> Learner:
    """A network with new weights from the global generator, and how it sees images."""
    if recipe.network.backbone is not None:
        return _on_backbone(recipe, n_classes, len(mean), buffer, image_side)
    is_encoded = isinstance(recipe, RehearsalRecipe) and recipe.is_encoded
    in_channels = N_FEATURE_MAPS if is_encoded else len(mean)
    classifier = Classifier(ResNet18(Widths.of(recipe.network.width), in_channels), n_classes)
    classifier.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    if isinstance(recipe, RehearsalRecipe) and recipe.frequency.enabled:
        return FrequencyLearner(classifier, mean, std, recipe.augment, recipe.frequency, buffer)
    return Learner(classifier, mean, std, recipe.augment)


def _on_backbone(
    recipe: ContinualRecipe, n_classes: int, n_channels: int, buffer: Reservoir, image_side: int
) -> Learner:
    backbone = named_backbone(str(recipe.network.backbone), recipe.network.side, image_side)
    mean, std = backbone.about.mean, backbone.about.std
    if n_channels > len(mean) == 1:
        raise UsageError(
            "it takes grey images, and these are in colour",
            place="network.backbone",
            hint="-s data.channels=1",
        )
    if isinstance(recipe, FrozenFeaturesRecipe) or recipe.network.is_frozen:
        backbone.freeze()
    n_projected = recipe.projection.size if isinstance(recipe, RanpacRecipe) else None
    classifier = Classifier(backbone, n_classes, n_projected).to(memory_format=torch.channels_last)
    if isinstance(recipe, RehearsalRecipe) and recipe.frequency.enabled:
        return FrequencyLearner(classifier, mean, std, recipe.augment, recipe.frequency, buffer)
    return Learner(classifier, mean, std, recipe.augment)


def named_backbone(name: str, side: int | None, image_side: int) -> Backbone:
    """A trained backbone by its name (:mod:`effcli.continual.backbones`), or that of a classifier of ours.

    Args:
        name: also a run directory, or the file of a classifier.
        side, image_side: as in :func:`~effcli.continual.backbones.open_backbone`.

    Raises:
        InputError: it is neither, or cannot be loaded.
        UsageError: it does not take images of that side.
    """
    is_of_library = name == LITE or name.partition(":")[0] in LIBRARIES
    if is_of_library or not (Path(name).exists() or Path(name).suffix in (".safetensors", ".onnx")):
        return open_backbone(name, side, image_side)
    if Path(name).suffix == ".onnx":
        raise InputError(
            "an ONNX file gives predictions, not features",
            place=name,
            hint="effcli continual export RUN -o FILE.safetensors",
        )
    return with_side(backbone_of(load_classifier(name)), side)


def new_buffer(recipe: ContinualRecipe, device: torch.device) -> Reservoir:
    """An empty one; of a method without a buffer one that holds nothing."""
    if not isinstance(recipe, BufferedRecipe):
        return Reservoir(0, device)
    multiple = recipe.frequency.multiple if isinstance(recipe, RehearsalRecipe) and recipe.is_encoded else 1
    return Reservoir(recipe.buffer.size * multiple, device, DTYPES[FLOAT_NAMES[recipe.buffer.dtype]])


FLOAT_NAMES = {"float32": "fp32", "float16": "fp16"}
"""The recipe's names of dtypes as the runtime has them."""


def new_method(
    recipe: ContinualRecipe,
    n_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    image_side: int,
    device: torch.device | None = None,
) -> IncrementalMethod:
    """The recipe's method with a new learner; weights are drawn from the recipe's seed, or are those of a backbone."""
    device = device or torch.device("cpu")
    buffer = new_buffer(recipe, device)
    torch.manual_seed(recipe.seed)
    learner = new_learner(recipe, n_classes, mean, std, buffer, image_side).to(device)
    method: IncrementalMethod = load_method(recipe).create(recipe, learner, buffer)
    return method
