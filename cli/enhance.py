"""``effcli enhance``: run (default), train, eval, inspect, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effcli.core.errors import UsageError

from .groups import DefaultVerbGroup
from .options import (
    DeviceOption,
    DryRunOption,
    Dtype,
    JsonOption,
    PrecisionOption,
    QuietOption,
    RecipeOption,
    ResumeOption,
    RunOutputOption,
    SaveEveryOption,
    SeedOption,
    SetOption,
    ThreadsOption,
    VerboseOption,
)
from .output import configure_logging, print_result, print_table
from .session import CommonOptions, execute, resolve_recipe, runtime_for

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
        "--weights", metavar="FILE|builtin:NAME", help="Weights: ours, or a released WalMaFa checkpoint."
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data", metavar="PAIRS", help="Folder or .tar with low/ and high/ (repeatable).", show_default=False
    ),
]
MaxMemoryOption = Annotated[
    int | None,
    typer.Option(
        "--max-memory", metavar="MB", min=64, help="Memory for one picture (default: half of what is free)."
    ),
]


@app.command("run")
def run(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders, or - for stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="File, folder, or - (default: NAME-enhanced beside it)."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite existing outputs (never an input).")
    ] = False,
    strength: Annotated[
        float | None,
        typer.Option("--strength", metavar="0..1", help="Blend with the input; 1 is the result alone."),
    ] = None,
    weights: WeightsOption = None,
    max_memory: MaxMemoryOption = None,
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="png|jpeg|webp|tiff|bmp", help="Format for stdout and folders."),
    ] = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="JPEG and WebP quality.")] = 95,
    recipe: RecipeOption = "default",
    sets: SetOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Brighten pictures (default).

    Bit depth, grey, alpha, EXIF and ICC profile are kept. With --resume, outputs that exist are left as they are.
    """
    from .enhance_run import enhance_run

    options = CommonOptions(
        recipe,
        sets,
        None,
        device,
        precision,
        seed,
        threads,
        resume,
        "10min",
        dry_run,
        as_json,
        quiet,
        verbose,
    )
    shorthands = {
        "weights": ("--weights", weights),
        "strength": ("--strength", strength),
        "max_memory_mb": ("--max-memory", max_memory),
    }
    code = enhance_run(inputs, output, options, shorthands, force=force, format=format, quality=quality)
    raise typer.Exit(code)


@app.command()
def train(
    data: DataOption = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval-data", metavar="PAIRS", help="Pairs to measure at the end (repeatable)."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
    output: RunOutputOption = None,
    recipe: RecipeOption = "default",
    sets: SetOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    save_every: SaveEveryOption = "10min",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Learn weights from pairs of dark and bright pictures: folders low/ and high/ with the same file names."""
    options = CommonOptions(
        recipe,
        sets,
        output,
        device,
        precision,
        seed,
        threads,
        resume,
        save_every,
        dry_run,
        as_json,
        quiet,
        verbose,
    )
    shorthands = {
        "data.train": ("--data", data),
        "data.eval": ("--eval-data", eval_data if eval_data or not data else []),
        "train.steps": ("--steps", steps),
    }
    execute("enhance", options, shorthands, _training_plan)


@app.command("eval")
def evaluate(
    data: Annotated[
        list[str], typer.Option("--data", metavar="PAIRS", help="Folder or .tar with low/ and high/.")
    ],
    weights: WeightsOption = None,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure weights on pairs: PSNR and SSIM, with and without GT-mean, beside the trivial baselines."""
    import time

    configure_logging(quiet=quiet, verbose=verbose)
    options = CommonOptions(device=device, precision=precision, threads=threads, as_json=as_json)
    shorthands = {"weights": ("--weights", weights), "max_memory_mb": ("--max-memory", max_memory)}
    recipe: Any = resolve_recipe("enhance", options, shorthands)
    from effcli.core.run import Result
    from effcli.enhance.enhancer import Enhancer
    from effcli.enhance.pipeline import evaluate as measure
    from effcli.enhance.pipeline import read_pairs

    started = time.perf_counter()
    runtime = runtime_for(recipe, options)
    pairs = read_pairs(data, "eval")
    metrics = measure(Enhancer(recipe.weights, runtime=runtime, max_memory_mb=recipe.max_memory_mb), pairs)
    result = Result(
        task="enhance",
        verb="eval",
        method=recipe.method,
        recipe=options.recipe,
        output=recipe.weights,
        metrics=metrics,
        timing={"total_s": round(time.perf_counter() - started, 3)},
        environment=runtime.describe(),
    )
    if as_json:
        print_result(result.to_json(), [], as_json=True)
        return
    rows = {recipe.weights: metrics, **metrics["baselines"]}
    names = list(metrics["baselines"]["input"])
    print_table([[row, *(_number(values[n]) for n in names)] for row, values in rows.items()], ["", *names])


@app.command()
def inspect(
    weights: Annotated[
        str, typer.Argument(metavar="FILE|builtin:NAME", help="A weight file.")
    ] = "builtin:walmafa",
    as_json: JsonOption = False,
) -> None:
    """Say what is in a weight file: architecture and number of parameters."""
    from effcli.enhance.weights import load_weights

    network = load_weights(weights)
    content = {
        "weights": weights,
        **network.config.model_dump(mode="json"),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    print_result(content, [f"{name:<12} {value}" for name, value in content.items()], as_json=as_json)


@app.command()
def export(
    weights: Annotated[str, typer.Argument(metavar="FILE|builtin:NAME", help="A weight file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write.")
    ],
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Of the kernels; fp16 halves the file.")
    ] = Dtype.FP32,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write weights, released checkpoints too, as one safetensors file of ours."""
    if output.is_dir():
        raise UsageError("is a folder; name a file", place=str(output))
    if output.exists() and not force:
        raise UsageError("exists", place=str(output), hint="--force overwrites it")
    from effcli.core.files import check_writable
    from effcli.core.runtime import DTYPES
    from effcli.enhance.weights import load_weights, save_weights

    network = load_weights(weights)
    check_writable(output.parent)
    save_weights(output, network, kernel_dtype=DTYPES[dtype.value])
    print(output)


def _training_plan(recipe: EnhanceRecipe) -> dict[str, Any]:
    """What `train` would do; reading the pairs' names also proves that they are there."""
    from effcli.data.pairs import load_pairs
    from effcli.enhance.network import WalMaFa

    pairs = load_pairs(recipe.data.train, split="train")
    held_out = len(load_pairs(recipe.data.eval, split="eval")) if recipe.data.eval else 0
    return {
        "training_pairs": len(pairs),
        "eval_pairs": held_out,
        "parameters": sum(parameter.numel() for parameter in WalMaFa(recipe.network).parameters()),
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / len(pairs), 1),
    }


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3f}"
