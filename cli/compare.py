"""``effcli compare``: one table over runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common.options import Options, with_options
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
) -> None:
    """Compare finished runs in one table; runs that differ only in their seed share a row, with mean and spread."""
    from effcli.core.evidence.compare import compare_runs

    table = compare_runs(runs, metrics or None)
    if options.as_json:
        print_result(table, [], as_json=True)
        return
    header = ["run", "seeds", *table["metrics"]]
    rows = [
        [row["name"], str(row["n_seeds"]), *(_cell(row, name) for name in table["metrics"])]
        for row in table["rows"]
    ]
    print_table(rows, header)


def _cell(row: dict[str, Any], metric: str) -> str:
    value = row["values"].get(metric)
    if value is None or value["mean"] is None:
        return "-"
    spread = "" if value["spread"] is None else f" ± {value['spread']:.2g}"
    missing = "" if value["n"] == len(row["runs"]) else f" ({value['n']} of {len(row['runs'])})"
    return f"{value['mean']:.4g}{spread}{missing}"
