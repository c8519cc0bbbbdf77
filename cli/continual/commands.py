"""``effcli continual``: run (default), eval and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from effcli.core.errors import UsageError

from ..common.options import (
    ExportFileOption,
    ForceOption,
    MachineOptions,
    Options,
    RunOptions,
    check_extension,
    with_options,
)
from ..common.output import print_metrics, print_result
from ..common.session import execute, recipe_of_method, runtime_for
from .app import app
from .further_tasks import change_tasks, plan_of
from .own_data import (
    on_trained_features,
    parsed_split,
    recipe_of_detector,
    saying_so,
    with_all_classes,
    with_fitting_tasks,
)

HOSTS = ("er", "derpp", "er-ace", "cls-er")
WRAPPED = {f"clfd-{name}": name for name in HOSTS}
"""Short names of methods with CLFD around them; the method ``clfd`` is the one around er."""


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
            "ncm",
            "ranpac",
            "lwf",
            "ewc",
            "icarl",
            "wa",
            "slca",
            "ease",
            "sgd",
            "joint",
            "egor",
            "branch",
        ]
        | None,
        typer.Option(
            "--method",
            help="How tasks are learned. er, derpp, er-ace, cls-er: rehearsal of kept images; clfd: er in "
            "the frequency domain, clfd-NAME: another of these; e2net: derpp with a representative "
            "subnet; ir, frozen-ncm: prototypes, no images kept; ranpac, ncm: features of a trained "
            "backbone; slca, ease: a trained backbone, adapted; lwf, ewc, icarl, wa: classic "
            "baselines; sgd: fine-tuning; joint: all tasks at once; egor: a detector, retrained with "
            "synthesised old objects; branch: a frozen detector with a branch for new classes.",
        ),
    ] = None,
    frequency: Annotated[
        Literal["on", "off"] | None,
        typer.Option(
            "--frequency",
            help="on: learn in the frequency domain (CLFD), with er, derpp, er-ace or cls-er; off: learn "
            "from the images themselves.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="PATH|NAME",
            help="Images to learn from: a folder with one sub-folder per class, an .npz, a folder of IDX "
            "files, or "
            "cifar10, cifar100, tiny-imagenet. For egor: images with boxes (COCO, YOLO, VOC).",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="5|50+10x5|[4,3,3]",
            help="Split of the classes: 5: tasks of equal size; 50+10x5: one of 50 and ten of 5; [4,3,3]: "
            "sizes.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the training images of each task.")
    ] = None,
    buffer: Annotated[
        int | None,
        typer.Option(
            "--buffer",
            min=2,
            help="Number of images of earlier tasks to keep; more forget less and take more space.",
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector",
            metavar="RUN|FILE|builtin:nanodet-m",
            help="For egor and branch: the detector that learns new classes (default: for egor one is "
            "trained, for "
            "branch builtin:nanodet-m).",
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            "--references",
            metavar="finetune,joint",
            help="For egor: also train these detectors for comparison.",
        ),
    ] = None,
    pseudo_label: Annotated[
        bool,
        typer.Option(
            "--pseudo-label",
            help="For egor: use what the old detector finds of old classes in new images as labels.",
        ),
    ] = False,
    tasks_dir: Annotated[
        Path | None,
        typer.Option(
            "--tasks-dir",
            metavar="DIR",
            help="With --resume -o RUN: learn one more task in a finished run; a folder with one sub-folder "
            "per class, new or known.",
        ),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="With -o RUN: remove the last task that --tasks-dir added.")
    ] = False,
) -> None:
    """Learn one task after another, and measure what is remembered (default)."""
    inner = WRAPPED.get(method or "", method)
    _check_frequency(method, frequency)
    if method is None and frequency == "off" and options.recipe == "default":
        inner = "er"  # the default recipe is clfd
    is_on: bool | None = None if frequency is None or inner == "clfd" else frequency == "on"
    if method in (*WRAPPED, *HOSTS):
        is_on = method in WRAPPED or frequency == "on"
    shorthands: dict[str, tuple[str, Any]] = {
        "method": ("--method", inner),
        "frequency.enabled": ("--frequency", is_on),
        "data.source": ("--data", data),
        "data.tasks": ("--tasks", None if tasks is None else parsed_split(tasks)),
        "train.epochs": ("--epochs", epochs),
        "buffer.size": ("--buffer", buffer),
        "detector": ("--detector", detector),
        "references": ("--references", None if references is None else references.split(",")),
        **(_PSEUDO_LABELS if pseudo_label else {}),
    }
    if tasks_dir is not None and undo:
        raise UsageError("one task is added or removed at a time", place="--undo")
    if tasks_dir is not None or undo:
        change_tasks(options, tasks_dir, shorthands)
        return
    if inner in ("egor", "branch") and tasks is None and (data is not None or detector is not None):
        options = with_all_classes(options)
    elif data is not None and tasks is None and options.recipe == "default":
        options = with_fitting_tasks(options)
    plan = plan_of(options)
    if data is not None and (method, detector, frequency, epochs, buffer) == (None,) * 5:
        chosen = on_trained_features(options)
        plan = plan if chosen is options or options.quiet else saying_so(plan)
        options = chosen
    options = recipe_of_method("continual", options, recipe_of_detector(inner, detector))
    execute("run", "continual", options, shorthands, plan_with=plan)


def _check_frequency(method: str | None, frequency: str | None) -> None:
    """Refuse ``--frequency`` beside a method that has no other choice."""
    inner, is_clfd = WRAPPED.get(method or "", method), method == "clfd" or method in WRAPPED
    if frequency is not None and not is_clfd and inner not in (None, *HOSTS):
        raise UsageError(f"supported by {', '.join(HOSTS)}, not by {method}", place="--frequency")
    if is_clfd and frequency == "off":
        host = "er" if method == "clfd" else inner
        raise UsageError(
            f"{method} learns in the frequency domain", place="--frequency", hint=f"--method {host}"
        )


PlaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN|FILE",
        help="Run directory of `effcli continual`, or its model's file; builtin:nanodet-m.",
    ),
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
            help="Images (for detectors: with boxes) whose classes have the same names (default: the run's "
            "own test images).",
        ),
    ] = None,
) -> None:
    """Measure a classifier: accuracy over all classes, within each task, and per class; or a detector: AP."""
    from effcli.continual.egor import evaluation as detector_evaluation
    from effcli.continual.egor.weights import is_detector
    from effcli.continual.evaluation import measuring

    measure = (detector_evaluation if is_detector(place) else measuring).evaluate_run
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
    output: ExportFileOption,
    force: ForceOption = False,
) -> None:
    """Write one file that classifies or detects, with preprocessing and class names inside."""
    check_extension(output, ".onnx", ".safetensors")
    from effcli.continual.egor.weights import is_detector
    from effcli.core.files import check_new_file

    check_new_file(output, force=force)
    export = _export_detector if is_detector(place) else _export_classifier
    content = {"output": str(output), "classes": list(export(place, output))}
    print_result(content, [str(output)], as_json=options.as_json)


def _export_classifier(place: str, output: Path) -> tuple[str, ...]:
    from effcli.continual.prediction.onnx_classifier import export_onnx
    from effcli.continual.weights import load_classifier, save_classifier
    from effcli.core.files import make_folder

    classifier = load_classifier(place)
    make_folder(output.parent)
    (export_onnx if output.suffix == ".onnx" else save_classifier)(output, classifier)
    return classifier.about.classes


def _export_detector(place: str, output: Path) -> tuple[str, ...]:
    from effcli.continual.egor.detecting.onnx_detector import export_detector
    from effcli.continual.egor.weights import load_detector, save_detector
    from effcli.core.files import make_folder

    detector, about = load_detector(place)
    make_folder(output.parent)
    (export_detector if output.suffix == ".onnx" else save_detector)(output, detector, about)
    return about.classes
