"""The steps of `effcli rl-distill`: train a group, and others to compare with, from the same seeds; then play."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from effcli.core.errors import InterruptedRunError, NonFiniteError, RunError, UsageError
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.registry import load_method
from effcli.core.run import Run, Stateful
from effcli.core.runtime import Runtime
from effcli.rl_distill.environments import EnvironmentFailure, make_environments
from effcli.rl_distill.evaluation import play
from effcli.rl_distill.group import Policy
from effcli.rl_distill.networks import encoder
from effcli.rl_distill.recipe import RlDistillRecipe
from effcli.rl_distill.report import draw_curves, draw_group
from effcli.rl_distill.returns import area_under, bootstrap_interval, curve
from effcli.rl_distill.weights import About, SavedPolicy, save_policy

log = logging.getLogger(__name__)

LINES, POINTS = 10, 100


class Group(Protocol):
    """Policies that learn side by side.

    Attributes:
        policies: the members.
        kind: the algorithm.
        attention_means: mean weights of the last update, ``[T, T]``; None where nobody looks at anybody.
    """

    policies: Sequence[Policy]
    kind: str
    attention_means: Tensor | None

    @property
    def n_updates(self) -> int:
        """Of the whole training."""

    def update(self, update: int) -> dict[str, float]:
        """Act and learn once; means of what was minimised."""

    def restart(self, update: int) -> None:
        """Begin new episodes, after an interruption."""

    def state_dict(self) -> dict[str, Any]:
        """All that the training changes."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from there."""


class RlMethod(Protocol):
    """What the module of a method of `effcli rl-distill` has.

    Attributes:
        create: ``(recipe, runtime)``: the group.
    """

    create: Callable[[Any, Runtime], Group]


