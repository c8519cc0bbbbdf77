"""Self-contained HTML pages from the templates beside this file."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

from effcli.core.errors import UsageError


def render(template: str, **values: Any) -> str:
    """Fill a template; every value is escaped."""
    from jinja2 import Environment, FunctionLoader

    def source(name: str) -> str:
        return (files("effcli.core.evidence") / name).read_text(encoding="utf-8")

    return Environment(autoescape=True, loader=FunctionLoader(source)).get_template(template).render(values)


def picture_of(run: Path, name: str) -> str:
    """A picture of a run, as base64.

    Raises:
        UsageError: it is outside the run directory, or cannot be read.
    """
    path = run / name
    if not path.resolve().is_relative_to(run.resolve()):
        raise UsageError("is outside the run directory", place=str(path))
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", place=str(path)) from None
