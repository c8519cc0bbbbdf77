"""From a recipe to a learner, a buffer and a method."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from effcli.continual.backbones import open_backbone
from effcli.continual.learner import Classifier, Learner
from effcli.continual.methods.buffer import Reservoir
from effcli.continual.methods.clfd import N_FEATURE_MAPS, FrequencyLearner
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.recipe import ContinualRecipe
from effcli.continual.recipes.features import FrozenFeaturesRecipe, RanpacRecipe
from effcli.continual.recipes.rehearsal import BufferedRecipe, RehearsalRecipe
from effcli.core.registry import load_method
from effcli.core.runtime import DTYPES
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
    if isinstance(recipe, FrozenFeaturesRecipe):
        return _on_features(recipe, n_classes, image_side)
    is_encoded = isinstance(recipe, RehearsalRecipe) and recipe.is_encoded
    in_channels = N_FEATURE_MAPS if is_encoded else len(mean)
    classifier = Classifier(ResNet18(Widths.of(recipe.network.width), in_channels), n_classes)
    classifier.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    if isinstance(recipe, RehearsalRecipe) and recipe.frequency.enabled:
        return FrequencyLearner(classifier, mean, std, recipe.augment, recipe.frequency, buffer)
    return Learner(classifier, mean, std, recipe.augment)


def _on_features(recipe: FrozenFeaturesRecipe, n_classes: int, image_side: int) -> Learner:
    settings = recipe.network
    backbone = open_backbone(settings.backbone, settings.side, image_side)
    n_projected = recipe.projection.size if isinstance(recipe, RanpacRecipe) else None
    classifier = Classifier(backbone, n_classes, n_projected)
    return Learner(classifier, backbone.about.mean, backbone.about.std, recipe.augment)


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
