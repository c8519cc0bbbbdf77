"""One more task for a run that is there, and the last one taken back. Nothing is touched before all is checked."""

from __future__ import annotations

import os
from pathlib import Path

from effcli.continual.recipe import ContinualRecipe, JointRecipe
from effcli.continual.records import data_stage, details_stage, known_tasks, learned_stage
from effcli.continual.stream import load_stream
from effcli.continual.training import accuracy_stage, stage_of
from effcli.core.errors import UsageError
from effcli.core.files import lock_folder, write_text
from effcli.core.recipe import dump_recipe
from effcli.core.registry import recipe_of_run
from effcli.core.resuming.checkpoint import CheckpointStore


def longer_recipe(run: Path, folder: Path) -> ContinualRecipe:
    """The recipe of a run with one more task.

    It is the run's own recipe where ``folder`` is its last task, which is not finished, or one of its tasks, and has
    nothing new: the same command again.

    Raises:
        InputError: the run or the images are not there.
        UsageError: the run was joint training.
    """
    recipe = _recipe_of(run)
    if isinstance(recipe, JointRecipe):
        raise UsageError("joint training cannot learn additional tasks", place=str(run))
    source = str(folder.resolve())
    if recipe.data.more[-1:] == (source,) and not (run / "result.json").exists():
        return recipe
    longer = _with_more(recipe, (*recipe.data.more, source))
    if source in recipe.data.more and not has_news(longer, run):
        return recipe
    return longer


def has_news(longer: ContinualRecipe, run: Path) -> bool:
    """Whether the last source of a recipe has images that a run has not learned."""
    try:
        load_stream(longer, known_tasks(run))
    except UsageError as error:
        if error.message.startswith("nothing new"):
            return False
        raise
    return True


def begin_task(run: Path, longer: ContinualRecipe) -> None:
    """Make a run, whose images are read and checked, one that has a further task to learn.

    Args:
        run: a run directory.
        longer: its recipe with that task, or its own recipe, which changes nothing.

    Raises:
        UsageError: another process works in it.
        RunError: it cannot be written.
    """
    if longer == _recipe_of(run):
        return
    with lock_folder(run):
        _unfinish(run)  # first: a finished run has the recipe that it was made with
        write_text(run / "recipe.yaml", dump_recipe(longer))


def shorter_recipe(run: Path) -> ContinualRecipe:
    """The recipe of a run without its last further task.

    Raises:
        InputError: the run is not there.
        UsageError: it has no further task.
    """
    recipe = _recipe_of(run)
    if not recipe.data.more:
        raise UsageError(
            "no added task to remove",
            place=str(run),
            hint="--undo removes what --tasks-dir added; the tasks of --data belong to the run",
        )
    return _with_more(recipe, recipe.data.more[:-1])


def take_back(run: Path, shorter: ContinualRecipe) -> None:
    """Make a run what it was before its last further task; what remains is to resume it, which learns nothing.

    Raises:
        UsageError: another process works in it.
        RunError: it cannot be written.
    """
    source = len(shorter.data.more) + 1
    known = known_tasks(run)
    # a run that was begun by version 0.1 remembers one digest of each task: the further ones are the last
    numbers = [
        number
        for number, one in enumerate(known)
        if (one.source == source if not isinstance(one, str) else number == len(known) - 1)
    ]
    with lock_folder(run):
        store = CheckpointStore(run / "checkpoints", "")
        _unfinish(run)
        for number in numbers:
            _cut_log(run, store, number - 1)
            stages = (stage_of, learned_stage, accuracy_stage, details_stage, data_stage)
            for stage in stages:  # the record last: it says that there is something to remove
                store.remove(stage(number))
        write_text(run / "recipe.yaml", dump_recipe(shorter))


def _recipe_of(run: Path) -> ContinualRecipe:
    recipe = recipe_of_run("continual", run)
    if not isinstance(recipe, ContinualRecipe):
        raise UsageError(
            f"a run of {recipe.method} cannot learn additional tasks of images",
            place=str(run),
            hint="effcli continual --method egor --detector RUN --data NEW teaches a detector more classes",
        )
    return recipe


def _with_more(recipe: ContinualRecipe, more: tuple[str, ...]) -> ContinualRecipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"more": more})})


def _unfinish(run: Path) -> None:
    for name in ("result.json", "report.html"):
        (run / name).unlink(missing_ok=True)


def _cut_log(run: Path, store: CheckpointStore, last: int) -> None:
    """Drop what was logged after a task was measured."""
    saved, file = store.load(accuracy_stage(last)), run / "metrics.jsonl"
    if saved is not None and file.exists():
        os.truncate(file, min(int(saved["metrics_bytes"]), file.stat().st_size))
