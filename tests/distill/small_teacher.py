"""A tiny teacher, images for it, and a feature network, without files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effcli.data.image_sets import ImageSet
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel
from effcli.distill.feature_networks import FeatureNetwork
from effcli.distill.inputs.examples import ImageExamples
from effcli.distill.inputs.teacher import DiffusionTeacher
from effcli.distill.recipe import RddRecipe
from tests.diffusion.tiny_models import SCHEDULER, tiny_unet


def teacher(prediction_type: str = "sample", **unet: Any) -> DiffusionModel:
    model = tiny_unet(**unet).requires_grad_(False)
    return DiffusionModel(model, SCHEDULER | {"prediction_type": prediction_type}, "tiny")


def whole(model: DiffusionModel) -> DiffusionTeacher:
    """The same with its conditions."""
    return DiffusionTeacher(model, Guided(model, model.unet))


def examples(model: DiffusionModel, n: int = 16) -> ImageExamples:
    return ImageExamples(images(n), Guided(model, model.unet))


def images(n: int = 16) -> ImageSet:
    values = torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return ImageSet(values, torch.arange(n) % 2, ("a", "b"))


def feature_network(dim: int = 6) -> FeatureNetwork:
    """A random convolution to maps of 4x4."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(1, dim, 3, 2, 1), nn.ReLU()).requires_grad_(False)
    return FeatureNetwork("random", network, lambda x: [network[0](x), network(x)])


def recipe(**changes: Any) -> RddRecipe:
    relations = {"queue_size": 64, "contrast": 32, "enqueue": 16} | changes.pop("relations", {})
    content = {"teacher_steps": 8, "relations": relations, "train": {"batch_size": 4}} | changes
    return RddRecipe.model_validate(content)


def maps(
    n: int = 3, dim: int = 6, side: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.randn(n, dim, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)
