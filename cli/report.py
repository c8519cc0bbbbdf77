"""``effcli report``: rebuild a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common.options import Options, with_options
from .common.output import print_result

app = typer.Typer(add_completion=False)


@app.command()
@with_options()
def report(
    options: Options,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories of finished runs.")],
) -> None:
    """Rebuild report.html of finished runs from the files in their directories."""
    from effcli.core.evidence.report import write_report

    paths = [str(write_report(run)) for run in runs]
    print_result({"reports": paths}, paths, as_json=options.as_json)
