"""``effcli detect-stream``: run (default), train, eval, synth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from effcli.core.errors import EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError

from .common.groups import DefaultVerbGroup
from .common.options import (
    DryRunOption,
    ForceOption,
    MachineOptions,
    Options,
    RecipeOptions,
    RunOptions,
    with_options,
)
from .common.output import is_main_process, print_plan, print_result, print_table
from .common.session import execute, resolve_recipe, runtime_for

if TYPE_CHECKING:
    from effcli.core.evidence.result import Result
    from effcli.detect_stream.recipe import StreamDsgnRecipe

app = typer.Typer(
    cls=DefaultVerbGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cars, pedestrians and cyclists in 3D from a stereo stream, for the moment in which you receive them "
    "(StreamDSGN). `effcli detect-stream` alone drives through a synthetic street.",
)


WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        metavar="RUN|FILE|builtin:NAME",
        help="The detector; a .pth is one of the released code.",
    ),
]
LatencyOption = Annotated[
    str | None,
    typer.Option(
        "--simulate-latency", metavar="MS|FILE", help="Of the virtual clock (default: what was measured)."
    ),
]
EgoOption = Annotated[
    Literal["on", "off", "pictures"] | None,
    typer.Option(
        "--ego-motion",
        help="The cameras' own motion: from oxts/, or where there is none from the pictures; always from the pictures "
        "(default: on, if the detector was trained with it).",
    ),
]


@app.command("run")
@with_options()
def run(
    options: RecipeOptions,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A KITTI Tracking sequence (ROOT/0000), a folder with left/ right/ calib.txt, a left folder or "
            "video, - for stdin, or synthetic:N:PRESET (default: a synthetic drive).",
            show_default=False,
        ),
    ] = None,
    right: Annotated[
        str | None, typer.Argument(metavar="[RIGHT]", help="The right folder or video.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Also write streaming.jsonl and KITTI results here."
        ),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option("--video", metavar="FILE", help="Draw the boxes: FILE.gif, FILE.webp or FILE.mp4."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="RUN|FILE|builtin:NAME",
            help="The detector; a .pth is one of the released code.",
        ),
    ] = None,
    calib: Annotated[
        str | None, typer.Option("--calib", metavar="FILE", help="Calibration with P2 and P3.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1, help="Frames a second.")] = None,
    clock: Annotated[
        Literal["wall", "sim"] | None, typer.Option("--clock", help="Real time, or a virtual clock.")
    ] = None,
    simulate_latency: LatencyOption = None,
    score: Annotated[
        float | None, typer.Option("--score", min=0, max=1, help="Least score of a box.")
    ] = None,
    horizon: Annotated[
        str | None,
        typer.Option(
            "--horizon",
            metavar="MS|auto",
            help="Boxes for so long after the capture (auto: when they are there).",
        ),
    ] = None,
    ego_motion: EgoOption = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Stop after so many.")] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Detect in a stream (default): one JSON line an output, the summary last."""
    shorthands = {
        "stream.weights": ("--weights", weights),
        "stream.clock": ("--clock", clock),
        "stream.score": ("--score", score),
        "stream.horizon": ("--horizon", _horizon(horizon)),
        "stream.ego_motion": ("--ego-motion", _ego_setting(ego_motion)),
    }
    recipe = cast("StreamDsgnRecipe", resolve_recipe("detect-stream", options, shorthands))
    from effcli.detect_stream.stream.frame_sources import open_source
    from effcli.detect_stream.stream.session import (
        StreamOptions,
        check_options,
        detect_stream,
        plan_stream,
        read_latencies,
        stdin_pipe,
    )
    from effcli.detect_stream.weights import load_detector

    latencies_s = None if simulate_latency is None else read_latencies(simulate_latency)
    settings = StreamOptions(recipe.stream, latencies_s, frames, output, video, force)
    opened = open_source(source, right, calib, fps, stdin_pipe(), frames)
    check_options(settings, opened)
    detector = load_detector(recipe.stream.weights)
    if dry_run:
        print_plan(recipe, plan_stream(opened, detector, settings), as_json=options.as_json)
        return
    runtime = runtime_for(options, recipe)
    result = detect_stream(opened, detector, settings, runtime, lambda line: print(line, flush=True))
    _print_summary(result, options, is_moved_on=recipe.stream.horizon is not None)
    if result.metrics["interrupted"]:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.metrics["damaged"]:
        raise typer.Exit(EXIT_PARTIAL)


def _ego_setting(word: Literal["on", "off", "pictures"] | None) -> bool | Literal["pictures"] | None:
    return word if word is None or word == "pictures" else word == "on"


