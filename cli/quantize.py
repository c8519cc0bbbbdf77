"""``effcli quantize``: run (default), sample, eval, inspect, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common.groups import DefaultVerbGroup
from .common.images_output import ImagesOutputOption, check_images_output, write_images
from .common.options import (
    BatchSizeOption,
    FeatureSpaceOption,
    ForceOption,
    MachineOptions,
    Options,
    RealImagesOption,
    RunOptions,
    with_options,
)
from .common.output import print_lines, print_metrics, print_result, print_table, text_of
from .common.session import execute, recipe_of_method, runtime_for

app = typer.Typer(
    cls=DefaultVerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a diffusion model small and fast: 1 to 8 bits per weight, integer arithmetic (MPQ-DM). "
    "`effcli quantize --bits w2a4` quantizes the built-in model.",
)


PackedArgument = Annotated[
    str,
    typer.Argument(
        metavar="PACKED",
        help="A packed model: a run directory of `effcli quantize`, its model folder, or the file.",
    ),
]
BackendOption = Annotated[
    Literal["auto", "integer", "simulate"],
    typer.Option(
        "--backend",
        help="integer: int8 products, the fastest; simulate: the same numbers in float32; auto: integer "
        "where the "
        "model and the machine allow it.",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Where the full-precision model is now; its decoder, text encoder and tokenizer are needed "
        "(default: where it was).",
    ),
]


@app.command("run")
@with_options()
def run(
    options: RunOptions,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="The full-precision model: a diffusers folder, a single-file checkpoint, a Hub id, or "
            "builtin:NAME.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Literal["mpq-dm"] | None, typer.Option("--method", help="The method; mpq-dm is the only one.")
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            "--bits",
            metavar="w2a4",
            help="Mean bits per weight and bits per activation, 1 to 8; w4 quantizes weights only.",
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Quantize weights only (--bits w4), one layer after another, without sampling, fine-tuning "
            "or evaluation; needs memory for the result and one layer.",
        ),
    ] = False,
    lora: Annotated[
        str | None,
        typer.Option(
            "--lora",
            metavar="FILE",
            help="A LoRA (safetensors) to merge into the network before quantizing it; -s lora.scale=0.8 "
            "weakens it.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            help="DDIM sampling steps that the result is made for; more take longer and sample better.",
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(
            "--eta", min=0, max=1, help="Share of fresh noise in each sampling step: 0 is DDIM, 1 is DDPM."
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            min=0,
            help="Classifier-free guidance scale; 1 is none, larger values follow the condition more closely.",
        ),
    ] = None,
    alloc: Annotated[
        Literal["kurtosis", "error", "uniform"] | None,
        typer.Option(
            "--alloc",
            help="What decides which rows (output channels) get one bit more or less: their outliers "
            "(kurtosis), "
            "their output error, or nothing (uniform).",
        ),
    ] = None,
    plus: Annotated[
        bool, typer.Option("--plus", help="MPQ-DM+: 10 % of the rows get one bit more, none gets fewer.")
    ] = False,
    search: Annotated[
        Literal["half", "tenth"] | None,
        typer.Option(
            "--search",
            help="Shares of rows that --alloc kurtosis tries to raise and lower: 0 to 50 % each (half), or 0 "
            "or 10 % (tenth).",
        ),
    ] = None,
    profile: Annotated[
        Literal["all", "main-path"] | None,
        typer.Option(
            "--profile",
            help="Layers to quantize: all, or all but the skip and downsampling convolutions and the "
            "attention of unconditional UNets (main-path).",
        ),
    ] = None,
    no_trd: Annotated[
        bool, typer.Option("--no-trd", help="Fine-tune without TRD, the relation distillation.")
    ] = False,
    trd_pool: Annotated[
        int | None,
        typer.Option(
            "--trd-pool",
            min=1,
            help="Largest side, in pixels, to which features are pooled for TRD; memory grows with its "
            "fourth power.",
        ),
    ] = None,
    trajectories: Annotated[
        int | None,
        typer.Option(
            "--trajectories",
            min=0,
            help="Sampling runs to fine-tune on; more take longer and come closer to full precision. 0: "
            "calibrate "
            "only.",
        ),
    ] = None,
) -> None:
    """Quantize a model, pack it and measure it (default)."""
    shorthands = {
        "method": ("--method", method),
        "model": ("MODEL", model),
        "bits": ("--bits", bits),
        "fast": ("--fast", True if fast else None),
        "lora.file": ("--lora", lora),
        "sampler.steps": ("--steps", steps),
        "sampler.eta": ("--eta", eta),
        "sampler.guidance": ("--guidance", guidance),
        "allocation.rule": ("--alloc", alloc),
        "allocation.plus": ("--plus", True if plus else None),
        "allocation.search": ("--search", search),
        "allocation.profile": ("--profile", profile),
        "train.trd": ("--no-trd", False if no_trd else None),
        "train.trd_pool": ("--trd-pool", trd_pool),
        "train.trajectories": ("--trajectories", trajectories),
    }
    execute("run", "quantize", recipe_of_method("quantize", options, method), shorthands)


@app.command()
@with_options()
def sample(
    options: MachineOptions,
    packed: PackedArgument,
    n: Annotated[int, typer.Option("-n", "--images", min=1, help="Number of images.")] = 64,
    output: ImagesOutputOption = "samples.png",
    force: ForceOption = False,
    model: SourceOption = None,
    backend: BackendOption = "auto",
    batch_size: BatchSizeOption = 64,
) -> None:
    """Sample images from a quantized model, with the sampler settings it was made for."""
    check_images_output(output, force=force, as_json=options.as_json)
    from effcli.quantize.pipeline import sample as sample_packed

    runtime = runtime_for(options)
    images = sample_packed(
        packed,
        n,
        runtime,
        backend=backend,
        batch_size=batch_size,
        full_precision=model,
        show_progress=not options.quiet,
    )
    if runtime.is_main:
        write_images(images, output, as_json=options.as_json)


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    packed: PackedArgument,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="The full-precision model (default: the one that was quantized)."
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--images", min=2, help="Images sampled by each model.")] = 512,
    features: FeatureSpaceOption = None,
    data: RealImagesOption = None,
    backend: BackendOption = "auto",
    batch_size: BatchSizeOption = 64,
) -> None:
    """Measure a quantized model: Frechet distances to real images and to full precision, error from equal noise."""
    from effcli.metrics.distance_settings import DistanceSettings
    from effcli.quantize.pipeline import evaluate as evaluate_packed

    settings = DistanceSettings(n_images=n, batch_size=batch_size, features=features or "auto", data=data)
    result = evaluate_packed(
        packed, model, settings, runtime_for(options), backend=backend, show_progress=not options.quiet
    )
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
        return
    print_metrics(result.metrics)


@app.command()
@with_options()
def inspect(options: Options, packed: PackedArgument) -> None:
    """Show what is in a packed file: layers, rows by bits, sizes, mean bits per weight and per parameter."""
    from effcli.quantize.packed.layer_tensors import describe_layer
    from effcli.quantize.weights import load_packed

    model = load_packed(packed)
    content = {
        **model.about,
        **model.sizes(),
        "layers": [describe_layer(name, codes) for name, codes in model.layers.items()],
    }
    if options.as_json:
        print_result(content, [], as_json=True)
        return
    header = ["layer", "kind", "shape", "rows_by_bits", "activations", "bytes"]
    print_table([[str(row[name]) for name in header] for row in content["layers"]], header)
    print_lines([""])
    facts = {name: value for name, value in content.items() if name not in {"layers", "timesteps"}}
    print_table([[name, text_of(value)] for name, value in facts.items()], ["", ""])


@app.command()
@with_options()
def export(
    options: Options,
    packed: PackedArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The folder of a diffusers pipeline to write."),
    ],
    to: Annotated[
        Literal["diffusers", "gguf", "torchao"],
        typer.Option(
            "--to",
            help="diffusers: dequantized weights; gguf: the network as a GGUF file, linear layers in blocks "
            "of Q4_1, "
            "Q5_1 or Q8_0, all others as fp16 or fp32 (extra gguf); torchao: weights as integers, one byte each (extra "
            "torchao).",
        ),
    ] = "diffusers",
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(
            "--dtype",
            help="Number format of everything that is not stored as integers; gguf takes fp16 or fp32.",
        ),
    ] = "fp16",
    model: SourceOption = None,
    force: ForceOption = False,
) -> None:
    """Write a diffusers pipeline for other programs, and say how much each kind of layer loses."""
    from effcli.core.files import check_new_folder
    from effcli.quantize.exporting.export import export as export_packed

    check_new_folder(output, force=force)
    layers = export_packed(packed, output, dtype, model, to)
    print_result({"output": str(output), "layers": layers}, [str(output)], as_json=options.as_json)
