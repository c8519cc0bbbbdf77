"""Measuring policies: episodes with their most likely actions, and summaries of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import RunError
from effcli.core.runtime import Runtime, derive_seed
from effcli.rl_distill.environments import Environments
from effcli.rl_distill.recipe import RlDistillRecipe
from effcli.rl_distill.returns import Returns, area_under, bootstrap_interval, curve

COPIES = 8
MOST_STEPS = 30_000
"""An episode that takes longer is not counted."""


def play(
    decide: Callable[[Tensor], Tensor],
    make: Callable[[int], Environments],
    episodes: int,
    runtime: Runtime,
    name: str,
    check: Callable[[], None] = lambda: None,
) -> list[float]:
    """Play episodes with the best actions; returns their returns, never clipped.

    Each copy plays a fixed number of episodes, so that short episodes are not over-represented.

    Args:
        decide: decisions ``[B, A]`` for observations ``[B, ...]``, float32 on the runtime's device.
        make: makes environments with a number of copies.
        episodes: number of episodes, 1 or more.
        runtime: device; its seed decides the episodes.
        name: of the policy, for its seeds and for messages.
        check: called every 200 steps; may raise to stop.

    Raises:
        RunError: no episode ended.
    """
    copies = min(COPIES, episodes)
    env = make(copies)
    wanted = np.array([episodes // copies + (i < episodes % copies) for i in range(copies)])
    done, running = np.zeros(copies, int), np.zeros(copies)
    observations = env.reset(derive_seed(runtime.seed, "play", name) % 2**31)
    found: list[float] = []
    tuner = runtime.tuner("play")
    for step in range(MOST_STEPS * int(wanted.max())):
        if step % 200 == 0:
            check()
        with tuner.step(), torch.no_grad():
            x = torch.as_tensor(observations, device=runtime.device).float()
            actions = decide(x).argmax(-1).cpu().numpy()
            result = env.step(actions)
        running += result.rewards
        for copy in np.flatnonzero(result.terminated | result.truncated):
            if done[copy] < wanted[copy]:
                found.append(float(running[copy]))
                done[copy] += 1
            running[copy] = 0.0
        if (done >= wanted).all():
            break
        observations = result.observations
    env.close()
    if not found:
        raise RunError(f"no episode ended within {MOST_STEPS} steps", place=name)
    return found


def summarise(
    returns: Sequence[Returns], disagreement: Sequence[tuple[int, float]], recipe: RlDistillRecipe
) -> dict[str, Any]:
    """Returns of the last training episodes, areas under the learning curves, and disagreement of a group.

    Args:
        returns: of each policy.
        disagreement: (update, disagreement) pairs.
        recipe: the settings.
    """
    window, total = recipe.eval.window, recipe.train.env_steps
    recent = [one.recent(window) for one in returns]
    areas = [area_under(curve(one.ends, one.values, total, window)) for one in returns]
    known = [value for value in recent if value is not None]
    apart = [value for _, value in disagreement]
    has_areas = bool(known) and not np.isnan(areas).any()
    return {
        "mean_return": round(float(np.mean(known)), 4) if known else None,
        "best_return": round(max(known), 4) if known else None,
        "returns": [None if value is None else round(value, 4) for value in recent],
        "auc": round(float(np.mean(areas)), 4) if has_areas else None,
        "aucs": [round(area, 4) for area in areas] if has_areas else None,
        "auc_interval": [round(v, 4) for v in bootstrap_interval(areas)] if has_areas else None,
        "disagreement": round(float(np.mean(apart)), 5) if apart else None,
        "last_disagreement": round(float(np.mean(apart[-max(1, len(apart) // 10) :])), 5) if apart else None,
    }


def with_gains(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The summary of another group, and by how much the own group's returns and area exceed it."""
    names = ("mean_return", "best_return", "auc")
    gains = {
        f"{name}_gain": round(own[name] - other[name], 4)
        for name in names
        if own[name] is not None and other[name] is not None
    }
    return {**other, **gains}