def _horizon(text: str | None) -> Any:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError("expected milliseconds or auto", place=f"--horizon {text}") from None


def _print_summary(result: Result, options: Options, *, is_moved_on: bool) -> None:
    """The summary is the last line of stdout; a table for people goes to stderr."""
    print_result(result.to_json(), [], as_json=True)
    if options.quiet or options.as_json or not is_main_process():
        return
    metrics = result.metrics
    latency, age = metrics["latency_ms"], metrics["age_ms"]
    lines = [
        f"{metrics['processed']} of {metrics['frames']} frames, {metrics['dropped']} dropped, "
        f"{metrics['damaged']} damaged",
        f"latency {latency['p50']:.0f} ms (p95 {latency['p95']:.0f}, p99 {latency['p99']:.0f}), "
        f"age {age['p50']:.0f} ms (p95 {age['p95']:.0f}, p99 {age['p99']:.0f}), "
        f"{metrics['deadline_misses']} later than a frame",
    ]
    if age["p50"] > 1000 / metrics["fps"] and not is_moved_on:
        lines.append("results are older than a frame: --horizon auto moves boxes to when they are there")
    if "sap" in metrics:
        quality = {name: metrics[name] for name in ("sap", "ap")}
        lines += [
            f"{name:<4}" + "  ".join(f"{kind} {_number(value)}" for kind, value in row.items())
            for name, row in quality.items()
        ]
    else:
        lines.append("no labels, so no sAP")
    typer.echo("\n".join([*lines, *metrics["files"]]), err=True)


@app.command()
@with_options()
def train(
    options: RunOptions,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DIR|synthetic:N", help="A folder of KITTI Tracking, or N synthetic drives."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
) -> None:
    """Learn a detector from labelled sequences."""
    shorthands = {"data.source": ("--data", data), "train.steps": ("--steps", steps)}
    execute("train", "detect-stream", options, shorthands)


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    weights: WeightsOption = "builtin:street-tiny",
    data: Annotated[
        str,
        typer.Option("--data", metavar="DIR|synthetic:N:PRESET", help="Labelled sequences."),
    ] = "synthetic:8",
    split: Annotated[
        Literal["all", "paper", "sequences"],
        typer.Option("--split", help="Of a folder: all of it, the paper's clips, or sequences held out."),
    ] = "all",
    simulate_latency: LatencyOption = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="No frame meets its own output, however fast (the paper's rule).")
    ] = False,
    truncation: Annotated[
        Literal["graded", "released"],
        typer.Option("--truncation", help="KITTI Tracking's 0, 1, 2 as 0, 0.3, 0.6, or as they are."),
    ] = "graded",
    ego_motion: EgoOption = None,
) -> None:
    """Measure on labelled sequences: AP, and sAP on a virtual clock."""
    from effcli.detect_stream.evaluation.measuring import Measure, evaluate_detector
    from effcli.detect_stream.stream.session import read_latencies
    from effcli.detect_stream.weights import load_detector

    how = Measure(
        None if simulate_latency is None else read_latencies(simulate_latency),
        "paper" if paper else "streaming",
        truncation,
        _ego_setting(ego_motion),
    )
    result = evaluate_detector(load_detector(weights), weights, data, split, how, runtime_for(options))
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
        return
    names = ("ap", "sap", "sap_constant_velocity", "ap_same_frame")
    classes = list(result.metrics["ap"])
    rows = [[name, *(_number(result.metrics[name][kind]) for kind in classes)] for name in names]
    for measure in ("3d_loose", "bev_loose", "3d_strict", "bev_strict"):
        values = [result.metrics["sap_table"][kind][measure]["moderate"] for kind in classes]
        rows.append([f"sap, {measure}", *map(_number, values)])
    print_table(rows, ["", *classes])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


@app.command()
@with_options()
def synth(
    options: Options,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")],
    drives: Annotated[int, typer.Option("--drives", "-n", min=1, help="How many sequences.")] = 4,
    frames: Annotated[int, typer.Option("--frames", min=3, help="Of each, at ten a second.")] = 40,
    preset: Annotated[
        str, typer.Option("--preset", metavar="street|straight|turn|...", help="What the drives are like.")
    ] = "street",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Other numbers give other drives.")] = 0,
) -> None:
    """Write synthetic drives as a data set of KITTI Tracking: stereo pairs, labels, depth, poses."""
    from effcli.detect_stream.data.synthesis import write_drives

    written = write_drives(output, drives, frames, preset, seed, not options.quiet)
    print_result({"output": str(output), **written}, [str(output)], as_json=options.as_json)
