"""The steps of `effcli rl-distill`: `run` trains a group and those to compare with; `eval`, `watch`, `export`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.core.runtime import Runtime, derive_seed
from effcli.data.moving_pictures import write_video
from effcli.nn.onnx_file import save_onnx
from effcli.rl_distill.environments import Environments, check_registered, make_environments
from effcli.rl_distill.evaluation import play, summarise, with_gains
from effcli.rl_distill.figures import draw_curves, draw_group
from effcli.rl_distill.network.policies import encoder
from effcli.rl_distill.recipe import RlDistillRecipe
from effcli.rl_distill.returns import bootstrap_interval
from effcli.rl_distill.training import Group, TrainedGroup, train_group
from effcli.rl_distill.weights import (
    PolicyDescription,
    SavedPolicy,
    best_policy,
    load_policy,
    policy_files,
    save_policy,
)

log = logging.getLogger(__name__)

FPS = 30.0


class RlMethod(Protocol):
    """What the module of a method of `effcli rl-distill` has.

    Attributes:
        create: ``(recipe, runtime)``: the group.
    """

    create: Callable[[Any, Runtime], Group]


# --- run --------------------------------------------------------------------------------------------------


def plan_run(recipe: RlDistillRecipe) -> Plan[None]:
    """What :func:`run` would do; makes the environment once, to see that it works.

    Raises:
        UsageError: the environment is unknown or its spaces are not supported.
    """
    env = make_environments(recipe.env.id, recipe.env.copies)
    shape, n_actions = env.shape, env.n_actions
    env.close()
    try:
        for size in set(recipe.policies):
            encoder(shape, size)
    except ValueError as error:
        raise UsageError(str(error), place=recipe.env.id) from None
    _warn_of_single_peer(recipe)
    groups = ["group", *recipe.compared_groups]
    n_steps = recipe.train.env_steps
    facts = {
        "observation_shape": list(shape),
        "actions": n_actions,
        "policies": len(recipe.policies),
        "groups": groups,
        "steps_per_policy": n_steps,
        "env_steps": n_steps * len(recipe.policies) * len(groups),
    }
    return Plan(facts, None)


def run(recipe: RlDistillRecipe, _: None, run: Run) -> Result:
    """Train the group and those to compare with, write the policies to ``model/``, play."""
    if run.runtime.world > 1:
        raise UsageError(
            f"a group is trained by one process, not by {run.runtime.world}",
            hint="start several seeds or recipes side by side instead",
        )
    arms = {"group": recipe} | {name: arm_of(recipe, name) for name in recipe.compared_groups}
    trained = {name: train_group(one, name, run) for name, one in arms.items()}
    summaries = {
        name: summarise([policy.returns for policy in one.group.policies], one.record.disagreement, recipe)
        for name, one in trained.items()
    }
    own, summary = trained["group"], summaries["group"]
    best = int(np.argmax([value if value is not None else -np.inf for value in summary["returns"]]))
    save_policies(own, recipe, best, run)
    metrics = {
        **summary,
        "best_policy": best + 1,
        **costs_of(own),
        "peak_memory_mb": run.runtime.peak_memory_mb(),
    }
    if own.record.attention:
        metrics["attention"] = own.record.attention[-1][1]
    if recipe.eval.episodes:
        metrics["play"] = run.stage("play", _played, own, recipe, run)
    metrics["compare"] = {name: with_gains(summary, summaries[name]) for name in recipe.compared_groups}
    return run.finish(metrics, lambda: draw_figures(trained, recipe, run))


def arm_of(recipe: RlDistillRecipe, name: str) -> RlDistillRecipe:
    """The recipe of a group to compare with: the same, but for how peers are weighted."""
    targets = {"independent": "none", "mean": "mean"}[name]
    return recipe.model_copy(update={"opd": recipe.distillation.model_copy(update={"targets": targets})})


def costs_of(trained: TrainedGroup) -> dict[str, Any]:
    """Parameters of each policy, environment steps of the group, and the time they took."""
    policies, seconds = trained.group.policies, trained.record.seconds
    n_steps = sum(policy.returns.n_steps for policy in policies)
    return {
        "parameters": [sum(p.numel() for p in policy.network.parameters()) for policy in policies],
        "env_steps": n_steps,
        "train_s": round(seconds, 3),
        "steps_per_s": round(n_steps / seconds, 1) if seconds else None,
    }


def save_policies(trained: TrainedGroup, recipe: RlDistillRecipe, best: int, run: Run) -> None:
    """Write every policy to ``model/``; ``best`` is the index of the one with the highest return."""
    for i, policy in enumerate(trained.group.policies):
        about = PolicyDescription(
            trained.group.kind,
            recipe.env.id,
            policy.env.shape,
            policy.env.n_actions,
            recipe.policies[i],
            i + 1,
            i == best,
            policy.returns.recent(recipe.eval.window),
        )
        save_policy(run.file(f"model/policy-{i + 1}.safetensors"), policy.network, about)


def draw_figures(trained: dict[str, TrainedGroup], recipe: RlDistillRecipe, run: Run) -> dict[str, str]:
    """Learning curves, disagreement and attention; returns caption -> file."""
    disagreement = {name: one.record.disagreement for name, one in trained.items()}
    return {
        **draw_curves({name: one.group.policies for name, one in trained.items()}, recipe, run),
        **draw_group(disagreement, trained["group"].record.attention, run),
    }


def _played(trained: TrainedGroup, recipe: RlDistillRecipe, run: Run) -> dict[str, Any]:
    """Episodes of every policy at the end."""
    found = []
    make = partial(make_environments, recipe.env.id)
    for i, policy in enumerate(trained.group.policies):
        decide = partial(_decisions, policy.network)
        found.append(play(decide, make, recipe.eval.episodes, run.runtime, f"policy {i + 1}", run.check_stop))
    return {
        "episodes": recipe.eval.episodes,
        "mean_returns": [round(float(np.mean(one)), 4) for one in found],
        "intervals": [[round(v, 4) for v in bootstrap_interval(one)] for one in found],
    }


def _decisions(network: nn.Module, observations: Tensor) -> Tensor:
    decisions: Tensor = network(observations.float())[1]
    return decisions


def _warn_of_single_peer(recipe: RlDistillRecipe) -> None:
    opd = recipe.distillation
    if opd.targets == "attention" and len(recipe.policies) == 2 and opd.attention_self == "exclude":
        log.warning(
            "with two policies each has one peer, so attention makes no difference; use three or more policies"
        )


# --- eval, watch, export ----------------------------------------------------------------------------------


def evaluate(place: str, episodes: int, env: str | None, runtime: Runtime) -> Result:
    """Play episodes with every policy of a run, or with the policy of one file.

    Args:
        place: run directory or policy file.
        episodes: episodes of each policy, 1 or more.
        env: environment; None is the one of the training.
        runtime: device; its seed decides the episodes.

    Raises:
        InputError: there is no policy file, or it names code as its environment.
        UsageError: the environment is unknown, or has other observations or actions.
    """
    started = time.perf_counter()
    policies = [load_policy(file).to(runtime.device) for file in policy_files(place)]
    about = policies[0].about
    if env is None:
        check_registered(about.env, place)
    name = env or about.env
    probe = make_environments(name, 1)
    _check_fits(probe, about, name)
    probe.close()
    games = [
        play(policy, partial(make_environments, name), episodes, runtime, f"policy {policy.about.number}")
        for policy in policies
    ]
    means = [float(np.mean(one)) for one in games]
    metrics = {
        "env": name,
        "episodes": episodes,
        "mean_return": round(float(np.mean(means)), 4),
        "best_return": round(max(means), 4),
        "returns": [round(mean, 4) for mean in means],
        "intervals": [[round(v, 4) for v in bootstrap_interval(one)] for one in games],
        "parameters": [sum(p.numel() for p in policy.parameters()) for policy in policies],
    }
    return result_of_verb(
        "rl-distill",
        "eval",
        about.algorithm,
        recipe=Path(place).stem,
        output=place,
        metrics=metrics,
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


def watch(
    place: str, number: int | None, file: Path, most_steps: int, env_id: str | None, runtime: Runtime
) -> dict[str, Any]:
    """Play one episode and write it as an animation or video.

    Args:
        place: run directory or policy file.
        number: of the policy, from 1; None is the best.
        file: ``.gif``, ``.webp`` or ``.mp4``.
        most_steps: a longer episode is cut off.
        env_id: environment; None is the one of the training.
        runtime: device; its seed decides the episode.

    Returns:
        ``policy``, ``steps`` and ``episode_return``.

    Raises:
        InputError: there is no policy file, or it names code as its environment.
        UsageError: the environment cannot be rendered, for example because a package is missing.
    """
    policy = best_policy(place, number).to(runtime.device)
    about = policy.about
    if env_id is None:
        check_registered(about.env, place)
    name = env_id or about.env
    env = make_environments(name, 1, render=True)
    _check_fits(env, about, name)
    observations = env.reset(derive_seed(runtime.seed, "watch") % 2**31)
    pictures, total = [_picture(env, observations, name)], 0.0
    for _ in range(most_steps):
        with torch.no_grad():
            x = torch.as_tensor(observations, device=runtime.device).float()
            step = env.step(policy(x).argmax(-1).cpu().numpy())
        observations = step.observations
        total += float(step.rewards[0])
        pictures.append(_picture(env, observations, name))
        if step.terminated[0] or step.truncated[0]:
            break
    env.close()
    write_video(file, (Image.fromarray(picture) for picture in pictures), FPS)
    return {"policy": about.number, "steps": len(pictures) - 1, "episode_return": round(total, 4)}


def export(policy: SavedPolicy, file: Path) -> None:
    """Write one policy as safetensors, or as ``.onnx`` with input ``observations`` and output ``decisions``.

    Raises:
        UsageError: the packages for ONNX are not installed.
    """
    about = policy.about
    if file.suffix == ".safetensors":
        save_policy(file, policy.network, about)
        return
    metadata = {
        "env": about.env,
        "algorithm": about.algorithm,
        "decisions": "the best action has the highest",
        "input": f"observations, float32, [batch, {', '.join(map(str, about.shape))}]",
        "mean_return": json.dumps(about.mean_return),
    }
    example = torch.zeros(2, *about.shape)
    save_onnx(policy, example, file, input_name="observations", output_name="decisions", metadata=metadata)


def _check_fits(env: Environments, about: PolicyDescription, name: str) -> None:
    if (env.shape, env.n_actions) != (about.shape, about.n_actions):
        raise UsageError(
            f"has observations {list(env.shape)} and {env.n_actions} actions; the policy was trained for "
            f"{list(about.shape)} and {about.n_actions}",
            place=name,
        )


def _picture(env: Environments, observations: np.ndarray, name: str) -> np.ndarray:
    import gymnasium

    try:
        picture: np.ndarray = env.picture(observations)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"cannot be rendered: {' '.join(str(error).split())}", place=name) from None
    return picture