class Clock:
    """Seconds of training and what was seen of the group, which a resumed run goes on counting.

    Attributes:
        seconds: of training.
        failure: what an environment raised.
        disagreement: of the policies, by update.
        attention: mean weights, the row's policy looking at the column's, ``[T, T]``, by update.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.failure: str | None = None
        self.disagreement: list[tuple[int, float]] = []
        self.attention: list[tuple[int, list[list[float]]]] = []

    def state_dict(self) -> dict[str, Any]:
        """All but a failure."""
        return {
            "seconds": self.seconds,
            "disagreement": list(self.disagreement),
            "attention": list(self.attention),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.seconds = float(state["seconds"])
        self.disagreement = [(int(update), float(value)) for update, value in state["disagreement"]]
        self.attention = [(int(update), rows) for update, rows in state["attention"]]


@dataclass(frozen=True)
class Trained:
    """A group at its end.

    Attributes:
        group: the policies.
        clock: what was counted.
    """

    group: Group
    clock: Clock


def plan_run(recipe: RlDistillRecipe) -> Plan[None]:
    """What :func:`run` would do; making the environment also proves that it is there."""
    env = make_environments(recipe.env.id, recipe.env.copies)
    shape, n_actions = env.shape, env.n_actions
    env.close()
    try:
        for size in set(recipe.policies):
            encoder(shape, size)
    except ValueError as error:
        raise UsageError(str(error), place=recipe.env.id) from None
    _warn(recipe)
    groups = ["group", *recipe.compare]
    facts = {
        "observation_shape": list(shape),
        "actions": n_actions,
        "policies": len(recipe.policies),
        "groups": groups,
        "steps_per_policy": recipe.steps,
        "env_steps": recipe.steps * len(recipe.policies) * len(groups),
    }
    return Plan(facts, None)


def run(recipe: RlDistillRecipe, _: None, run: Run) -> Result:
    """Train the group, compare, play; policies go to ``model/``."""
    if run.runtime.world > 1:
        raise UsageError(
            f"a group is trained by one process, not by {run.runtime.world}",
            hint="several seeds or recipes can run beside each other",
        )
    arms = {"group": recipe} | {str(name): arm_of(recipe, name) for name in recipe.compare}
    trained = {name: train(one, name, run) for name, one in arms.items()}
    summaries = {name: summary_of(one, recipe) for name, one in trained.items()}
    own = trained["group"]
    best = int(
        np.argmax([value if value is not None else -np.inf for value in summaries["group"]["returns"]])
    )
    save_policies(own, recipe, best, run)
    metrics: dict[str, Any] = {
        **summaries["group"],
        "best_policy": best + 1,
        "parameters": [sum(p.numel() for p in one.network.parameters()) for one in own.group.policies],
        "env_steps": sum(policy.returns.n_steps for policy in own.group.policies),
        "train_s": round(own.clock.seconds, 3),
        "peak_memory_mb": run.runtime.peak_memory_mb(),
    }
    seconds = own.clock.seconds
    metrics["steps_per_s"] = round(metrics["env_steps"] / seconds, 1) if seconds else None
    if own.clock.attention:
        metrics["attention"] = own.clock.attention[-1][1]
    if recipe.eval.episodes:
        metrics["play"] = run.stage("play", _played, own, recipe, run)
    metrics["compare"] = {name: compared(summaries["group"], summaries[name]) for name in recipe.compare}
    return run.finish(metrics, lambda: draw_figures(trained, recipe, run))


def draw_figures(trained: dict[str, Trained], recipe: RlDistillRecipe, run: Run) -> dict[str, str]:
    """Curves of returns, how far policies are apart, and at whom they look."""
    disagreement = {name: one.clock.disagreement for name, one in trained.items()}
    return {
        **draw_curves({name: one.group.policies for name, one in trained.items()}, recipe, run),
        **draw_group(disagreement, trained["group"].clock.attention, run),
    }


def arm_of(recipe: RlDistillRecipe, name: str) -> RlDistillRecipe:
    """The recipe of a group to compare with."""
    targets = {"independent": "none", "mean": "mean"}[name]
    return recipe.model_copy(update={"opd": recipe.opd.model_copy(update={"targets": targets})})


def train(recipe: RlDistillRecipe, name: str, run: Run) -> Trained:
    """Train one group; its loop and its log lines have its name."""
    group: Group = load_method(recipe).create(recipe, run.runtime)
    clock = Clock()
    begun = run.has_begun(name)
    says = -(-group.n_updates // LINES)
    is_first = True
    for update in _guarded(run, name, group, clock, recipe.env.workers):
        if is_first and begun and update:
            group.restart(update)
            run.say(f"{name}: goes on with new episodes")
        is_first = False
        started = time.perf_counter()
        try:
            values = group.update(update)
        except EnvironmentFailure as error:
            clock.failure = str(error)
            run.stop_after_step()
            continue
        clock.seconds += time.perf_counter() - started
        if "disagreement" in values:
            clock.disagreement.append((update, values["disagreement"]))
        if group.attention_means is not None and update % max(1, group.n_updates // POINTS) == 0:
            clock.attention.append((update, group.attention_means.tolist()))
        returns = [policy.returns.recent(recipe.eval.window) for policy in group.policies]
        _check_finite(returns, name, run)
        known = {f"return_{i + 1}": value for i, value in enumerate(returns) if value is not None}
        run.log(name, update, every=max(1, group.n_updates // 1000), **values, **known)
        if (update + 1) % says == 0 or update + 1 == group.n_updates:
            run.say(line_of(name, group, returns, clock, values))
    return Trained(group, clock)


def _guarded(run: Run, name: str, group: Group, clock: Clock, workers: int) -> Iterator[int]:
    """The updates still to do; where an environment failed, the checkpoint is written before the run fails."""
    state: dict[str, Stateful] = {"group": group, "clock": clock}
    try:
        yield from run.steps(name, group.n_updates, state, unit="updates", beside=workers)
    except InterruptedRunError as error:
        if clock.failure is None:
            raise
        raise RunError(
            f"the environment failed: {clock.failure}",
            place=str(run.path),
            hint="what was learnt is kept; the same command with --resume goes on with new episodes",
        ) from error


def line_of(
    name: str, group: Group, returns: Sequence[float | None], clock: Clock, values: dict[str, float]
) -> str:
    """One line for whoever waits."""
    n_steps = sum(policy.returns.n_steps for policy in group.policies)
    shown = ", ".join("no episode yet" if value is None else f"{value:.1f}" for value in returns)
    speed = n_steps / clock.seconds if clock.seconds else 0.0
    apart = f", disagreement {values['disagreement']:.3f}" if "disagreement" in values else ""
    return f"{name}: {n_steps // len(returns)} steps a policy, {speed:.0f} steps/s, return {shown}{apart}"


def summary_of(trained: Trained, recipe: RlDistillRecipe) -> dict[str, Any]:
    """Returns of the last episodes, areas under the curves, disagreement."""
    policies = trained.group.policies
    window, total = recipe.eval.window, recipe.steps
    returns = [policy.returns.recent(window) for policy in policies]
    areas = [
        area_under(curve(policy.returns.ends, policy.returns.values, total, window)) for policy in policies
    ]
    known = [value for value in returns if value is not None]
    apart = [value for _, value in trained.clock.disagreement]
    has_areas = bool(known) and not np.isnan(areas).any()
    return {
        "mean_return": round(float(np.mean(known)), 4) if known else None,
        "best_return": round(max(known), 4) if known else None,
        "returns": [None if value is None else round(value, 4) for value in returns],
        "auc": round(float(np.mean(areas)), 4) if has_areas else None,
        "aucs": [round(area, 4) for area in areas] if has_areas else None,
        "auc_interval": [round(v, 4) for v in bootstrap_interval(areas)] if has_areas else None,
        "disagreement": round(float(np.mean(apart)), 5) if apart else None,
        "last_disagreement": round(float(np.mean(apart[-max(1, len(apart) // 10) :])), 5) if apart else None,
    }


def compared(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Another group's summary, and how far the own one is above it."""
    names = ("mean_return", "best_return", "auc")
    differences = {
        f"{name}_gain": round(own[name] - other[name], 4)
        for name in names
        if own[name] is not None and other[name] is not None
    }
    return {**other, **differences}


