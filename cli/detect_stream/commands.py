"""``effcli detect-stream``: run (default), train, eval, synth, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from effcli.core.errors import EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError

from ..common.groups import DefaultVerbGroup
from ..common.options import (
    DryRunOption,
    ForceOption,
    MachineOptions,
    Options,
    RecipeOptions,
    RunOptions,
    with_options,
)
from ..common.output import print_lines, print_plan, print_result
from ..common.session import execute, resolve_recipe, runtime_for
from .export import export
from .options import WeightsOption
from .tables import print_measures, print_summary

if TYPE_CHECKING:
    from effcli.detect_stream.recipe import StreamDsgnRecipe

app = typer.Typer(
    cls=DefaultVerbGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cars, pedestrians and cyclists in 3D from a stereo stream, where they are at the moment you "
    "receive the result (StreamDSGN). `effcli detect-stream` alone drives through a synthetic street.",
)


LatencyOption = Annotated[
    str | None,
    typer.Option(
        "--simulate-latency",
        metavar="MS|FILE",
        help="Milliseconds per frame on the virtual clock, or a file with one number per line, used in turn "
        "(default: "
        "what was measured).",
    ),
]
EgoOption = Annotated[
    Literal["on", "off", "pictures"] | None,
    typer.Option(
        "--ego-motion",
        help="Use the cameras' own motion. on: from oxts/, or from the pictures where there is none; "
        "pictures: always from the pictures; off: ignore it (default: as the detector was trained).",
    ),
]
MethodOption = Annotated[
    Literal["streamdsgn"] | None, typer.Option("--method", help="The method; streamdsgn is the only one.")
]


@app.command("run")
@with_options()
def run(
    options: RecipeOptions,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A KITTI Tracking sequence (ROOT/0000), a folder with left/, right/ and calib.txt or of "
            "another known "
            "layout, a left folder, picture or video, /dev/video0, rtsp://..., - for stdin, or synthetic:N:PRESET for "
            "the N-th synthetic drive (default: a synthetic drive).",
            show_default=False,
        ),
    ] = None,
    right: Annotated[
        str | None,
        typer.Argument(
            metavar="[RIGHT]",
            help="The right folder, picture or video, if SOURCE is the left one.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for streaming.jsonl and results in KITTI's format.",
        ),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            "--video",
            metavar="FILE",
            help="Also write the pictures with boxes drawn on them: FILE.gif, FILE.webp or FILE.mp4.",
        ),
    ] = None,
    depth: Annotated[
        Path | None,
        typer.Option(
            "--depth",
            metavar="DIR",
            help="Also write the depth of each processed frame as a 16-bit PNG: metres x 256, 0 where "
            "unknown, as KITTI's depth maps; a frame then takes about 1.5 times as long.",
        ),
    ] = None,
    depth_video: Annotated[
        Path | None,
        typer.Option(
            "--depth-video",
            metavar="FILE",
            help="Also write a video with the depth in colour below the pictures: FILE.mp4, FILE.gif or "
            "FILE.webp.",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE.rrd",
            help="Also write pictures, depth, boxes, tracks and ages for the rerun viewer (pip install "
            "'effcli[rerun]').",
        ),
    ] = None,
    weights: WeightsOption = None,
    calib: Annotated[
        str | None,
        typer.Option(
            "--calib",
            metavar="FILE",
            help="Calibration: lines P2: and P3: of 12 numbers, or another supported format (default: the "
            "layout's own file, such as calib.txt in SOURCE).",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            min=0.1,
            help="Frames per second of a source without timestamps (default: the source's own rate, else 10; "
            "live: as they arrive).",
        ),
    ] = None,
    side_by_side: Annotated[
        bool,
        typer.Option(
            "--side-by-side",
            help="SOURCE has both views in each picture, the left one on the left: a folder, picture, video "
            "or camera.",
        ),
    ] = False,
    clock: Annotated[
        Literal["wall", "sim"] | None,
        typer.Option(
            "--clock",
            help="wall: frames arrive in real time, and those overtaken by newer ones are dropped; sim: the "
            "same on a virtual clock (default: wall).",
        ),
    ] = None,
    simulate_latency: LatencyOption = None,
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            min=0,
            max=1,
            help="Lowest score of a box to report; higher values report fewer boxes (default: 0.3).",
        ),
    ] = None,
    horizon: Annotated[
        str | None,
        typer.Option(
            "--horizon",
            metavar="MS|auto",
            help="Extrapolate boxes at their velocities to this many milliseconds after the capture; auto: "
            "to the age that results currently have (default: boxes for the next frame).",
        ),
    ] = None,
    ego_motion: EgoOption = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Stop after this many frames.")
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Detect in a stream (default): one JSON line per output, the summary last."""
    shorthands = {
        "weights": ("--weights", weights),
        "stream.clock": ("--clock", clock),
        "stream.score": ("--score", score),
        "stream.horizon": ("--horizon", _horizon(horizon)),
        "stream.ego_motion": ("--ego-motion", _ego_setting(ego_motion)),
    }
    recipe = cast("StreamDsgnRecipe", resolve_recipe("detect-stream", options, shorthands))
    from effcli.detect_stream import pipeline
    from effcli.detect_stream.sources.open_source import SourceName
    from effcli.detect_stream.stream.run_options import RunOptions, read_latencies

    run_options = RunOptions(
        source=SourceName(source, right, calib, fps, side_by_side),
        pipe=sys.stdin.buffer,
        latencies_s=None if simulate_latency is None else read_latencies(simulate_latency),
        most_frames=frames,
        output=output,
        video=video,
        depth=depth,
        depth_video=depth_video,
        log=log,
        force=force,
    )
    plan = pipeline.plan_run(recipe, run_options)
    if dry_run:
        print_plan(recipe, plan.facts, as_json=options.as_json)
        return
    runtime = runtime_for(options, recipe)
    result = pipeline.run(recipe, plan.inputs, run_options, runtime, lambda line: print_lines([line]))
    is_moved_on = recipe.stream.horizon is not None
    print_summary(result, as_json=options.as_json, quiet=options.quiet, is_moved_on=is_moved_on)
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


