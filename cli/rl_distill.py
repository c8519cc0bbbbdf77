"""``effcli rl-distill``: run (default), eval, watch, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from effcli.core.errors import UsageError

from .common.groups import DefaultVerbGroup
from .common.options import ForceOption, MachineOptions, Options, RunOptions, with_options
from .common.output import print_metrics, print_result
from .common.session import execute, recipe_of_method, runtime_for

app = typer.Typer(
    cls=DefaultVerbGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a group of policies that teach each other (OPD-DA), with PPO or DQN, in any gymnasium environment with "
    "a list of actions. `effcli rl-distill` alone takes CartPole, and compares with policies that learn alone.",
)


@app.command("run")
@with_options()
def run(
    options: RunOptions,
    env: Annotated[
        str | None,
        typer.Option(
            "--env", metavar="ID", help="A gymnasium id, MinAtar/NAME-v1, ALE/NAME-v5, module:function."
        ),
    ] = None,
    algo: Annotated[Literal["ppo", "dqn"] | None, typer.Option("--algo", help="The algorithm.")] = None,
    policies: Annotated[
        int | None, typer.Option("--policies", min=1, help="How many learn together.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="small,large,large", help="Their sizes: small, normal or large."),
    ] = None,
    targets: Annotated[
        Literal["attention", "mean", "none"] | None,
        typer.Option("--targets", help="How peers are weighted; none: each learns alone."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", metavar="200k|1M", help="Environment steps of each policy (an Atari step is 4 frames)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Step environments in processes (Atari: in so many threads)."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="independent,mean", help="Also train these groups from the same seeds."
        ),
    ] = None,
) -> None:
    """Train a group, compare it, and play with the best (default)."""
    shorthands: dict[str, tuple[str, Any]] = {
        "method": ("--algo", algo),
        "env.id": ("--env", env),
        "env.workers": ("--workers", workers),
        "policies": ("--policies", ["normal"] * policies if policies is not None else None),
        "opd.targets": ("--targets", targets),
        "steps": ("--steps", None if steps is None else _number(steps)),
        "compare": ("--compare", None if compare is None else [one for one in compare.split(",") if one]),
    }
    if policy is not None:
        sizes = policy.split(",")
        shorthands["policies"] = ("--policy", sizes)
        if len(set(sizes)) > 1:
            shorthands["opd.attention_input"] = ("--policy", "decision")
    execute("run", "rl-distill", recipe_of_method("rl-distill", options, algo), shorthands)


def _number(text: str) -> int | str:
    """``200k`` and ``1.5M`` as numbers; anything else is left for the recipe to refuse."""
    factors = {"k": 1_000, "m": 1_000_000}
    factor = factors.get(text[-1:].lower(), 1)
    try:
        return round(float(text[:-1] if factor > 1 else text) * factor)
    except ValueError:
        return text


PlaceArgument = Annotated[
    str, typer.Argument(metavar="RUN|FILE", help="Run of `effcli rl-distill`, or a policy's file.")
]
PolicyOption = Annotated[
    int | None, typer.Option("--policy", min=1, help="Its number in the group (default: the best).")
]


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    place: PlaceArgument,
    episodes: Annotated[int, typer.Option("--episodes", "-n", min=1, help="Games of each policy.")] = 100,
    env: Annotated[
        str | None,
        typer.Option("--env", metavar="ID", help="Another environment (default: that of the training)."),
    ] = None,
) -> None:
    """Play games with each policy's best actions; returns are those of the game, never clipped."""
    from effcli.rl_distill.policy_verbs import evaluate_policies

    result = evaluate_policies(place, episodes, env, runtime_for(options))
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
        Path, typer.Option("--output", "-o", metavar="FILE", help="FILE.gif, FILE.webp or FILE.mp4.")
    ],
    policy: PolicyOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="A longer game is cut off.")] = 600,
    force: ForceOption = False,
) -> None:
    """Play one game and write it as a moving picture."""
    from effcli.core.files import check_new_file, make_folder
    from effcli.data.moving_pictures import check_video
    from effcli.rl_distill.policy_verbs import watch_policy

    check_video(output)
    check_new_file(output, force=force)
    make_folder(output.parent)
    content = watch_policy(place, policy, output, steps, runtime_for(options))
    print_result({"output": str(output), **content}, [str(output)], as_json=options.as_json)


@app.command()
@with_options()
def export(
    options: Options,
    place: PlaceArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="FILE.onnx or FILE.safetensors.")
    ],
    policy: PolicyOption = None,
    force: ForceOption = False,
) -> None:
    """Write one policy as a file, with what it was trained for inside."""
    _check_ending(output, ".onnx", ".safetensors")
    from effcli.core.files import check_new_file, make_folder
    from effcli.rl_distill.policy_verbs import export_policy
    from effcli.rl_distill.weights import best_policy

    check_new_file(output, force=force)
    chosen = best_policy(place, policy)
    make_folder(output.parent)
    export_policy(chosen, output)
    content = {"output": str(output), "policy": chosen.about.number}
    print_result(content, [str(output)], as_json=options.as_json)


def _check_ending(output: Path, *endings: str) -> None:
    if output.suffix not in endings:
        raise UsageError(
            "has no known ending", place=str(output), hint=f"name a {' or a '.join(endings)} file"
        )
