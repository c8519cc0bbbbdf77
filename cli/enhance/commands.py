"""``effcli enhance``: run (default), train, eval, inspect, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from effcli.core.errors import EXIT_DONE, EXIT_PARTIAL

from ..common.groups import DefaultVerbGroup
from ..common.options import (
    RUN,
    DryRunOption,
    ForceOption,
    Options,
    RecipeOptions,
    RunOptions,
    with_options,
)
from ..common.output import print_metrics, print_note, print_result, print_table
from ..common.session import execute, recipe_of_method, resolve_recipe, runtime_for
from .run import Writing, enhance_run, print_file_plan

if TYPE_CHECKING:
    from effcli.enhance.recipe import EnhanceRecipe

app = typer.Typer(
    cls=DefaultVerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Brighten dark photos (WalMaFa). `effcli enhance night.png` writes night-enhanced.png beside it.",
)

WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="FILE|builtin:NAME",
        help="Weights to use: a file of effcli, a released WalMaFa checkpoint (.pth), or builtin:walmafa.",
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="PAIRS",
        help="Pairs to learn from: a folder or .tar with low/ and high/, or builtin:scenes. Repeatable.",
        show_default=False,
    ),
]
MethodOption = Annotated[
    Literal["walmafa"] | None,
    typer.Option("--method", help="walmafa: wavelet-based Mamba with Fourier adjustment (the default)."),
]
BrightnessOption = Annotated[
    str | None,
    typer.Option(
        "--brightness",
        metavar="auto|0..1|+1EV",
        help="Level to reach: auto (default) leaves well-lit pictures alone; a mean grey level such as 0.45; "
        "or stops "
        "from what auto chooses, such as +1EV or -0.5EV. For weights with an exposure head, such as builtin:walmafa.",
        show_default=False,
    ),
]
DetailOption = Annotated[
    Literal["auto", "full", "fast"] | None,
    typer.Option(
        "--detail",
        help="full: the network sees every pixel. fast: it sees about one megapixel, and the result is "
        "carried to the "
        "full size. auto (default): fast above 8 megapixels. For weights with an exposure head.",
    ),
]
MaxMemoryOption = Annotated[
    int | None,
    typer.Option(
        "--max-memory",
        metavar="MB",
        min=64,
        help="Memory for one picture in MB; a picture that needs more is computed in strips. Default: up to "
        "half of what is free, and on a CPU strips of about 512 MB for pictures that need more than 1 "
        "GB.",
    ),
]

GalleryOption = Annotated[
    str | None,
    typer.Option(
        "--gallery",
        metavar="FILE.html",
        help="Write one page that compares the first 300 pictures with their results: a slider over each, "
        "its level "
        "before and after, and the change of hue. It needs no other file.",
    ),
]

ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Enhance every N-th picture, from the K-th on, and write a summary into the output folder; the "
        "N jobs of an array job together do all pictures. `effcli enhance merge` adds the summaries up.",
    ),
]


@app.command("run")
@with_options()
def run(
    options: RecipeOptions,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Picture files, folders (searched recursively), URLs such as "
            "s3://bucket/photos, - for stdin, or video files.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder, URL of one, or - for stdout (default: NAME-enhanced beside each input).",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite existing outputs; inputs are never overwritten.")
    ] = False,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            metavar="0..1",
            help="Blend with the input: 0 is the input, 1 (default) the result alone.",
        ),
    ] = None,
    brightness: BrightnessOption = None,
    weights: WeightsOption = None,
    detail: DetailOption = None,
    max_memory: MaxMemoryOption = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="png|jpeg|webp|tiff|bmp",
            help="Format of pictures to write to stdout and folders (default: that of the input).",
        ),
    ] = None,
    quality: Annotated[
        int,
        typer.Option(
            "--quality",
            min=1,
            max=100,
            help="Quality of JPEG, lossy WebP and videos; higher is better and larger.",
        ),
    ] = 95,
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Give each output the modification time of its input.")
    ] = False,
    gallery: GalleryOption = None,
    shard: ShardOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip pictures that already have an output or are being written by another process; "
            "continue unfinished videos.",
            rich_help_panel=RUN,
        ),
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Brighten pictures and videos (default).

    Bit depth, grey, alpha, EXIF and ICC profile are kept, and the sound and timestamps of videos.
    """
    shorthands = {
        "weights": ("--weights", weights),
        "strength": ("--strength", strength),
        "brightness": ("--brightness", brightness),
        "detail": ("--detail", detail),
        "max_memory_mb": ("--max-memory", max_memory),
    }
    recipe = cast("EnhanceRecipe", resolve_recipe("enhance", options, shorthands))
    from effcli.enhance.files.output_plan import plan_outputs
    from effcli.enhance.files.shards import parse_shard
    from effcli.enhance.video.names import asks_for_video

    if asks_for_video(inputs, output):
        from .video import VideoWriting, video_run

        videos = VideoWriting(output, quality, keep_times, resume, force, dry_run)
        for_pictures: dict[str, object] = {"--format": format, "--gallery": gallery, "--shard": shard}
        raise typer.Exit(video_run(recipe, inputs, options, videos, for_pictures))
    share = None if shard is None else parse_shard(shard)
    plan = plan_outputs(inputs, output, force=force, skip_existing=resume, format=format, shard=share)
    page = None
    if gallery is not None:
        from effcli.enhance.files.gallery import check_gallery

        page = check_gallery(gallery, force=force, resume=resume)
    if dry_run:
        print_file_plan(recipe, plan, as_json=options.as_json)
        return
    writing = Writing(output or "", quality, format, keep_times, page, resume)
    raise typer.Exit(enhance_run(recipe, plan, options, writing))


