"""The group that the verbs of ``effcli continual`` join."""

from __future__ import annotations

import typer

from ..common.groups import DefaultVerbGroup

app = typer.Typer(
    cls=DefaultVerbGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach a classifier new classes without forgetting old ones: rehearsal (ER, DER++, ER-ACE, "
    "CLS-ER), also in the frequency domain (CLFD) or with a representative subnet (E2Net); without old "
    "images (IR, RanPAC); and detectors, with objects synthesised by inverting them (EGOR). `effcli "
    "continual` without arguments uses the built-in images.",
)
