"""PD, progressive distillation: every round compares pixels.

Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022;
docs/methods/rdd.md, Progressive distillation round. The rounds are in `progressive.py`, the training of one in
`training.py`, what a student learns from in `targets.py`, how far it is from that in `losses.py`.
"""

from __future__ import annotations

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.distill import progressive
from effcli.distill.progressive import TeacherInputs
from effcli.distill.recipe import PdRecipe


def plan(recipe: PdRecipe) -> Plan[TeacherInputs]:
    """Teacher and images, and what :func:`distill` would do with them."""
    return progressive.plan(recipe)


def distill(recipe: PdRecipe, inputs: TeacherInputs, run: Run) -> Result:
    """All rounds with the pixel loss."""
    return progressive.distill(recipe, inputs, run)
