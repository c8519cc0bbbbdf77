"""Measuring policies: episodes with their most likely actions, and summaries of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.core.runtime import Runtime, derive_seed
from effcli.rl_distill.decisions import best
from effcli.rl_distill.environments.copies import Environments, failures_named
from effcli.rl_distill.recipe import RlDistillRecipe
from effcli.rl_distill.returns import Returns, area_under, bootstrap_interval, curve

COPIES = 8
MOST_STEPS = 30_000
"""A game that takes longer is cut off; its return so far counts."""


@dataclass(frozen=True)
class Games:
    """Games that a policy played.

    Attributes:
        returns: never clipped; of a game that was cut off the return so far.
        n_cut_off: how many games were cut off after :data:`MOST_STEPS` steps.
    """

    returns: list[float]
    n_cut_off: int

    @property
    def mean(self) -> float:
        """Of the returns."""
        return float(np.mean(self.returns))


def play(
    decide: Callable[[Tensor], Tensor],
    make: Callable[[int], Environments],
    episodes: int,
    runtime: Runtime,
    name: str,
    check: Callable[[], None] = lambda: None,
) -> Games:
    """Play episodes with the best actions.

    Each copy plays a fixed number of episodes, so that short episodes are not over-represented. Where all copies that
    still have to play are in games that were cut off, new games begin in all.

    Args:
        decide: decisions ``[B, D]`` for observations ``[B, ...]``, float32 on the runtime's device.
        make: makes environments, with a number of copies or, where they come together, with another one.
        episodes: number of episodes, 1 or more.
        runtime: device; its seed decides the episodes.
        name: of the policy, for its seeds and for messages.
        check: called every 200 steps; may raise to stop.

    Raises:
        UsageError: the environment cannot be made.
        RunError: the environment failed.
    """
    env = make(min(COPIES, episodes))
    copies = len(env)
    wanted = np.array([episodes // copies + (i < episodes % copies) for i in range(copies)])
    seed = derive_seed(runtime.seed, "play", name) % 2**31
    try:
        with failures_named(name):
            return _played(decide, env, wanted, seed, runtime, check)
    finally:
        env.close()


def _played(
    decide: Callable[[Tensor], Tensor],
    env: Environments,
    wanted: np.ndarray,
    seed: int,
    runtime: Runtime,
    check: Callable[[], None],
) -> Games:
    done, tally, is_stuck = np.zeros_like(wanted), Returns(len(wanted)), np.zeros(len(wanted), bool)
    observations, found, n_cut_off, step = env.reset(seed), [], 0, 0
    tuner = runtime.tuner("play")
    while (done < wanted).any():
        if step % 200 == 0:
            check()
        step += 1
        with tuner.step(), torch.no_grad():
            x = torch.as_tensor(observations, device=runtime.device).float()
            result = env.step(best(decide(x), env.actions).cpu().numpy())
        observations = result.shown
        tally.running += result.rewards
        tally.running_steps += result.valid
        is_cut = (tally.running_steps >= MOST_STEPS) & ~result.done & ~is_stuck
        for copy in np.flatnonzero(result.done | is_cut):
            if done[copy] < wanted[copy] and not is_stuck[copy]:
                found.append(float(tally.running[copy]))
                done[copy] += 1
                n_cut_off += int(is_cut[copy])
            tally.running[copy], tally.running_steps[copy] = 0.0, 0
        is_stuck = (is_stuck | is_cut) & ~result.done
        if is_stuck[done < wanted].all() and (done < wanted).any():
            observations = env.reset((seed + step) % 2**31)
            tally.restart()
            is_stuck[:] = False
    return Games(found, n_cut_off)


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
    recent = [one.recent_or_so_far(window) for one in returns]
    unfinished = [one.n_unfinished for one in returns]
    areas = [area_under(curve(one.ends, one.values, total, window)) for one in returns]
    known = [value for value in recent if value is not None]
    apart = [value for _, value in disagreement]
    has_areas = bool(known) and not np.isnan(areas).any()
    return {
        "mean_return": round(float(np.mean(known)), 4) if known else None,
        "best_return": round(max(known), 4) if known else None,
        "returns": [None if value is None else round(value, 4) for value in recent],
        **({"unfinished_games": unfinished} if any(unfinished) else {}),
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
