"""``effcli continual``: run (default), eval, export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from effcli.core.errors import UsageError

from .groups import DefaultVerbGroup
from .options import ForceOption, MachineOptions, Options, RunOptions, with_options
from .output import print_metrics, print_result
from .session import execute, recipe_of_method, runtime_for

app = typer.Typer(
    cls=DefaultVerbGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach a classifier new classes without forgetting the old ones: rehearsal (ER, DER++, ER-ACE, CLS-ER) in the "
    "frequency domain (CLFD), with subnets that remember (E2Net), or without any old image (IR). "
    "`effcli continual` alone takes the built-in images.",
)

WRAPPED = {"clfd": "er", **{f"clfd-{name}": name for name in ("er", "derpp", "er-ace", "cls-er")}}
"""Names of methods with CLFD around them."""


@app.command("run")
@with_options()
def run(
    options: RunOptions,
    method: Annotated[
        Literal[
            "clfd",
            "clfd-er",
            "clfd-derpp",
            "clfd-er-ace",
            "clfd-cls-er",
            "er",
            "derpp",
            "er-ace",
            "cls-er",
            "e2net",
            "ir",
            "frozen-ncm",
            "sgd",
            "joint",
        ]
        | None,
        typer.Option("--method", help="clfd-NAME is NAME in the frequency domain, clfd is clfd-er."),
    ] = None,
    frequency: Annotated[
        Literal["on", "off"] | None,
        typer.Option("--frequency", help="CLFD around er, derpp, er-ace or cls-er."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="PATH|NAME",
            help="A folder with a sub-folder a class, an .npz, IDX files; cifar10, cifar100, tiny-imagenet.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="5|50+10x5|[4,3,3]", help="How the classes are cut into tasks."),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over each task.")] = None,
    buffer: Annotated[int | None, typer.Option("--buffer", min=2, help="How many images are kept.")] = None,
    tasks_dir: Annotated[
        Path | None,
        typer.Option(
            "--tasks-dir",
            metavar="DIR",
            help="With --resume -o RUN: one more task for a run that is there, a sub-folder a new class.",
        ),
    ] = None,
) -> None:
    """Learn one task after another, and measure what is remembered (default)."""
    inner = WRAPPED.get(method or "", method)
    if frequency is not None and inner not in (None, *WRAPPED.values()):
        names = ", ".join(dict.fromkeys(WRAPPED.values()))
        raise UsageError(f"{method} does not learn in it, only {names} do", place="--frequency")
    if method in WRAPPED and frequency == "off":
        raise UsageError(
            f"{method} is in the frequency domain", place="--frequency", hint=f"--method {inner}"
        )
    is_on: bool | None = True if method in WRAPPED else None if frequency is None else frequency == "on"
    if is_on is None and method is not None:
        is_on = False if method in WRAPPED.values() else None
    shorthands: dict[str, tuple[str, Any]] = {
        "method": ("--method", inner),
        "frequency.enabled": ("--frequency", is_on),
        "data.source": ("--data", data),
        "data.tasks": ("--tasks", None if tasks is None else _parsed(tasks)),
        "train.epochs": ("--epochs", epochs),
        "buffer.size": ("--buffer", buffer),
    }
    if tasks_dir is not None:
        options = _with_task(options, tasks_dir, shorthands)
        shorthands = {}
    execute("run", "continual", recipe_of_method("continual", options, inner), shorthands)


def _with_task(options: RunOptions, folder: Path, shorthands: dict[str, tuple[str, Any]]) -> RunOptions:
    """Give a run one more task; its own recipe says everything else."""
    if not options.resume or options.output is None:
        raise UsageError(
            "adds a task to a run that is there", place="--tasks-dir", hint="--resume -o RUN names the run"
        )
    given = [flag for flag, value in shorthands.values() if value is not None]
    if given or options.sets or options.recipe != "default":
        raise UsageError(
            f"everything but the new classes is as the run has it, without {', '.join(given) or '-r and -s'}",
            place="--tasks-dir",
        )
    from effcli.continual.saved_runs import add_task, longer_recipe

    if options.dry_run:
        sets = [f"data.more={list(longer_recipe(options.output, folder).data.more)}"]
        return replace(options, recipe=str(options.output), sets=sets)
    add_task(options.output, folder)
    return replace(options, recipe=str(options.output))


def _parsed(tasks: str) -> Any:
    """``--tasks`` as the recipe has it: a number, a list, or 50+10x5; brackets may be left out."""
    from effcli.core.recipe import parse_set

    return parse_set(f"tasks=[{tasks}]" if "," in tasks and "[" not in tasks else f"tasks={tasks}").value


PlaceArgument = Annotated[
    str,
    typer.Argument(metavar="RUN|FILE", help="Run directory of `effcli continual`, or its classifier's file."),
]


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    place: PlaceArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="PATH|NAME",
            help="Images of classes with the same names (default: the run's own test images).",
        ),
    ] = None,
) -> None:
    """Measure a classifier on images: of all classes, within each task, and class by class."""
    from effcli.continual.saved_runs import evaluate_saved

    result = evaluate_saved(place, data, runtime_for(options))
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
    else:
        print_metrics(result.metrics)


@app.command()
@with_options()
def export(
    options: Options,
    place: PlaceArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="FILE.onnx or FILE.safetensors."),
    ],
    force: ForceOption = False,
) -> None:
    """Write one file that classifies images, with preprocessing and names of classes inside."""
    if output.suffix not in {".onnx", ".safetensors"}:
        raise UsageError("has no known ending", place=str(output), hint="name a .onnx or a .safetensors file")
    from effcli.continual.image_classifier import export_onnx, load_classifier, save_classifier
    from effcli.core.files import check_new_file, make_folder

    check_new_file(output, force=force)
    classifier = load_classifier(place)
    make_folder(output.parent)
    if output.suffix == ".onnx":
        export_onnx(output, classifier)
    else:
        save_classifier(output, classifier)
    content = {"output": str(output), "classes": list(classifier.about.classes)}
    print_result(content, [str(output)], as_json=options.as_json)
