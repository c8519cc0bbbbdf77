"""The figures of the report: learning curves, disagreement and attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effcli.core.evidence.figures import save_figure
from effcli.core.files import atomic_path
from effcli.core.run import Run
from effcli.rl_distill.group import Policy
from effcli.rl_distill.recipe import RlDistillRecipe
from effcli.rl_distill.returns import curve

_COLOURS = {"group": "tab:blue", "independent": "tab:orange", "mean": "tab:green"}


def draw_curves(groups: Mapping[str, Sequence[Policy]], recipe: RlDistillRecipe, run: Run) -> dict[str, str]:
    """Draw returns over environment steps, of each policy and the mean of each group; returns caption -> file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, policies in groups.items():
        points = [
            curve(policy.returns.ends, policy.returns.values, recipe.train.env_steps, recipe.eval.window)
            for policy in policies
        ]
        x = np.linspace(recipe.train.env_steps / 50, recipe.train.env_steps, 50)
        for one in points:
            axes.plot(x, one, color=_COLOURS[name], alpha=0.3, linewidth=1)
        axes.plot(x, np.mean(points, 0), color=_COLOURS[name], linewidth=2, label=name)
    axes.set_xlabel("environment steps of each policy")
    axes.set_ylabel(f"return, mean of the last {recipe.eval.window} episodes")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(run.file("returns.png")) as temporary:
        save_figure(figure, temporary, dpi=110)
    return {f"Returns in {recipe.env.id}": "returns.png"}


def draw_group(
    disagreement: Mapping[str, Sequence[tuple[int, float]]],
    attention: Sequence[tuple[int, list[list[float]]]],
    run: Run,
) -> dict[str, str]:
    """Draw disagreement and mean attention weights over updates; returns caption -> file."""
    if not any(disagreement.values()):
        return {}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in disagreement.items():
        if points:
            updates, values = zip(*points, strict=True)
            left.plot(updates, values, color=_COLOURS[name], label=name)
    left.set_xlabel("update")
    left.set_ylabel("disagreement")
    left.legend()
    if attention:
        x = [update for update, _ in attention]
        matrices = np.array([rows for _, rows in attention])
        for m in range(matrices.shape[1]):
            for b in range(matrices.shape[2]):
                if matrices[:, m, b].any():
                    right.plot(x, matrices[:, m, b], label=f"{m + 1} to {b + 1}")
        right.legend(fontsize="small", ncols=2)
    right.set_xlabel("update")
    right.set_ylabel("mean attention weight")
    with atomic_path(run.file("group.png")) as temporary:
        save_figure(figure, temporary, dpi=110)
    return {"Disagreement, and attention of each policy to its peers": "group.png"}
