"""The options that every run has: the same name and meaning everywhere. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Precision(StrEnum):
    """Values of ``--precision``."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Dtype(StrEnum):
    """Values of ``export --dtype``."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


RUN = "Run"

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", metavar="NAME|FILE", help="Shipped recipe, recipe file, or run directory."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Change one recipe key, as in train.steps=100. Repeatable."
    ),
]
RunOutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Run directory (default: runs/TASK/RECIPE-TIME)."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|cuda:N|mps", help="Where to compute.", rich_help_panel=RUN
    ),
]
PrecisionOption = Annotated[
    Precision | None, typer.Option("--precision", help="Arithmetic of the heavy layers.", rich_help_panel=RUN)
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="Root of all randomness.", rich_help_panel=RUN)
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads (default: all cores).", rich_help_panel=RUN),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint.", rich_help_panel=RUN)
]
SaveEveryOption = Annotated[
    str,
    typer.Option(
        "--save-every", metavar="10min|500steps", help="Time between checkpoints.", rich_help_panel=RUN
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the resolved recipe and the plan; touch nothing.", rich_help_panel=RUN
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of paths.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="More on stderr; tracebacks for errors.")
]
