"""What a run would do, and what was loaded to say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class Plan(Generic[Inputs]):
    """The answer of a pipeline's ``plan_run``.

    Attributes:
        facts: numbers and names by key, for ``--dry-run`` and ``--json``.
        inputs: the models and data that were loaded and checked; the pipeline's ``run`` takes them, so that nothing
            is loaded twice. Planning must leave them as they were loaded, and must not depend on, or move, the
            global random generators.
    """

    facts: dict[str, Any]
    inputs: Inputs
