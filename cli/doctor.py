"""``effcli doctor``: what this machine has."""

from __future__ import annotations

import typer

from .common.options import Options, with_options
from .common.output import print_result

app = typer.Typer(add_completion=False)


@app.command()
@with_options()
def doctor(options: Options) -> None:
    """Print devices, precision, kernels and versions: what decides the speed here and belongs in a bug report."""
    from effcli.core.evidence.report import flatten
    from effcli.doctor import examine

    found = examine()
    lines = [f"{name:<28} {value}" for name, value in flatten(found)]
    print_result(found, lines, as_json=options.as_json)
