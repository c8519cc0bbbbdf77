"""``effcli quantize``: run (default), sample, eval, inspect, export."""

from __future__ import annotations

from enum import StrEnum
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
from .session import CommonOptions, execute

if TYPE_CHECKING:
    from effcli.quantize.packed_file import PackedModel
    from effcli.quantize.recipe import QuantizeRecipe

app = typer.Typer(
    cls=DefaultVerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a diffusion UNet small and fast: 1 to 8 bits a weight, integer arithmetic (MPQ-DM). "
    "`effcli quantize --bits w2a4` takes the built-in model.",
)


class Rule(StrEnum):
    """Values of ``--alloc``."""

    KURTOSIS = "kurtosis"
    ERROR = "error"
    UNIFORM = "uniform"


class Search(StrEnum):
    """Values of ``--search``."""

    PAPER = "paper"
    CODE = "code"


class Profile(StrEnum):
    """Values of ``--profile``."""

    ALL = "all"
    PAPER = "paper"


class Backend(StrEnum):
    """Values of ``--backend``."""

    AUTO = "auto"
    INTEGER = "integer"
    SIMULATE = "simulate"


PackedArgument = Annotated[
    str,
    typer.Argument(
        metavar="PACKED", help="Output of `effcli quantize`: run directory, model folder or file."
    ),
]
BackendOption = Annotated[
    Backend,
    typer.Option(
        "--backend", help="Integer arithmetic, or the same simulated in float32; auto: integers if possible."
    ),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features", metavar="SPACE", help="pixels, efficientnet-lite0, builtin:NAME or a classifier's file."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Real images for fd: a folder, IDX files or an .npz."),
]


@app.command("run")
def run(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A diffusers folder, a hub id, or builtin:NAME.", show_default=False
        ),
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option("--bits", metavar="w2a4", help="Mean bits of weights, bits of activations; or w4."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="DDIM steps, here and when the result is used.")
    ] = None,
    eta: Annotated[
        float | None, typer.Option("--eta", min=0, max=1, help="Fresh noise in each step.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=0, help="Classifier-free guidance scale.")
    ] = None,
    alloc: Annotated[
        Rule | None, typer.Option("--alloc", help="What decides which rows get more bits and which fewer.")
    ] = None,
    plus: Annotated[
        bool, typer.Option("--plus", help="MPQ-DM+: a tenth of the rows one bit more, none fewer.")
    ] = False,
    search: Annotated[
        Search | None, typer.Option("--search", help="Shares of rows tried by --alloc kurtosis.")
    ] = None,
    profile: Annotated[
        Profile | None, typer.Option("--profile", help="Quantize all layers, or those of the paper.")
    ] = None,
    no_trd: Annotated[bool, typer.Option("--no-trd", help="Leave relation distillation out.")] = False,
    trd_pool: Annotated[
        int | None, typer.Option("--trd-pool", min=1, help="Largest side of the features it compares.")
    ] = None,
    trajectories: Annotated[
        int | None,
        typer.Option("--trajectories", min=0, help="Sampling runs to fine-tune on; 0: calibrate only."),
    ] = None,
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
    """Quantize a model, pack it and measure it (default)."""
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
        "model": ("MODEL", model),
        "bits": ("--bits", bits),
        "sampler.steps": ("--steps", steps),
        "sampler.eta": ("--eta", eta),
        "sampler.guidance": ("--guidance", guidance),
        "allocation.rule": ("--alloc", alloc and alloc.value),
        "allocation.plus": ("--plus", True if plus else None),
        "allocation.search": ("--search", search and search.value),
        "allocation.profile": ("--profile", profile and profile.value),
        "train.trd": ("--no-trd", False if no_trd else None),
        "train.trd_pool": ("--trd-pool", trd_pool),
        "train.trajectories": ("--trajectories", trajectories),
    }
    execute("quantize", options, shorthands, _plan)


@app.command()
def sample(
    packed: PackedArgument,
    n: Annotated[int, typer.Option("-n", "--images", min=1, help="How many.")] = 64,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|DIR|-", help="A grid as PNG, a folder, or - for stdout."
        ),
    ] = "samples.png",
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    backend: BackendOption = Backend.AUTO,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images drawn at a time.")] = 64,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Draw images from a quantized model, with the sampler settings it was made for."""
    configure_logging(quiet=quiet, verbose=verbose)
    to_stdout, folder = output == "-", Path(output).suffix.lower() != ".png"
    if not to_stdout:
        from effcli.core.files import check_writable

        if (
            Path(output).exists()
            and not force
            and not (Path(output).is_dir() and not any(Path(output).iterdir()))
        ):
            raise UsageError("exists", place=output, hint="--force overwrites it")
        check_writable(Path(output) if folder else Path(output).parent)
    from effcli.quantize.sampling import sample_packed

    runtime = runtime_for_options(device, precision, seed, threads)
    images = sample_packed(
        packed, n, runtime, backend=backend.value, batch_size=batch_size, show_progress=not quiet
    )
    from effcli.data.picture_grid import encode_png, grid, save_grid

    if to_stdout:
        import sys

        sys.stdout.buffer.write(encode_png(grid(images)))
    elif folder:
        for i, image in enumerate(images):
            save_grid(image[None], Path(output) / f"{i:05d}.png", zoom=1, border=0)
        print(output)
    else:
        save_grid(images, Path(output))
        print(output)


