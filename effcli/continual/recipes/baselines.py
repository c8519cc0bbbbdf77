"""The settings of well-known methods that others are compared with: LwF, EWC, iCaRL and WA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from effcli.continual.recipe import SgdTrainedRecipe
from effcli.continual.recipes.rehearsal import BufferedRecipe


class LwfRecipe(SgdTrainedRecipe):
    """Learning without Forgetting: no images kept."""

    method: Literal["lwf"] = Field("lwf", description="The method.")
    distillation_weight: float = Field(
        1.0, ge=0, description="lambda: weight of the old network's predictions on new images."
    )


class EwcRecipe(SgdTrainedRecipe):
    """Elastic weight consolidation, online: no images kept."""

    method: Literal["ewc"] = Field("ewc", description="The method.")
    strength: float = Field(
        100.0,
        ge=0,
        description="lambda: how strongly weights that mattered for earlier tasks are held; higher values "
        "forget less and learn less.",
    )
    fisher_images: int = Field(
        200, ge=1, description="Images per task from which the importance of each weight is computed."
    )
    fisher_decay: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Factor on the Fisher information of earlier tasks at each new task; 1 keeps all of it.",
    )


class IcarlRecipe(BufferedRecipe):
    """iCaRL."""

    method: Literal["icarl"] = Field("icarl", description="The method.")


class WaRecipe(BufferedRecipe):
    """Weight aligning."""

    method: Literal["wa"] = Field("wa", description="The method.")
