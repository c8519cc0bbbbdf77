"""RCFD: classifier-based feature distillation (CFD) in the last rounds, instead of pixels; or all maps, as in LPIPS.

Sun et al., "Accelerating Diffusion Sampling with Classifier-based Feature Distillation", ICME 2023;
docs/methods/rdd.md, Feature loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.distill import progressive
from effcli.distill.feature_networks import FeatureNetwork, load_feature_network
from effcli.distill.inputs.teacher import DiffusionTeacher
from effcli.distill.losses import cfd, maps_distance, truncated_snr_loss
from effcli.distill.progressive import TeacherInputs
from effcli.distill.recipe import FeatureRecipe, RcfdRecipe
from effcli.distill.time_grid import Point


def plan(recipe: RcfdRecipe) -> Plan[TeacherInputs]:
    """Teacher, images and feature network, and what :func:`distill` would do with them."""
    return progressive.plan(recipe, lambda teacher: load_features(recipe, teacher))


def distill(recipe: RcfdRecipe, inputs: TeacherInputs, run: Run) -> Result:
    """Rounds with the pixel loss, the last ones with CFD."""
    features = inputs.to(run.runtime.device).features
    assert features is not None
    return progressive.distill(recipe, inputs, run, lambda: FeatureLoss(recipe, features))


def load_features(recipe: FeatureRecipe, teacher: DiffusionTeacher) -> FeatureNetwork:
    """The recipe's feature network, where the teacher is."""
    return load_feature_network(recipe.features, teacher, side=recipe.feature_side)


class FeatureLoss:
    """CFD, or the distance of all maps, with the pixel loss beside it where the recipe gives that a weight.

    Args:
        recipe: the weights and tau.
        features: the frozen network.
    """

    def __init__(self, recipe: FeatureRecipe, features: FeatureNetwork) -> None:
        self.weights: Mapping[str, float] = {
            "maps" if recipe.layers == "all" else "cfd": recipe.cfd_weight,
            "pixel": recipe.pixel_weight,
        }
        self._features, self._layers = features, recipe.layers
        self._temperature = recipe.cfd_temperature

    def __call__(self, x_student: Tensor, x_target: Tensor, point: Point) -> dict[str, Tensor]:
        """The terms; gradients flow through ``x_student`` only."""
        return self.terms_of_maps(*self.maps(x_student, x_target)) | {
            "pixel": truncated_snr_loss(x_student, x_target, point.alpha, point.sigma)
        }

    def maps(self, x_student: Tensor, x_target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """M_S and M_T, ``[B, D, h, w]`` each: of all layers, or of the last one alone."""
        with torch.no_grad():
            target = self._maps_of(x_target)
        return self._maps_of(x_student), target

    def _maps_of(self, images: Tensor) -> list[Tensor]:
        if self._layers == "all":
            return self._features.feature_maps(images)
        return [self._features.feature_map(images)]

    def terms_of_maps(self, m_student: Sequence[Tensor], m_target: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms that compare feature maps, the last layer's last."""
        if self._layers == "all":
            return {"maps": maps_distance(m_student, m_target)}
        ours, theirs = m_student[-1].mean((2, 3)), m_target[-1].mean((2, 3))
        return {"cfd": cfd(ours, theirs, self._temperature)}

    def learned(self) -> Any:
        """Nothing."""
        return None