@app.command("eval")
def evaluate(
    packed: PackedArgument,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The full-precision model (default: as recorded)."),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--images", min=2, help="Images drawn by both models.")] = 512,
    features: FeaturesOption = None,
    data: DataOption = None,
    backend: BackendOption = Backend.AUTO,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images drawn at a time.")] = 64,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure a quantized model: Frechet distances to data and to the full-precision model, error from equal noise."""
    configure_logging(quiet=quiet, verbose=verbose)
    from effcli.quantize.recipe import EvalSection
    from effcli.quantize.sampling import evaluate_packed

    settings = EvalSection(n_images=n, batch_size=batch_size, features=features or "auto", data=data)
    runtime = runtime_for_options(device, precision, seed, threads)
    result = evaluate_packed(packed, model, settings, runtime, backend=backend.value, show_progress=not quiet)
    if as_json:
        print_result(result.to_json(), [], as_json=True)
        return
    print_table([[name, _text(value)] for name, value in result.metrics.items()], ["metric", "value"])


@app.command()
def inspect(packed: PackedArgument, as_json: JsonOption = False) -> None:
    """Say what is in a packed file: layers, bits of their rows, sizes, mean bits counted both ways."""
    from effcli.quantize.packed_file import find_packed, load_packed

    model = load_packed(packed)
    content = {
        **model.about,
        "mean_bits_quantized": model.mean_bits_quantized(),
        "mean_bits_total": model.mean_bits_total(),
        "size_bytes": find_packed(packed).stat().st_size,
        "size_fp32_bytes": 4 * model.n_parameters(),
        "parameters": model.n_parameters(),
        "layers": _layer_rows(model),
    }
    if as_json:
        print_result(content, [], as_json=True)
        return
    header = ["layer", "kind", "shape", "rows by bits", "activations", "bytes"]
    print_table([[str(row[name]) for name in header] for row in content["layers"]], header)
    print()
    facts = {name: value for name, value in content.items() if name not in {"layers", "timesteps"}}
    print_table([[name, _text(value)] for name, value in facts.items()], ["", ""])


@app.command()
def export(
    packed: PackedArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The diffusers folder to write.")
    ],
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the weights.")] = Dtype.FP16,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files in DIR.")] = False,
) -> None:
    """Write an ordinary diffusers folder with the dequantized weights, which any tool loads."""
    if output.exists() and not output.is_dir():
        raise UsageError("is a file; name a folder", place=str(output))
    if output.is_dir() and any(output.iterdir()) and not force:
        raise UsageError("is not empty", place=str(output), hint="--force writes into it")
    from effcli.quantize.exporting import export_diffusers

    export_diffusers(packed, output, dtype.value)
    print(output)


def runtime_for_options(device: str, precision: str | None, seed: int | None, threads: int | None) -> Any:
    """The runtime of a verb that has no recipe."""
    from effcli.core.runtime import create_runtime

    return create_runtime(device=device, precision=str(precision or "fp32"), seed=seed or 0, threads=threads)


def _plan(recipe: QuantizeRecipe) -> dict[str, Any]:
    """What `run` would do; loading the model also proves that it is there and can be quantized."""
    from effcli.core.runtime import create_runtime
    from effcli.diffusion.ddim import ddim_scheduler
    from effcli.diffusion.models import load_model
    from effcli.quantize.calibration import check_weights
    from effcli.quantize.layers import find_layers
    from effcli.quantize.pipeline import guided_model

    model = load_model(recipe.model)
    check_weights(model.unet, recipe.model)
    layers = find_layers(model.unet, recipe.allocation.profile)
    ddim_scheduler(model.scheduler_config, recipe.sampler.steps)
    from effcli.quantize.evaluation import choose_features

    guided = guided_model(model, recipe, create_runtime(device="cpu").device)
    choose_features(recipe.eval, guided.sample_shape)
    in_layers = sum(found.layer.weight.numel() for found in layers)
    parameters = sum(parameter.numel() for parameter in model.unet.parameters())
    return {
        "parameters": parameters,
        "quantized_layers": len(layers),
        "quantized_weights": f"{in_layers / parameters:.1%}",
        "sample_shape": list(guided.sample_shape),
        "fine_tuning_steps": recipe.train.trajectories * recipe.sampler.steps,
        "eval_images": recipe.eval.n_images,
    }


def _layer_rows(model: PackedModel) -> list[dict[str, Any]]:
    from effcli.quantize.packed_file import describe_layer

    return [describe_layer(name, codes) for name, codes in model.layers.items()]


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
