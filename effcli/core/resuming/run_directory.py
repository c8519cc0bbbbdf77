"""Which directory a run may use: never another recipe's, never one that is not a run's."""

from __future__ import annotations

import contextlib
import logging
import time
from glob import escape
from pathlib import Path
from typing import IO

from effcli.core.errors import RunError, UsageError
from effcli.core.files import check_writable, is_vacant, lock_folder, make_folder, remove_parts, write_text
from effcli.core.recipe import Recipe, difference, dump_recipe, kind_of, load_recipe
from effcli.core.registry import renamed_keys

log = logging.getLogger(__name__)


def default_directory(recipe: Recipe, recipe_name: str, *, resume: bool) -> Path:
    """``runs/<task>/<recipe>-<time>``; with ``resume`` the newest unfinished run of this recipe, if there is one."""
    folder, name = Path("runs") / recipe.task, Path(recipe_name).name or recipe.method
    if resume:
        runs = [path for path in folder.glob(f"{escape(name)}-*") if path.is_dir()]
        for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
            if not (path / "result.json").exists() and _recipe_difference(path, recipe) is None:
                return path
        log.warning("no unfinished run of this recipe in %s: starting a new one", folder)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, number = folder / f"{name}-{stamp}", 2
    while path.exists():
        path, number = folder / f"{name}-{stamp}-{number}", number + 1
    return path


def claim_directory(path: Path, recipe: Recipe, *, resume: bool) -> IO[str] | None:
    """Make or check a run's directory, clear what a killed process left half written, and lock it.

    Returns:
        The lock (close it to let go), or None when the run is there and finished: then nothing is touched.

    Raises:
        UsageError: as :func:`effcli.core.run.open_run`.
    """
    if _holds_finished(path, recipe, resume):
        _clear_finished(path)
        return None
    check_writable(path)
    make_folder(path)
    lock = lock_folder(path)
    remove_parts(path)
    if not (path / "recipe.yaml").exists():
        write_text(path / "recipe.yaml", dump_recipe(recipe))
    return lock


def _clear_finished(path: Path) -> None:
    """Clear what a process left half written that was killed while it drew, unless one is still drawing."""
    with contextlib.suppress(UsageError, RunError), lock_folder(path):
        remove_parts(path)


def _holds_finished(path: Path, recipe: Recipe, resume: bool) -> bool:
    place = str(path)
    if path.exists() and not path.is_dir():
        raise UsageError("is a file, not a folder", place=place)
    if is_vacant(path):
        return False
    if not (path / "recipe.yaml").is_file():
        raise UsageError("is not empty and is not a run directory", place=place, hint="name another with -o")
    changed = _recipe_difference(path, recipe)
    if changed is not None:
        raise UsageError(
            f"holds a run of another recipe ({changed})", place=place, hint="name another directory with -o"
        )
    is_finished = (path / "result.json").exists()
    if not resume:
        state = "a finished run" if is_finished else "an unfinished run"
        hint = "name another directory with -o" if is_finished else "--resume continues it"
        raise UsageError(f"holds {state} of this recipe", place=place, hint=hint)
    return is_finished


def _recipe_difference(path: Path, recipe: Recipe) -> str | None:
    file = path / "recipe.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        renamed = renamed_keys(recipe.task)
        if (kind := kind_of(text, str(file), renamed)) != (recipe.task, recipe.method):
            return f"{kind[0]}, {kind[1]}"
        old = load_recipe(type(recipe), text, str(file), renamed=renamed)
    except (OSError, UnicodeDecodeError, UsageError) as error:
        return f"its recipe.yaml cannot be read: {error}"
    return difference(old, recipe)
