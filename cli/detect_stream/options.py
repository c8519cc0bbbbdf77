"""Options that several verbs of ``effcli detect-stream`` take."""

from __future__ import annotations

from typing import Annotated

import typer

WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="RUN|FILE|builtin:NAME",
        help="The detector: a run of `train`, its file, a .pth checkpoint of the released code, or builtin:NAME "
        "(default: builtin:street-tiny).",
    ),
]
