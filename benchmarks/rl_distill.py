"""Speed of `effcli rl-distill`: ratios inside one run. Nothing else should be running.

    python benchmarks/rl_distill.py [--json FILE] [--steps 20000] [--atari-steps 1024] [--repeats 3] [--threads N]
        [--busy]

`--busy` counts seconds of the processor, on one thread, where something else is running all the same.

Environment steps per second, learning included, of one PPO policy here and of Stable-Baselines3's PPO (`pip install
stable-baselines3`; left out without it): the same network, number of environments and settings, on CartPole with those
of rl-baselines3-zoo, and on Pong with the Nature network, where the peer has gymnasium's Atari wrappers. Then three
independent policies and a group of three with decision attention, the latter also computed one policy after
another, which is the only way on Pong, where networks are convolutions. The group's overhead is over
three runs of one policy.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from effcli.core.evidence.records import write_record
from effcli.core.runtime import create_runtime
from effcli.rl_distill.environments.settings import EnvironmentSection
from effcli.rl_distill.ppo import PpoGroup
from effcli.rl_distill.recipe import OpdDaRecipe, OpdSection, PpoSection, RlTrainSection

clock = time.perf_counter
CARTPOLE = PpoSection(
    rollout=32,
    epochs=20,
    minibatches=1,
    learning_rate=1e-3,
    gamma=0.98,
    gae_lambda=0.8,
    entropy_weight=0.0,
    clip_values=False,
)
PONG = PpoSection(rollout=128, epochs=4, minibatches=4, clip=0.1)
COPIES = 8


def ours(
    env: str,
    settings: PpoSection,
    steps: int,
    n: int,
    targets: str,
    together: bool = True,
    precision: str = "fp32",
) -> float:
    """Seconds of training ``n`` policies."""
    recipe = OpdDaRecipe(
        env=EnvironmentSection(id=env, copies=COPIES, clip_rewards=env.startswith("ALE/")),
        train=RlTrainSection(env_steps=steps),
        policies=("normal",) * n,
        opd=OpdSection(targets=targets),
        ppo=settings,
    )
    runtime = create_runtime(device="cpu", precision=precision, seed=0)
    group = PpoGroup(recipe, runtime, together=together)
    started = clock()
    for update in range(group.n_updates):
        group.update(update)
    return clock() - started


def peer(env: str, settings: PpoSection, steps: int) -> float:
    """Seconds of Stable-Baselines3's training of one policy."""
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make() -> Any:
        if not env.startswith("ALE/"):
            return gymnasium.make(env)
        import ale_py

        gymnasium.register_envs(ale_py)
        single = gymnasium.make(env, frameskip=1, repeat_action_probability=0.0)
        return gymnasium.wrappers.FrameStackObservation(gymnasium.wrappers.AtariPreprocessing(single), 4)

    model = PPO(
        "CnnPolicy" if env.startswith("ALE/") else "MlpPolicy",
        DummyVecEnv([make] * COPIES),
        n_steps=settings.rollout,
        batch_size=settings.rollout * COPIES // settings.minibatches,
        n_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip,
        ent_coef=settings.entropy_weight,
        device="cpu",
        seed=0,
    )
    started = clock()
    model.learn(steps)
    return clock() - started


def has_peer() -> bool:
    try:
        import cv2  # noqa: F401  gymnasium's Atari wrappers need it
        import stable_baselines3  # noqa: F401
    except ImportError:
        print("stable-baselines3 or opencv is not installed: no peer")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--atari-steps", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of PyTorch, for all alike")
    parser.add_argument("--busy", action="store_true", help="seconds of the processor, on one thread")
    options = parser.parse_args()
    if options.busy:
        global clock
        clock, options.threads = time.process_time, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{torch.get_num_threads()} threads")
    made: dict[str, Any] = {}
    with_peer = has_peer()
    for env, settings, steps in (
        ("CartPole-v1", CARTPOLE, options.steps),
        ("ALE/Pong-v5", PONG, options.atari_steps),
    ):
        ways: dict[str, tuple[int, Callable[[], float]]] = {
            "one policy": (1, lambda e=env, s=settings, n=steps: ours(e, s, n, 1, "none")),  # type: ignore[misc]
            "three alone": (3, lambda e=env, s=settings, n=steps: ours(e, s, n, 3, "none")),  # type: ignore[misc]
            "group of three": (3, lambda e=env, s=settings, n=steps: ours(e, s, n, 3, "attention")),  # type: ignore[misc]
        }
        if env != "CartPole-v1":
            ways["one policy, bf16"] = (
                1,
                lambda e=env, s=settings, n=steps: ours(e, s, n, 1, "none", precision="bf16"),  # type: ignore[misc]
            )
        else:
            ways["group, one by one"] = (
                3,
                lambda e=env, s=settings, n=steps: ours(e, s, n, 3, "attention", False),  # type: ignore[misc]
            )
        if with_peer:
            ways["Stable-Baselines3"] = (1, lambda e=env, s=settings, n=steps: peer(e, s, n))  # type: ignore[misc]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, (_, way) in ways.items():
                seconds[name].append(way())
        rates = {name: ways[name][0] * steps / statistics.median(times) for name, times in seconds.items()}
        for name, rate in rates.items():
            print(f"{env:12s} {name:18s} {rate:9.0f} steps/s  {rate / rates['one policy']:5.2f}x")
        overhead = rates["one policy"] / rates["group of three"] - 1
        print(f"{env:12s} a group takes {100 * overhead:+.0f} % of the time of three runs of one policy")
        made[env] = {"steps_per_s": rates, "overhead": overhead}
    write_record(options.json, made, sys.argv)


if __name__ == "__main__":
    main()
