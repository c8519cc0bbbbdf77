"""Where a run keeps its students, and reading them."""

from __future__ import annotations

from pathlib import Path

from effcli.core.errors import InputError
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS

STUDENTS = "students"
"""The folder of a run with one sub-folder per student, named after its number of sampling steps."""


def load_student(place: str | Path, steps: int | None = None) -> DiffusionModel:
    """A student with its scheduler.

    Args:
        place: a run directory of `effcli distill`, or the folder of a student in it.
        steps: which student of a run, by its number of sampling steps; None: the last.

    Raises:
        InputError: it is not there, or is not a student.
    """
    folder = Path(place)
    if steps is not None:
        folder = folder / STUDENTS / str(steps)
        if not folder.is_dir():
            there = ", ".join(map(str, steps_in(Path(place)))) or "none"
            raise InputError(f"has no student of {steps} steps", place=str(place), hint=f"available: {there}")
    model = load_model(str(folder))
    if DISTILLED_TIMESTEPS not in model.scheduler_config:
        raise InputError("is not a student of `effcli distill`", place=str(place))
    return model


def steps_in(run: Path) -> list[int]:
    """The numbers of sampling steps of a run's students, the largest first."""
    names = [path.name for path in (run / STUDENTS).glob("*") if (path / "student.json").is_file()]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)
