"""``effcli continual``: run (default), eval, export; train-detector and detect for detectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from effcli.core.errors import UsageError

from .common.groups import DefaultVerbGroup
from .common.options import ForceOption, MachineOptions, Options, RunOptions, with_options
from .common.output import print_json, print_metrics, print_result
from .common.session import execute, recipe_of_method, runtime_for

app = typer.Typer(
    cls=DefaultVerbGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach a classifier new classes without forgetting the old ones: rehearsal (ER, DER++, ER-ACE, CLS-ER) in the "
    "frequency domain (CLFD), with subnets that remember (E2Net), or without any old image (IR); and a detector with "
    "objects generated out of itself (EGOR). "
    "`effcli continual` alone takes the built-in images.",
)

WRAPPED = {"clfd": "er", **{f"clfd-{name}": name for name in ("er", "derpp", "er-ace", "cls-er")}}
"""Names of methods with CLFD around them."""


_PSEUDO_LABELS = {
    "learning.pseudo_labels": ("--pseudo-label", True),
    "learning.columns": ("--pseudo-label", "all"),
}


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
            "egor",
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
            help="A folder with a sub-folder a class, an .npz, IDX files; cifar10, cifar100, tiny-imagenet. For egor: "
            "COCO annotations.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="5|50+10x5|[4,3,3]", help="How the classes are cut into tasks."),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over each task.")] = None,
    buffer: Annotated[int | None, typer.Option("--buffer", min=2, help="How many images are kept.")] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector", metavar="RUN|FILE", help="For egor: the detector that learns further classes."
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            "--references", metavar="finetune,joint", help="For egor: also train these, to compare with."
        ),
    ] = None,
    pseudo_label: Annotated[
        bool,
        typer.Option(
            "--pseudo-label", help="For egor: what the old detector finds in new images counts as labelled."
        ),
    ] = False,
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
        "detector": ("--detector", detector),
        "references": ("--references", None if references is None else references.split(",")),
        **(_PSEUDO_LABELS if pseudo_label else {}),
    }
    if inner == "egor" and tasks is None and (data is not None or detector is not None):
        options = _with_all_classes(options)
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
    from effcli.continual.pipeline import add_task, longer_recipe

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
    typer.Argument(metavar="RUN|FILE", help="Run directory of `effcli continual`, or its model's file."),
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
            help="Images, or COCO annotations, with the same names of classes (default: the run's own test images).",
        ),
    ] = None,
) -> None:
    """Measure a classifier on images: of all classes, within each task, class by class; or a detector."""
    from effcli.continual import evaluation
    from effcli.continual.egor import evaluation as detector_evaluation
    from effcli.continual.egor.detection import is_detector

    measure = (detector_evaluation if is_detector(place) else evaluation).evaluate_run
    result = measure(place, data, runtime_for(options))
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
    from effcli.continual.weights import export_onnx, load_classifier, save_classifier
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


@app.command("train-detector")
@with_options()
def train_detector(
    options: RunOptions,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH|NAME", help="COCO annotations, or a folder or tar with them."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="6+6", help="How classes are cut; the first ones are learnt."),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the images.")] = None,
) -> None:
    """Train a first detector, to which further classes can be taught."""
    shorthands: dict[str, tuple[str, Any]] = {
        "data.source": ("--data", data),
        "data.tasks": ("--tasks", None if tasks is None else _parsed(tasks)),
        "train.epochs": ("--epochs", epochs),
    }
    if data is not None and tasks is None:
        options = _with_all_classes(options)
    execute("train-detector", "continual", recipe_of_method("continual", options, "detector"), shorthands)


def _with_all_classes(options: RunOptions) -> RunOptions:
    """Own data are not cut as the built-in scenes are, where nothing else is said."""
    return replace(options, sets=["data.tasks=null", *(options.sets or [])])


@app.command()
@with_options()
def detect(
    options: MachineOptions,
    place: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="Run directory with a detector, or its file.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR", help="Images, or folders of them.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write the images with boxes drawn on them there."
        ),
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, help="Least score.")] = 0.3,
    force: ForceOption = False,
) -> None:
    """Find objects in images: one JSON line an image, and drawn boxes with -o."""
    from effcli.continual.egor.detection import check_drawn, detect_files, image_files

    files = image_files(images)
    if output is not None:
        check_drawn(output, files, force=force)
    failed = 0
    lines = []
    for line in detect_files(place, files, output, threshold, runtime_for(options)):
        failed += "error" in line
        lines.append(line) if options.as_json else print_json(line)
    if options.as_json:
        print_result({"images": lines, "failed": failed}, [], as_json=True)
    if failed:
        raise typer.Exit(3 if failed < len(files) else 1)
