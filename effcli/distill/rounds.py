"""Which rounds lead from a teacher to its last student."""

from __future__ import annotations

from dataclasses import dataclass

from effcli.core.errors import UsageError
from effcli.diffusion.models import DiffusionModel
from effcli.diffusion.processes import prediction_of, process_of
from effcli.distill.recipe import FeatureRecipe, ProgressiveRecipe

FEW_STEPS = 8
"""Students of so many sampling steps or fewer are measured; below it rounds have ``train.last_rounds_steps``."""


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        teacher_steps, student_steps: sampling steps of its teacher and of its student.
        train_steps: steps of the optimiser.
        has_features: the method's own loss, not the pixel loss.
    """

    teacher_steps: int
    student_steps: int
    train_steps: int
    has_features: bool = False

    @property
    def name(self) -> str:
        """The name of its checkpoints, log lines and progress bar."""
        if self.student_steps == self.teacher_steps:
            return f"convert-at-{self.student_steps}"
        return f"{self.teacher_steps}-to-{self.student_steps}"


def prediction_of_students(recipe: ProgressiveRecipe, teacher: DiffusionModel) -> str:
    """What the students predict: ``sample``, ``v_prediction``, or what a teacher of another process predicts.

    From predicted noise x^ = (z - sigma eps) / alpha explodes at the noise level of a 1-step student. The error of a
    velocity has weights between 1/2 and 1 in the loss at all levels, that of an image up to the largest SNR; so
    velocities are learned faster than images (docs/methods/rdd.md, Conversion of noise-predicting teachers).
    """
    own = prediction_type_of(teacher)
    if recipe.prediction != "auto":
        if process_of(teacher.scheduler_config) is not None:
            raise UsageError(
                f"students of this teacher predict what it predicts ({own}), not {recipe.prediction}",
                place="prediction", hint="-s prediction=auto",
            )  # fmt: skip
        return recipe.prediction
    return "v_prediction" if own == "epsilon" else own


def prediction_type_of(model: DiffusionModel) -> str:
    """What a model predicts; its scheduler's default where the configuration does not say."""
    return prediction_of(model.scheduler_config)


def rounds_of(recipe: ProgressiveRecipe, teacher: DiffusionModel) -> list[Round]:
    """The rounds in order; the first is for a network or a prediction other than the teacher's."""
    rounds = []
    teacher_steps, settings = recipe.teacher_steps, recipe.train
    if recipe.student is not None or prediction_type_of(teacher) != prediction_of_students(recipe, teacher):
        rounds.append(Round(teacher_steps, teacher_steps, settings.conversion_steps))
    while teacher_steps > recipe.student_steps:
        student_steps = teacher_steps // 2
        last = settings.last_rounds_steps * (1 if student_steps >= 4 else 2)
        train_steps = settings.steps if student_steps >= FEW_STEPS else last
        has_features = isinstance(recipe, FeatureRecipe) and teacher_steps <= recipe.features_from
        rounds.append(Round(teacher_steps, student_steps, train_steps, has_features))
        teacher_steps = student_steps
    return rounds
