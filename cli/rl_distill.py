"""``effcli rl-distill``: run (default), eval, watch, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from effcli.core.errors import UsageError

from .common.groups import DefaultVerbGroup
from .common.options import (
    ExportFileOption,
    ForceOption,
    MachineOptions,
    Options,
    RunOptions,
    check_extension,
    with_options,
)
from .common.output import print_metrics, print_result
from .common.session import execute, recipe_of_method, runtime_for

if TYPE_CHECKING:
    from effcli.rl_distill.environments.chosen import ChosenEnvironment

app = typer.Typer(
    cls=DefaultVerbGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a group of policies that teach each other (OPD-DA), with PPO or DQN, in any gymnasium "
    "environment. `effcli rl-distill` alone trains on CartPole and compares with independent policies.",
)


@app.command("run")
@with_options()
def run(
    options: RunOptions,
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            metavar="ID",
            help="Environment: a gymnasium id, MinAtar/NAME-v1, ALE/NAME-v5, package:ID, or module:function.",
        ),
    ] = None,
    method: Annotated[
        Literal["opd-da", "opd-da-dqn", "ppo", "dqn"] | None,
        typer.Option(
            "--method",
            help="opd-da and opd-da-dqn: policies that teach each other, with PPO or DQN; ppo and dqn: independent "
            "policies.",
        ),
    ] = None,
    policies: Annotated[
        int | None,
        typer.Option(
            "--policies", metavar="N", min=1, help="Number of policies in the group, all of normal size."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="small,large,large",
            help="Size of each policy: small, normal or large (0.5, 1 or 2 times the usual width).",
        ),
    ] = None,
    targets: Annotated[
        Literal["attention", "mean", "none"] | None,
        typer.Option(
            "--targets",
            help="How peers are weighted: attention learns weights, mean weights all equally, none trains "
            "each policy on its own.",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            metavar="FILE",
            help="Trained policy that also teaches: a policy file, a run, or a zip of Stable-Baselines3. Repeatable.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="200k|1M",
            help="Environment steps of each policy, 1 or more (an Atari step is 4 frames).",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=0,
            help="Worker processes that step the environments (Atari: threads); 0 steps them in turn in this process.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Also write the logged values for TensorBoard, to tensorboard/ in the run directory.",
        ),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="independent,mean",
            help="Groups to train as well for comparison, with the same seeds; '' for none.",
        ),
    ] = None,
) -> None:
    """Train a group, compare it with others, and play episodes with each policy (default)."""
    shorthands: dict[str, tuple[str, Any]] = {
        "method": ("--method", method),
        "env.id": ("--env", env),
        "env.workers": ("--workers", workers),
        "policies": ("--policies", ["normal"] * policies if policies is not None else None),
        "opd.targets": ("--targets", targets),
        "opd.teachers": ("--teacher", teacher or None),
        "train.env_steps": ("--steps", None if steps is None else _number(steps)),
        "train.tensorboard": ("--tensorboard", tensorboard or None),
        "compare": ("--compare", None if compare is None else [one for one in compare.split(",") if one]),
    }
    if policy is not None:
        shorthands["policies"] = ("--policy", policy.split(","))
    execute("run", "rl-distill", recipe_of_method("rl-distill", options, method), shorthands)


def _number(text: str) -> int | str:
    """``200k`` and ``1.5M`` as numbers; anything else is left for the recipe to refuse."""
    factors = {"k": 1_000, "m": 1_000_000}
    factor = factors.get(text[-1:].lower(), 1)
    try:
        return round(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        return text


EnvOption = Annotated[
    str | None,
    typer.Option(
        "--env",
        metavar="ID",
        help="Environment (default: the training environment). A policy file cannot run code: type "
        "module:function here.",
    ),
]
EnvKwargsOption = Annotated[
    str | None,
    typer.Option(
        "--env-kwargs",
        metavar="JSON",
        help='Arguments for the environment, such as \'{"map_name": "8x8"}\' (default: those of training).',
    ),
]
PlaceArgument = Annotated[
    str, typer.Argument(metavar="RUN|FILE", help="Run directory of `effcli rl-distill`, or a policy file.")
]
PolicyOption = Annotated[
    int | None,
    typer.Option(
        "--policy", metavar="N", min=1, help="Number of the policy in its group, from 1 (default: the best)."
    ),
]


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    place: PlaceArgument,
    episodes: Annotated[
        int, typer.Option("--episodes", "-n", metavar="N", min=1, help="Episodes of each policy.")
    ] = 100,
    env: EnvOption = None,
    env_kwargs: EnvKwargsOption = None,
) -> None:
    """Play episodes with the best actions of each policy; returns are never clipped."""
    from effcli.rl_distill import pipeline

    result = pipeline.evaluate(place, episodes, _chosen(env, env_kwargs), runtime_for(options))
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
    else:
        print_metrics(result.metrics)


@app.command()
@with_options()
def watch(
    options: MachineOptions,
    place: PlaceArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write: FILE.gif, FILE.webp or FILE.mp4."
        ),
    ],
    policy: PolicyOption = None,
    env: EnvOption = None,
    env_kwargs: EnvKwargsOption = None,
    steps: Annotated[
        int,
        typer.Option(
            "--steps", metavar="N", min=1, help="Environment steps after which the episode is cut off."
        ),
    ] = 600,
    force: ForceOption = False,
) -> None:
    """Play one episode and write it as an animation or video."""
    from effcli.core.files import check_new_file, make_folder
    from effcli.data.moving_pictures import check_video
    from effcli.rl_distill import pipeline

    check_video(output)
    check_new_file(output, force=force)
    make_folder(output.parent)
    chosen = _chosen(env, env_kwargs)
    content = pipeline.watch(place, policy, output, steps, chosen, runtime_for(options))
    print_result({"output": str(output), **content}, [str(output)], as_json=options.as_json)


@app.command()
@with_options()
def export(
    options: Options,
    place: PlaceArgument,
    output: ExportFileOption,
    policy: PolicyOption = None,
    force: ForceOption = False,
) -> None:
    """Export one policy as a file, with what it was trained for."""
    check_extension(output, ".onnx", ".safetensors")
    from effcli.core.files import check_new_file, make_folder
    from effcli.rl_distill import pipeline
    from effcli.rl_distill.weights import best_policy

    check_new_file(output, force=force)
    chosen = best_policy(place, policy)
    make_folder(output.parent)
    pipeline.export(chosen, output)
    content = {"output": str(output), "policy": chosen.about.number}
    print_result(content, [str(output)], as_json=options.as_json)


def _chosen(env: str | None, kwargs: str | None) -> ChosenEnvironment:
    import json

    from effcli.rl_distill.environments.chosen import ChosenEnvironment

    if kwargs is None:
        return ChosenEnvironment(env)
    try:
        content = json.loads(kwargs)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UsageError(
            "not a JSON object", place=f"--env-kwargs {kwargs}", hint="for example '{\"size\": 8}'"
        )
    return ChosenEnvironment(env, content)
