"""Which rounds lead from a teacher to its last student."""

from __future__ import annotations

from dataclasses import dataclass

from effcli.diffusion.models import DiffusionModel
from effcli.diffusion.schedulers import ddim_config
from effcli.distill.recipe import FeatureRecipe, ProgressiveRecipe

FEW_STEPS = 8
"""Students of so many steps or fewer are measured, and taught for the recipe's ``few_step_updates``."""


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        teacher_steps, steps: sampling steps of its teacher and of its student.
        updates: of the optimiser.
        has_features: the method's own loss, not the pixel loss.
    """

    teacher_steps: int
    steps: int
    updates: int
    has_features: bool = False

    @property
    def name(self) -> str:
        """Of its checkpoints, log lines and progress bar."""
        if self.steps == self.teacher_steps:
            return f"convert-at-{self.steps}"
        return f"{self.teacher_steps}-to-{self.steps}"


def prediction_of_students(recipe: ProgressiveRecipe, teacher: DiffusionModel) -> str:
    """What the students predict: ``sample`` or ``v_prediction``.

    From noise alone x^ = (z - sigma eps) / alpha explodes where a 1-step student lives. The error of a velocity has
    weights between 1/2 and 1 in the loss at all levels, that of an image up to the largest SNR; so velocities are
    learnt sooner than images.
    """
    if recipe.prediction != "auto":
        return recipe.prediction
    own = prediction_type_of(teacher)
    return "v_prediction" if own == "epsilon" else own


def prediction_type_of(model: DiffusionModel) -> str:
    """What a model predicts; its scheduler's default where the configuration does not say."""
    return str(ddim_config(model.scheduler_config)["prediction_type"])


def rounds_of(recipe: ProgressiveRecipe, teacher: DiffusionModel) -> list[Round]:
    """The rounds in order; the first converts the prediction where the teacher's is another than the students'."""
    rounds = []
    teacher_steps, settings = recipe.teacher_steps, recipe.train
    if prediction_type_of(teacher) != prediction_of_students(recipe, teacher):
        rounds.append(Round(teacher_steps, teacher_steps, settings.conversion_updates))
    while teacher_steps > recipe.steps:
        steps = teacher_steps // 2
        updates = (
            settings.updates if steps >= FEW_STEPS else settings.few_step_updates * (1 if steps >= 4 else 2)
        )
        has_features = isinstance(recipe, FeatureRecipe) and teacher_steps <= recipe.features_from
        rounds.append(Round(teacher_steps, steps, updates, has_features))
        teacher_steps = steps
    return rounds
