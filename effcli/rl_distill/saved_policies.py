"""What can be done with trained policies: play games with them."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np

from effcli.core.errors import UsageError
from effcli.core.result import Result
from effcli.core.runtime import Runtime
from effcli.rl_distill.environments import make_environments
from effcli.rl_distill.evaluation import play
from effcli.rl_distill.policy_file import load_policy, policy_files
from effcli.rl_distill.returns import bootstrap_interval


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
    if (sample.shape, sample.n_actions) != (about.shape, about.n_actions):
        raise UsageError(
            f"has observations {list(sample.shape)} and {sample.n_actions} actions, the policy was trained for "
            f"{list(about.shape)} and {about.n_actions}",
            place=name,
        )
    sample.close()
    games = [
        play(policy, partial(make_environments, name), episodes, runtime, f"policy {policy.about.number}")
        for policy in policies
    ]
    means = [float(np.mean(one)) for one in games]
    return Result(
        task="rl-distill",
        verb="eval",
        method=about.algorithm,
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
        timing={"total_s": round(time.perf_counter() - started, 3)},
        environment=runtime.describe(),
    )
