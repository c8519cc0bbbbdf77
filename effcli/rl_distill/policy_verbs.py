"""What can be done with trained policies: play games, watch one, write them for other programs."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.runtime import Runtime, derive_seed
from effcli.data.moving_pictures import write_video
from effcli.nn.onnx_file import save_onnx
from effcli.rl_distill.environments import make_environments
from effcli.rl_distill.evaluation import play
from effcli.rl_distill.returns import bootstrap_interval
from effcli.rl_distill.weights import (
    About,
    SavedPolicy,
    best_policy,
    load_policy,
    policy_files,
    save_policy,
)

FPS = 30.0


def evaluate_policies(place: str, episodes: int, env: str | None, runtime: Runtime) -> Result:
    """Play with every policy of a run, or with one file's.

    Args:
        place: run directory or file.
        episodes: games of each.
        env: environment; None is that of the training.
        runtime: where; its seed is that of the games.

    Raises:
        InputError: there is no policy.
        UsageError: the environment is not there, or has other observations or actions.
    """
    started = time.perf_counter()
    policies = [load_policy(file).to(runtime.device) for file in policy_files(place)]
    about = policies[0].about
    name = env or about.env
    sample = make_environments(name, 1)
    _check_fits(sample, about, name)
    sample.close()
    games = [
        play(policy, partial(make_environments, name), episodes, runtime, f"policy {policy.about.number}")
        for policy in policies
    ]
    means = [float(np.mean(one)) for one in games]
    return result_of_verb(
        "rl-distill",
        "eval",
        about.algorithm,
        recipe=Path(place).stem,
        output=place,
        metrics={
            "env": name,
            "episodes": episodes,
            "mean_return": round(float(np.mean(means)), 4),
            "best_return": round(max(means), 4),
            "returns": [round(mean, 4) for mean in means],
            "intervals": [[round(v, 4) for v in bootstrap_interval(one)] for one in games],
            "parameters": [sum(p.numel() for p in policy.parameters()) for policy in policies],
        },
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


def _check_fits(env: Any, about: About, name: str) -> None:
    if (env.shape, env.n_actions) != (about.shape, about.n_actions):
        raise UsageError(
            f"has observations {list(env.shape)} and {env.n_actions} actions, the policy was trained for "
            f"{list(about.shape)} and {about.n_actions}",
            place=name,
        )


def watch_policy(
    place: str, number: int | None, file: Path, most_steps: int, runtime: Runtime
) -> dict[str, Any]:
    """Play one game and write it as a moving picture.

    Args:
        place: run directory or file.
        number: of the policy, from 1; None is the best.
        file: ``.gif``, ``.webp`` or ``.mp4``.
        most_steps: a longer game is cut off.
        runtime: where; its seed is that of the game.

    Returns:
        ``policy``, ``steps`` and ``episode_return``.

    Raises:
        InputError: there is no policy.
        UsageError: the environment cannot be drawn, as a package is missing.
    """
    policy = best_policy(place, number).to(runtime.device)
    about = policy.about
    env = make_environments(about.env, 1, drawn=True)
    _check_fits(env, about, about.env)
    observations = env.reset(derive_seed(runtime.seed, "watch") % 2**31)
    pictures, total = [_picture(env, observations, about.env)], 0.0
    for _ in range(most_steps):
        with torch.no_grad():
            x = torch.as_tensor(observations, device=runtime.device).float()
            step = env.step(policy(x).argmax(-1).cpu().numpy())
        observations = step.observations
        total += float(step.rewards[0])
        pictures.append(_picture(env, observations, about.env))
        if step.terminated[0] or step.truncated[0]:
            break
    env.close()
    write_video(file, (Image.fromarray(picture) for picture in pictures), FPS)
    return {"policy": about.number, "steps": len(pictures) - 1, "episode_return": round(total, 4)}


def _picture(env: Any, observations: np.ndarray, name: str) -> np.ndarray:
    import gymnasium

    try:
        picture: np.ndarray = env.picture(observations)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"cannot be drawn: {' '.join(str(error).split())}", place=name) from None
    return picture


def export_policy(policy: SavedPolicy, file: Path) -> None:
    """Write one policy as safetensors, or as ``.onnx`` from ``observations`` of the environment to ``decisions``.

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
