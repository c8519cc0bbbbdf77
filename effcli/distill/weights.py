"""Where a run keeps its students: writing and reading them."""

from __future__ import annotations

from pathlib import Path

from effcli.core.errors import InputError
from effcli.core.run import Run
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.folders import copy_parts, name_parts
from effcli.diffusion.models import DiffusionModel, load_model, save_folder
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
    if steps is not None and folder.is_dir():
        folder = folder / STUDENTS / str(steps)
        if not folder.is_dir():
            there = ", ".join(map(str, steps_in(Path(place)))) or "none"
            raise InputError(f"has no student of {steps} steps", place=str(place), hint=f"available: {there}")
    model = load_model(str(folder))
    if DISTILLED_TIMESTEPS not in model.scheduler_config:
        raise InputError("is not a student of `effcli distill`", place=str(place))
    return model


def keep_parts(teacher: DiffusionModel, run: Run) -> None:
    """Copy what lies beside the teacher's network (decoder, text encoders) into ``model/``, once for a run.

    Raises:
        RunError: it cannot be written.
    """

    def copy() -> bool:
        if teacher.folder is not None and run.runtime.is_main:
            copy_parts(teacher.folder, run.path / "model")
        return True

    run.stage("parts-beside-network", copy)


def save_student(student: Guided, steps: int | None, teacher: DiffusionModel, run: Run) -> None:
    """Write a student as a pipeline of diffusers, on the main rank.

    Args:
        student: its network and scheduler.
        steps: its sampling steps, for ``students/``; None: as the product, ``model/``.
        teacher: whose parts beside the network are named; in ``students/`` they are links to those in ``model/``.
        run: the open run.

    Raises:
        RunError: it cannot be written.
    """
    if run.runtime.is_main:
        product = run.path / "model"
        folder = product if steps is None else run.path / STUDENTS / str(steps)
        save_folder(folder, student.unet, student.scheduler_config)
        if teacher.folder is not None:
            if steps is not None:
                copy_parts(teacher.folder, folder, linked_to=product)
            name_parts(teacher.folder, folder)
    run.runtime.barrier()


def steps_in(run: Path) -> list[int]:
    """The numbers of sampling steps of a run's students, the largest first."""
    names = [path.name for path in (run / STUDENTS).glob("*") if (path / "student.json").is_file()]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)
