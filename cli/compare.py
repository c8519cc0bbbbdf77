"""``effcli compare``: one table over runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common.options import ForceOption, Options, with_options
from .common.output import print_result, print_table

app = typer.Typer(add_completion=False)


@app.command()
@with_options()
def compare(
    options: Options,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished run directories.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            metavar="NAME",
            help="Show only this metric, for example psnr or baselines.input.psnr. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help="Write a page instead: the table, the settings that differ, the curves of all runs "
            "together, pictures side by side.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Compare finished runs in one table; runs that differ only in their seed share a row, with mean and spread."""
    from effcli.core.evidence.compare import compare_runs, text_of

    if output is not None:
        _check_page(output, force=force)
    table = compare_runs(runs, metrics or None)
    if output is not None:
        from effcli.core.evidence.compare_page import write_page

        write_page(table, output)
        print_result({**table, "page": str(output)}, [str(output)], as_json=options.as_json)
        return
    if options.as_json:
        print_result(table, [], as_json=True)
        return
    header = ["run", "seeds", *table["metrics"]]
    rows = [
        [row["name"], str(row["n_seeds"]), *(text_of(row, name) for name in table["metrics"])]
        for row in table["rows"]
    ]
    print_table(rows, header)


def _check_page(output: Path, *, force: bool) -> None:
    from effcli.core.errors import UsageError
    from effcli.core.files import check_new_file

    if output.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(
            f"unknown file extension {output.suffix!r}", place=str(output), hint="name a .html file"
        )
    check_new_file(output, force=force)