def save_policies(trained: Trained, recipe: RlDistillRecipe, best: int, run: Run) -> None:
    """Write every policy to ``model/``."""
    for i, policy in enumerate(trained.group.policies):
        about = About(
            recipe.method,
            recipe.env.id,
            policy.env.shape,
            policy.env.n_actions,
            recipe.policies[i],
            i + 1,
            i == best,
            policy.returns.recent(recipe.eval.window),
        )
        save_policy(run.file(f"model/policy-{i + 1}.safetensors"), policy.network, about)


def _played(trained: Trained, recipe: RlDistillRecipe, run: Run) -> dict[str, Any]:
    """Games of every policy at the end."""
    made = []
    for i, policy in enumerate(trained.group.policies):
        about = About(
            recipe.method, recipe.env.id, policy.env.shape, policy.env.n_actions, "", i + 1, False, None
        )
        decide = SavedPolicy(policy.network, about)
        make = partial(make_environments, recipe.env.id)
        made.append(play(decide, make, recipe.eval.episodes, run.runtime, f"policy {i + 1}", run.check_stop))
    return {
        "episodes": recipe.eval.episodes,
        "mean_returns": [round(float(np.mean(one)), 4) for one in made],
        "intervals": [[round(v, 4) for v in bootstrap_interval(one)] for one in made],
    }


def _check_finite(returns: Sequence[float | None], name: str, run: Run) -> None:
    if any(value is not None and not np.isfinite(value) for value in returns):
        raise NonFiniteError(
            f"a return of {name} is not finite",
            place=str(run.path),
            hint="the environment gives rewards that are not numbers",
        )


def _warn(recipe: RlDistillRecipe) -> None:
    opd = recipe.opd
    if opd.targets == "attention" and len(recipe.policies) == 2 and opd.attention_self == "exclude":
        log.warning("with two policies there is one peer, so attention makes no difference: three are needed")
