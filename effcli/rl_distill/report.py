"""Curves for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effcli.core.files import atomic_path
from effcli.core.run import Run
from effcli.rl_distill.group import Policy
from effcli.rl_distill.recipe import RlDistillRecipe
from effcli.rl_distill.returns import curve

_COLOURS = {"group": "tab:blue", "independent": "tab:orange", "mean": "tab:green"}


def draw_curves(groups: Mapping[str, Sequence[Policy]], recipe: RlDistillRecipe, run: Run) -> dict[str, str]:
    """Return over steps: each policy, and the mean of each group."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, policies in groups.items():
        points = [
            curve(policy.returns.ends, policy.returns.values, recipe.steps, recipe.eval.window)
            for policy in policies
        ]
        x = np.linspace(recipe.steps / 50, recipe.steps, 50)
        for one in points:
            axes.plot(x, one, color=_COLOURS[name], alpha=0.3, linewidth=1)
        axes.plot(x, np.mean(points, 0), color=_COLOURS[name], linewidth=2, label=name)
    axes.set_xlabel("environment steps of each policy")
    axes.set_ylabel(f"return, mean of the last {recipe.eval.window} episodes")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(run.file("returns.png")) as temporary:
        figure.savefig(temporary, dpi=110)
    return {f"Returns in {recipe.env.id}": "returns.png"}
