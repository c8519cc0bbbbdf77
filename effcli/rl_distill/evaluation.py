"""Games of a trained policy, with its most likely actions and whole returns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import RunError
from effcli.core.runtime import Runtime, derive_seed
from effcli.rl_distill.environments import Environments

COPIES = 8
MOST_STEPS = 30_000  # a game that does not end is cut off


def play(
    decide: Callable[[Tensor], Tensor],
    make: Callable[[int], Environments],
    episodes: int,
    runtime: Runtime,
    name: str,
    check: Callable[[], None] = lambda: None,
) -> list[float]:
    """Returns of games, each begun afresh; those of the copies that begin first count, so short games are not favoured.

    Args:
        decide: decisions ``[B, A]`` of observations ``[B, ...]``, float32 on the runtime's device.
        make: environments of a number of copies.
        episodes: how many.
        runtime: where; its seed is that of the games.
        name: of the policy, for its seeds.
        check: called now and then; may raise to stop.
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
        raise RunError(f"no game ended within {MOST_STEPS} steps", place=name)
    return found
