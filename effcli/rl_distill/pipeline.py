"""The steps of `effcli rl-distill`: `run` trains a group and those to compare with; `eval`, `watch`, `export`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.core.runtime import Runtime, derive_seed
from effcli.data.moving_pictures import write_video
from effcli.nn.onnx_file import save_onnx
from effcli.rl_distill.decisions import best as best_actions
from effcli.rl_distill.environments.chosen import ChosenEnvironment
from effcli.rl_distill.environments.copies import Environments, failures_named
from effcli.rl_distill.environments.making import environments_of
from effcli.rl_distill.environments.pictures import picture_of
from effcli.rl_distill.evaluation import MOST_STEPS, Games, play, summarise, with_gains
from effcli.rl_distill.figures import draw_curves, draw_group
from effcli.rl_distill.network.encoders import encoder
from effcli.rl_distill.network.exported import ExportedPolicy
from effcli.rl_distill.progress_evaluation import check_board, decisions_of
from effcli.rl_distill.recipe import RlDistillRecipe
from effcli.rl_distill.returns import bootstrap_interval
from effcli.rl_distill.teachers.teacher import load_teachers
from effcli.rl_distill.training import Group, TrainedGroup, train_group
from effcli.rl_distill.weights import (
    PolicyDescription,
    SavedPolicy,
    best_policy,
    described,
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
    check_board(recipe.train.tensorboard)
    env = environments_of(recipe.model_copy(update={"env": recipe.env.model_copy(update={"workers": 0})}))
    seen, decides = env.observed, env.actions
    kind = "dqn" if hasattr(recipe, "dqn") else "ppo"
    teachers = load_teachers(recipe.distillation.teachers, kind, env, torch.device("cpu"))
    env.close()
    _check_evaluations(recipe, env)
    if hasattr(recipe, "dqn") and not decides.is_discrete:
        raise UsageError(
            "DQN needs a single discrete action, and this environment has other actions",
            place=recipe.env.id,
            hint="add --method opd-da, or ppo",
        )
    for size in set(recipe.policies):
        encoder(seen, size)
    _warn_of_single_peer(recipe)
    if recipe.env.normalise_observations and not any(part.kind == "numbers" for part in seen.parts):
        raise UsageError(
            "env.normalise_observations: its observations have no numbers to normalise", place=recipe.env.id
        )
    if seen.left_out:
        log.warning(
            "no policy reads %s of the observations: text parts are left out", ", ".join(seen.left_out)
        )
    groups = ["group", *recipe.compared_groups]
    n_steps = recipe.train.env_steps
    facts = {
        "observation_shape": list(seen.shape),
        **(
            {} if seen.is_single else {"observation_parts": [f"{one.name}: {one.kind}" for one in seen.parts]}
        ),
        "actions": decides.n_decisions if decides.kind == "choices" else f"{decides.n_numbers} continuous",
        "policies": len(recipe.policies),
        **({"teachers": len(teachers)} if teachers else {}),
        "groups": groups,
        "steps_per_policy": n_steps,
        "env_steps": n_steps * len(recipe.policies) * len(groups),
    }
    return Plan(facts, None)


def run(recipe: RlDistillRecipe, _: None, run: Run) -> Result:
    """Train the group and those to compare with, write the policies to ``model/``, play."""
    arms = {"group": recipe} | {name: arm_of(recipe, name) for name in recipe.compared_groups}
    trained = {name: train_group(one, name, run) for name, one in arms.items()}
    summaries = {
        name: summarise([policy.returns for policy in one.group.policies], one.record.disagreement, recipe)
        for name, one in trained.items()
    }
    own, summary = trained["group"], summaries["group"]
    best = int(np.argmax([value if value is not None else -np.inf for value in summary["returns"]]))
    run.runtime.on_main(lambda: save_policies(own, recipe, best, run))
    metrics = {
        **summary,
        "best_policy": best + 1,
        **costs_of(own),
        "peak_memory_mb": run.runtime.peak_memory_mb(),
    }
    if own.record.attention:
        metrics["attention"] = own.record.attention[-1][1]
    if own.record.best.points:
        metrics["evaluations"] = [
            {"env_steps": steps, "returns": found} for steps, found in own.record.best.points
        ]
        metrics["best_evaluations"] = own.record.best.returns
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
            policy.returns.recent_or_so_far(recipe.eval.window),
            *described(policy.env),
            env_kwargs=dict(recipe.env.kwargs) or None,
            normalises=recipe.env.normalise_observations,
        )
        save_policy(run.file(f"model/policy-{i + 1}.safetensors"), policy.network, about)
        if trained.record.best.returns:
            at_best = deepcopy(policy.network)
            at_best.load_state_dict(trained.record.best.weights[i])
            known = replace(about, mean_return=trained.record.best.returns[i])
            save_policy(run.file(f"model/best/policy-{i + 1}.safetensors"), at_best, known)


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
    make = partial(environments_of, recipe)
    for i, policy in enumerate(trained.group.policies):
        decide = partial(decisions_of, policy)
        found.append(play(decide, make, recipe.eval.episodes, run.runtime, f"policy {i + 1}", run.check_stop))
    return {
        "episodes": recipe.eval.episodes,
        "mean_return": round(float(np.mean([one.mean for one in found])), 4),
        "mean_returns": [round(one.mean, 4) for one in found],
        "intervals": [[round(v, 4) for v in bootstrap_interval(one.returns)] for one in found],
        **_cut_off(found),
    }


def _cut_off(found: Sequence[Games]) -> dict[str, Any]:
    """How many games of each policy were cut off, and are counted with their return so far, where one was."""
    counts = [one.n_cut_off for one in found]
    return {"cut_off_games": counts, "cut_off_after_steps": MOST_STEPS} if any(counts) else {}


def _check_evaluations(recipe: RlDistillRecipe, learned: Environments) -> None:
    """Refuse an environment for evaluations that is not like the one of the training, before that begins."""
    if not recipe.eval.kwargs:
        return
    env = environments_of(recipe, 1)
    env.close()
    if (env.observed, env.actions) != (learned.observed, learned.actions):
        raise UsageError(
            f"eval.kwargs: observations {list(env.shape)}, in training {list(learned.shape)}, or other actions",
            place=recipe.env.id,
        )


def _warn_of_single_peer(recipe: RlDistillRecipe) -> None:
    opd = recipe.distillation
    is_alone = len(recipe.policies) == 2 and opd.attention_self == "exclude" and not opd.teachers
    if opd.targets == "attention" and is_alone:
        log.warning(
            "with two policies each has one peer, so attention makes no difference; use three or more policies"
        )


# --- eval, watch, export ----------------------------------------------------------------------------------


def evaluate(place: str, episodes: int, chosen: ChosenEnvironment, runtime: Runtime) -> Result:
    """Play episodes with every policy of a run, or with the policy of one file.

    Args:
        place: run directory or policy file.
        episodes: episodes of each policy, 1 or more.
        chosen: the environment.
        runtime: device; its seed decides the episodes.

    Raises:
        InputError: there is no policy file, or it names code as its environment.
        UsageError: the environment is unknown, or has other observations or actions.
    """
    started = time.perf_counter()
    policies = [load_policy(file).to(runtime.device) for file in policy_files(place)]
    about = policies[0].about
    chosen.open(about, place, 1).close()
    make = partial(chosen.open, about, place)
    games = [play(policy, make, episodes, runtime, f"policy {policy.about.number}") for policy in policies]
    means = [one.mean for one in games]
    metrics = {
        "env": chosen.env or about.env,
        "episodes": episodes,
        "mean_return": round(float(np.mean(means)), 4),
        "best_return": round(max(means), 4),
        "returns": [round(mean, 4) for mean in means],
        "intervals": [[round(v, 4) for v in bootstrap_interval(one.returns)] for one in games],
        **_cut_off(games),
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
    place: str, number: int | None, file: Path, most_steps: int, chosen: ChosenEnvironment, runtime: Runtime
) -> dict[str, Any]:
    """Play one episode and write it as an animation or video.

    Args:
        place: run directory or policy file.
        number: of the policy, from 1; None is the best.
        file: ``.gif``, ``.webp`` or ``.mp4``.
        most_steps: a longer episode is cut off.
        chosen: the environment.
        runtime: device; its seed decides the episode.

    Returns:
        ``policy``, ``steps`` and ``episode_return``.

    Raises:
        InputError: there is no policy file, or it names code as its environment.
        UsageError: the environment cannot be rendered, for example because a package is missing.
        RunError: the environment failed.
    """
    policy = best_policy(place, number).to(runtime.device)
    about = policy.about
    env = chosen.open(about, place, 1, render=True)
    with failures_named(env.name):
        pictures, total = _watched(policy, env, most_steps, runtime)
    env.close()
    write_video(file, (Image.fromarray(picture) for picture in pictures), FPS)
    return {"policy": about.number, "steps": len(pictures) - 1, "episode_return": round(total, 4)}


def _watched(
    policy: SavedPolicy, env: Environments, most_steps: int, runtime: Runtime
) -> tuple[list[np.ndarray], float]:
    """The pictures of an episode, and its return."""
    observations = env.reset(derive_seed(runtime.seed, "watch") % 2**31)
    pictures, total = [_picture(env, observations)], 0.0
    for _ in range(most_steps):
        with torch.no_grad():
            x = torch.as_tensor(observations, device=runtime.device).float()
            step = env.step(best_actions(policy(x), env.actions).cpu().numpy())
        observations = step.observations
        total += float(step.rewards[0])
        pictures.append(_picture(env, observations))
        if step.done[0]:
            break
    return pictures, total


def export(policy: SavedPolicy, file: Path) -> None:
    """Write one policy as safetensors, or as ``.onnx`` with input ``observations`` and output ``decisions``.

    Raises:
        UsageError: the packages for ONNX are not installed.
    """
    about = policy.about
    if file.suffix == ".safetensors":
        save_policy(file, policy.network, about)
        return
    of_file = ExportedPolicy(policy, about.seen, about.decides).eval()
    metadata = {
        "env": about.env,
        "algorithm": about.algorithm,
        "input": f"observations, float32, [batch, {', '.join(map(str, about.shape))}]",
        "mean_return": json.dumps(about.mean_return),
        **of_file.notes(),
    }
    example, output = torch.zeros(2, *about.shape), of_file.output_name
    save_onnx(of_file, example, file, input_name="observations", output_name=output, metadata=metadata)


def _picture(env: Environments, observations: np.ndarray) -> np.ndarray:
    import gymnasium

    try:
        return picture_of(env, observations)
    except gymnasium.error.DependencyNotInstalled as error:
        reason = f"cannot be rendered: {' '.join(str(error).split())}"
    except Exception as error:  # of the environment's own code
        reason = f"cannot be rendered: {type(error).__name__}: {' '.join(str(error).split())}"
    raise UsageError(reason, place=env.name)
