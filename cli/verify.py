"""``effcli verify``: test a claim on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effcli.core.errors import EXIT_CLAIM_FAILED, UsageError

from .common.options import DeviceOption, Options, ThreadsOption, with_options
from .common.output import is_main_process, print_note, print_result

app = typer.Typer(add_completion=False)


@app.command()
@with_options()
def verify(
    options: Options,
    claim: Annotated[
        str,
        typer.Argument(
            metavar="TASK/NAME|FILE", help="Shipped claim (`effcli recipes ls`), or a claim file."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder with the data files that the claim names."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the runs (default: runs/verify/TASK-NAME)."
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            "--seeds", metavar="N", help="Seed to run instead of those of the claim, 0 or more. Repeatable."
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = "auto",
) -> None:
    """Run the missing arms and seeds of a claim, and report whether the claim holds.

    Exit code 4 if it does not hold. Runs are kept, so an interrupted verification continues where it stopped.
    """
    from effcli.core.evidence.claims import load_claim
    from effcli.core.evidence.claims import verify as verify_claim

    task, name_or_file = _split(claim)
    loaded, name = load_claim(task, name_or_file)
    folder = output or Path("runs") / "verify" / f"{loaded.task}-{Path(name).stem}"
    silent = options.quiet or not is_main_process()

    def announce(line: str) -> None:
        if not silent:
            print_note(line)

    content = verify_claim(
        loaded,
        name,
        output=folder,
        data=data,
        seeds=seeds,
        device=device,
        threads=threads,
        show_progress=not options.quiet,
        announce=announce,
    )
    for finding in content["findings"]:
        spread = "" if finding["spread"] is None else f" ± {finding['spread']:.3g}"
        announce(f"{finding['verdict']}: {finding['expectation']} ({finding['mean']:+.3g}{spread})")
    print_result(content, [str(folder / "claim.json")], as_json=options.as_json)
    if content["verdict"] == "does not hold":
        raise typer.Exit(EXIT_CLAIM_FAILED)


def _split(claim: str) -> tuple[str, str]:
    from effcli.core.evidence.claims import names_a_file

    if names_a_file(claim):
        return "", claim
    task, slash, name = claim.partition("/")
    if not slash:
        raise UsageError(f"expected TASK/NAME, not {claim!r}", hint="`effcli recipes ls` lists the claims")
    return task, name.removeprefix("claims/")