@app.command()
@with_options()
def merge(
    options: Options,
    summaries: Annotated[
        list[str],
        typer.Argument(
            metavar="SUMMARY...", help="The summary-*-of-*.json of all shards of a batch, files or URLs."
        ),
    ],
) -> None:
    """Add up the summaries of shards: pictures, failures, pictures left nearly unchanged, and times."""
    from effcli.enhance.files.remote import location
    from effcli.enhance.files.shards import merge_summaries

    merged = merge_summaries([location(summary) for summary in summaries])
    for failure in merged["failures"]:
        print_note(f"error: {failure['place']}: {failure['message']}")
    for index in merged["interrupted"]:
        print_note(f"shard {index} was interrupted: run it again with --resume")
    if options.as_json:
        print_result(merged, [], as_json=True)
    else:
        print_metrics({"shards": merged["shards"], **merged["metrics"], **merged["timing"]})
    is_whole = not merged["failures"] and not merged["metrics"]["not_done"]
    raise typer.Exit(EXIT_DONE if is_whole else EXIT_PARTIAL)


@app.command()
@with_options()
def train(
    options: RunOptions,
    data: DataOption = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval-data", metavar="PAIRS", help="Pairs to measure after training. Repeatable."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="Optimiser steps, 1 or more.")
    ] = None,
    method: MethodOption = None,
) -> None:
    """Train weights on pairs of dark and bright pictures: folders low/ and high/ with the same file names."""
    shorthands = {
        "method": ("--method", method),
        "data.source": ("--data", data),
        "eval.data": ("--eval-data", eval_data if eval_data or not data else []),
        "train.steps": ("--steps", steps),
    }
    execute("train", "enhance", recipe_of_method("enhance", options, method), shorthands)


@app.command("eval")
@with_options()
def evaluate(
    options: RecipeOptions,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="PAIRS",
            help="Pairs to measure: a folder or .tar with low/ and high/, or builtin:scenes. Repeatable.",
        ),
    ],
    brightness: BrightnessOption = None,
    weights: WeightsOption = None,
    detail: DetailOption = None,
    max_memory: MaxMemoryOption = None,
) -> None:
    """Measure on pairs: PSNR, SSIM, hue, level, and how well the references are preserved; with simple baselines."""
    shorthands = {
        "brightness": ("--brightness", brightness),
        "weights": ("--weights", weights),
        "detail": ("--detail", detail),
        "max_memory_mb": ("--max-memory", max_memory),
    }
    recipe = cast("EnhanceRecipe", resolve_recipe("enhance", options, shorthands))
    from effcli.enhance import pipeline

    result = pipeline.evaluate(data, recipe, options.recipe, runtime_for(options, recipe))
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
        return
    baselines = result.metrics["baselines"]
    own = result.output or recipe.method
    rows = {own if own not in baselines else f"{own} (this)": result.metrics, **baselines}
    names = list(baselines["input"])
    print_table([[row, *(_number(values[n]) for n in names)] for row, values in rows.items()], ["", *names])


@app.command()
@with_options()
def inspect(
    options: Options,
    weights: Annotated[
        str, typer.Argument(metavar="FILE|builtin:NAME", help="Weight file, or builtin:walmafa.")
    ] = "builtin:walmafa",
) -> None:
    """Show what is in a weight file: architecture and number of parameters."""
    from effcli.enhance.weights import load_weights

    network = load_weights(weights)
    content = {
        "weights": weights,
        **network.config.model_dump(mode="json"),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    lines = [f"{name:<12} {value}" for name, value in content.items()]
    print_result(content, lines, as_json=options.as_json)


@app.command()
@with_options()
def export(
    options: Options,
    weights: Annotated[
        str, typer.Argument(metavar="FILE|builtin:NAME", help="Weight file, or builtin:walmafa.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write: FILE.safetensors.")
    ],
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(
            "--dtype", help="Precision of the stored weights: fp32, or bf16 and fp16 for half the size."
        ),
    ] = "fp32",
    force: ForceOption = False,
) -> None:
    """Write weights, including released checkpoints, as one safetensors file of effcli."""
    from effcli.core.files import check_new_file, make_folder
    from effcli.core.runtime import DTYPES
    from effcli.enhance.weights import load_weights, save_weights

    check_new_file(output, force=force)
    network = load_weights(weights)
    make_folder(output.parent)
    save_weights(output, network, kernel_dtype=DTYPES[dtype])
    print_result({"output": str(output)}, [str(output)], as_json=options.as_json)


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3f}"