@app.command()
@with_options()
def train(
    options: RunOptions,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR|synthetic:N",
            help="Training data: a folder of KITTI Tracking, or N synthetic drives (default: synthetic:64 "
            "of four presets).",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimiser steps (default: the recipe's).")
    ] = None,
    method: MethodOption = None,
) -> None:
    """Train a detector on labelled sequences."""
    shorthands = {
        "data.source": ("--data", data),
        "train.steps": ("--steps", steps),
        "method": ("--method", method),
    }
    execute("train", "detect-stream", options, shorthands)


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    weights: WeightsOption = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DIR|synthetic:N:PRESET",
            help="Labelled sequences: a folder of KITTI Tracking, or N synthetic drives.",
        ),
    ] = "synthetic:8",
    split: Annotated[
        Literal["all", "clips", "sequences"],
        typer.Option(
            "--split",
            help="Which part of a folder to measure on. all: everything; clips: every second clip of 40 "
            "frames; sequences: those that training with this split holds out.",
        ),
    ] = "all",
    frames: Annotated[
        str | None,
        typer.Option(
            "--frames",
            metavar="FROM-TO",
            help="Which frames of a folder, by the numbers in their names, such as 128-139 or 0000:128-139; "
            "separate several by commas. Replaces --split.",
        ),
    ] = None,
    simulate_latency: LatencyOption = None,
    pairing: Annotated[
        Literal["sap", "asap"],
        typer.Option(
            "--pairing",
            help="Which output is compared with a frame's ground truth. sap: the latest one finished at its "
            "capture; asap: the same, but never the frame's own (as in the released code).",
        ),
    ] = "sap",
    truncation: Annotated[
        Literal["graded", "fraction"],
        typer.Option(
            "--truncation",
            help="How KITTI Tracking's truncation 0, 1, 2 is read. graded: as 0, 0.3, 0.6; fraction: "
            "literally, so that objects with 1 or 2 do not count (as in the released code).",
        ),
    ] = "graded",
    ego_motion: EgoOption = None,
    depth: Annotated[
        bool,
        typer.Option("--depth", help="Also measure the depth of pixels, where the data has LiDAR or depth."),
    ] = False,
    tracking: Annotated[
        bool,
        typer.Option(
            "--tracking",
            help="Also measure tracks: HOTA, MOTA and IDF1 by KITTI's rules (pip install 'effcli[tracking]').",
        ),
    ] = False,
) -> None:
    """Measure on labelled sequences: AP, and sAP on a virtual clock."""
    from effcli.detect_stream import pipeline
    from effcli.detect_stream.evaluation.sequence_evaluation import MeasureSettings
    from effcli.detect_stream.recipe import DEFAULT_WEIGHTS
    from effcli.detect_stream.stream.run_options import read_latencies

    settings = MeasureSettings(
        None if simulate_latency is None else read_latencies(simulate_latency),
        pairing,
        truncation,
        _ego_setting(ego_motion),
        depth,
        tracking,
    )
    runtime = runtime_for(options)
    result = pipeline.evaluate(weights or DEFAULT_WEIGHTS, data, split, settings, runtime, frames)
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
        return
    print_measures(result.metrics)


@app.command()
@with_options()
def synth(
    options: Options,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write; new or empty.")
    ],
    drives: Annotated[int, typer.Option("--drives", "-n", min=1, help="Number of sequences.")] = 4,
    frames: Annotated[
        int, typer.Option("--frames", min=3, help="Frames per sequence, at 10 per second.")
    ] = 40,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Kind of drive: street, straight, turn, fast-ego (15 to 25 m/s), static (nothing moves) or "
            "crowded, all made of boxes; or town, with varied cameras, shapes and light; town-GROUP is "
            "the town without one of camera, clutter, optics, shapes and textures.",
        ),
    ] = "street",
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the drives; each number gives different ones.")
    ] = 0,
) -> None:
    """Write synthetic drives as a data set of KITTI Tracking: stereo pairs, labels, depth, poses."""
    from effcli.detect_stream.data.drive_sets import write_drives

    written = write_drives(output, drives, frames, preset, seed, not options.quiet)
    print_result({"output": str(output), **written}, [str(output)], as_json=options.as_json)


app.command("export")(export)
