"""``effcli doctor``: what this machine has."""

from __future__ import annotations

from typing import Annotated

import typer

from .common.options import Options, with_options
from .common.output import print_result

app = typer.Typer(add_completion=False)


@app.command()
@with_options()
def doctor(
    options: Options,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Also compute a known result for each task, about two seconds each on an idle core. Exit "
            "code 1 if one is wrong.",
        ),
    ] = False,
) -> None:
    """Print devices, precision, kernels and versions: what decides the speed here, and what a bug report needs."""
    from dataclasses import asdict

    from effcli.core.errors import EXIT_FAILED
    from effcli.core.evidence.report import flatten
    from effcli.doctor import examine

    found = examine()
    is_right = True
    if self_test:
        from effcli.self_test import self_test as run_self_test

        checked = run_self_test()
        is_right = all(one.is_right for one in checked.values())
        found["self_test"] = {task: asdict(one) for task, one in checked.items()}
    lines = [f"{name:<28} {value}" for name, value in flatten(found)]
    print_result(found, lines, as_json=options.as_json)
    if not is_right:
        raise typer.Exit(EXIT_FAILED)
