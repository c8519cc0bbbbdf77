"""``effcli continual predict``: what pictures show."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from effcli.core.errors import UsageError
from effcli.core.progress import NOTICE
from effcli.core.text import counted

from ..common.options import MachineOptions, with_options
from ..common.output import print_lines, print_result
from ..common.session import runtime_for
from .app import app


@app.command()
@with_options()
def predict(
    options: MachineOptions,
    place: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="Run with a classifier, its .safetensors file, or an exported .onnx file.",
        ),
    ],
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|DIR|-", help="Pictures, folders of them (searched recursively), or - for stdin."
        ),
    ],
    top: Annotated[
        int, typer.Option("-k", "--top", metavar="N", min=1, help="Number of best classes to list.")
    ] = 5,
    unknown_below: Annotated[
        float | None,
        typer.Option(
            "--unknown-below",
            metavar="0..1",
            min=0,
            max=1,
            help="Label pictures whose best score is lower null, none of the known classes. 0 turns this "
            "off (default: the run's own threshold, which 95 % of its test images reach).",
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of JSON lines.")] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Number of pictures to compute at a time; more is faster and needs more memory.",
        ),
    ] = 64,
) -> None:
    """Classify pictures: one JSON line per picture, with the best classes and their scores."""
    if as_csv and options.as_json:
        raise UsageError("--json and --csv cannot both go to stdout", place="--csv")
    if pictures.count("-") > 1:
        raise UsageError("stdin is a single picture and can be named only once", place="-")
    from effcli.continual.egor.weights import is_detector
    from effcli.continual.prediction.picture_files import pictures_of, predict_files
    from effcli.continual.prediction.predictor import load

    if is_detector(place):
        raise UsageError("is a detector", place=place, hint="effcli continual detect RUN IMAGE")
    files = pictures_of(pictures)
    predictor = load(place, runtime=runtime_for(options))
    lines: list[dict[str, Any]] = []
    started = time.perf_counter()
    n = min(top, len(predictor.classes))
    if as_csv:
        _print_csv([_header(n)])
    for batch in predict_files(predictor, files, k=top, unknown_below=unknown_below, batch_size=batch_size):
        lines += batch
        if as_csv:
            _print_csv(_row(line, n) for line in batch)
        elif not options.as_json:
            print_lines(map(json.dumps, batch))
    found = _summary(lines, time.perf_counter() - started)
    if options.as_json:
        threshold = predictor.unknown_below if unknown_below is None else unknown_below
        print_result({"images": lines, **found, "unknown_below": threshold}, [], as_json=True)
    if found["failed"]:
        raise typer.Exit(3 if found["failed"] < len(files) else 1)


def _summary(lines: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Numbers of all lines, which the log has too."""
    found = {
        "failed": sum("error" in line for line in lines),
        "unknown": sum(line.get("label", "") is None for line in lines),
        "images_per_s": round(len(lines) / seconds, 1),
    }
    logging.getLogger("effcli.continual").log(
        NOTICE,
        "%s, %.0f per second; of none of the known classes: %d; cannot be read: %d",
        *(counted(len(lines), "picture"), found["images_per_s"], found["unknown"], found["failed"]),
    )
    return found


def _header(n: int) -> list[str]:
    return [
        "file",
        "label",
        "score",
        "error",
        *(f"{name}_{rank}" for rank in range(1, n + 1) for name in ("top", "score")),
    ]


def _row(line: dict[str, Any], n: int) -> list[Any]:
    top = [value for one in line.get("top", []) for value in (one["label"], one["score"])]
    label = line.get("label")
    return [line["file"], "" if label is None else label, line.get("score", ""), line.get("error", ""), *top]


def _print_csv(rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    print_lines([text.getvalue().encode("utf-8", "backslashreplace").decode().removesuffix("\n")])
