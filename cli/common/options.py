"""The options that verbs share: the same name and meaning everywhere. Imports nothing heavy.

A verb says which group it takes by the type of its parameter ``options``::

    @app.command()
    @with_options()
    def train(options: RunOptions, steps: StepsOption = None) -> None: ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from effcli.core.errors import EXIT_DONE, InterruptedRunError, UsageError

from .output import configure_logging, give_up_stdout

RUN = "Run"


def _threads(text: str) -> int | Literal["auto"]:
    """The value of ``--threads``."""
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is not auto or a number of threads, 1 or more")
    return int(text)


RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        help="Settings to start from: a shipped recipe (`effcli recipes ls`), a .yaml file, or a run directory.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Set one recipe key, for example train.steps=100; overrides the other options. Repeatable.",
    ),
]
RunOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Run directory to write (default: runs/TASK/RECIPE-TIME)."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Device to compute on; auto takes the fastest available.",
        rich_help_panel=RUN,
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"] | None,
    typer.Option(
        "--precision",
        help="Arithmetic of the heavy layers: auto takes bf16 where the hardware has it, else fp32; bf16 and fp16 are "
        "faster and less exact (default: that of the recipe; fp32 where a verb has none).",
        rich_help_panel=RUN,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Seed of all random numbers, 0 or more; the same seed gives the same result.",
        rich_help_panel=RUN,
    ),
]
ThreadsOption = Annotated[
    Any,  # int | Literal["auto"]
    typer.Option(
        "--threads",
        metavar="auto|N",
        parser=_threads,
        help="CPU threads; auto measures and takes the faster of 1 and all; N fixes the number.",
        rich_help_panel=RUN,
    ),
]
ExportFileOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="FILE.onnx or FILE.safetensors.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite existing output.")]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue an interrupted run from its last checkpoint.", rich_help_panel=RUN
    ),
]
SaveEveryOption = Annotated[
    str,
    typer.Option(
        "--save-every",
        metavar="10min|500steps",
        help="Time or number of steps between checkpoints; shorter intervals lose less when a run is killed.",
        rich_help_panel=RUN,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the resolved recipe and the plan; write nothing.", rich_help_panel=RUN
    ),
]
FeatureSpaceOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="SPACE",
        help="Feature space of the Frechet distance fd: pixels, efficientnet-lite0, builtin:NAME, "
        "inception:FILE, or a classifier.",
    ),
]
RealImagesOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Real images for fd: a folder of pictures, a folder of IDX files, or an .npz.",
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images sampled at a time; more is faster and needs more memory.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout instead of paths or tables.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors on stderr.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print more on stderr, and tracebacks of errors.")
]


@dataclass(frozen=True)
class Options:
    """Options of every verb."""

    as_json: JsonOption = False
    quiet: QuietOption = False
    verbose: VerboseOption = False


@dataclass(frozen=True)
class MachineOptions(Options):
    """Options of a verb that computes."""

    device: DeviceOption = "auto"
    precision: PrecisionOption = None
    seed: SeedOption = None
    threads: ThreadsOption = "auto"


@dataclass(frozen=True)
class RecipeOptions(MachineOptions):
    """Options of a verb that follows a recipe."""

    recipe: RecipeOption = "default"
    sets: SetOption = None


@dataclass(frozen=True)
class RunOptions(RecipeOptions):
    """Options of a verb that fills a run directory."""

    output: RunOutputOption = None
    resume: ResumeOption = False
    save_every: SaveEveryOption = "10min"
    dry_run: DryRunOption = False


def check_extension(output: Path, *known: str) -> None:
    """Make sure that a file to write has one of the known extensions.

    Raises:
        UsageError: it has another.
    """
    if output.suffix not in known:
        raise UsageError(
            f"unknown file extension {output.suffix!r}", place=str(output), hint=f"use {' or '.join(known)}"
        )


def with_options(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of the group that its parameter ``options`` is annotated with, and set up the log.

    Args:
        defaults: option -> a default of this verb's own.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(verb, include_extras=True)
        group: type[Options] = hints["options"]
        shared = get_type_hints(group, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(verb).parameters.items()
            if name != "options"
        ]
        own += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(field.name, field.default),
                annotation=shared[field.name],
            )
            for part in group.__mro__  # the group's own options first, those of every verb last
            for field in fields(group)
            if field.name in vars(part).get("__annotations__", {})
        ]

        @functools.wraps(verb)
        def command(**values: Any) -> None:
            options = group(**{field.name: values.pop(field.name) for field in fields(group)})
            configure_logging(quiet=options.quiet, verbose=options.verbose)
            try:
                verb(options=options, **values)
            except KeyboardInterrupt:  # Typer would leave without a word
                raise InterruptedRunError("interrupted") from None
            except BrokenPipeError:  # here too: the reader of our stdout left, as `| head -1` does
                give_up_stdout()
                raise typer.Exit(EXIT_DONE) from None

        command.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
        return command

    return decorate
