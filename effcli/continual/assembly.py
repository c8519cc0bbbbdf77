"""From a recipe to a learner, a buffer and a method."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from effcli.continual.learner import Classifier, Learner
from effcli.continual.methods.buffer import Reservoir
from effcli.continual.methods.clfd import N_FEATURE_MAPS, FrequencyLearner
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.recipe import ContinualRecipe
from effcli.continual.recipes.rehearsal import BufferedRecipe, RehearsalRecipe
from effcli.core.registry import load_method
from effcli.core.runtime import DTYPES
from effcli.nn.resnet import ResNet18, Widths


def new_learner(
    recipe: ContinualRecipe, n_classes: int, mean: Sequence[float], std: Sequence[float], buffer: Reservoir
) -> Learner:
    """A network with new weights from the global generator, and how it sees images."""
    is_encoded = isinstance(recipe, RehearsalRecipe) and recipe.is_encoded
    in_channels = N_FEATURE_MAPS if is_encoded else len(mean)
    classifier = Classifier(ResNet18(Widths.of(recipe.network.width), in_channels), n_classes)
    classifier.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    if isinstance(recipe, RehearsalRecipe) and recipe.frequency.enabled:
        return FrequencyLearner(classifier, mean, std, recipe.augment, recipe.frequency, buffer)
    return Learner(classifier, mean, std, recipe.augment)


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
    device: torch.device | None = None,
) -> IncrementalMethod:
    """The recipe's method with a new learner; weights are drawn from the recipe's seed."""
    device = device or torch.device("cpu")
    buffer = new_buffer(recipe, device)
    torch.manual_seed(recipe.seed)
    learner = new_learner(recipe, n_classes, mean, std, buffer).to(device)
    method: IncrementalMethod = load_method(recipe).create(recipe, learner, buffer)
    return method
