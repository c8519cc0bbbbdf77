"""``effcli recipes``: ls, show, cp, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effcli.core.errors import UsageError

from .common.options import ForceOption, Options, SetOption, with_options
from .common.output import print_result

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show, copy and check recipes.")

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK|TASK/NAME", help="Task, for example enhance, or TASK/NAME as `recipes ls` prints it."
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME|FILE", help="Shipped recipe, or a .yaml file.")]


@app.command()
@with_options()
def ls(
    options: Options,
    task: Annotated[
        str | None, typer.Argument(metavar="[TASK]", help="List only the recipes of this task.")
    ] = None,
) -> None:
    """List the shipped recipes and claims as TASK/NAME."""
    from effcli.core.recipe import shipped_recipes
    from effcli.core.registry import TASKS, get_task

    tasks = [get_task(task).name] if task else list(TASKS)
    recipes = [f"{name}/{recipe}" for name in tasks for recipe in shipped_recipes(name)]
    claims = [f"{name}/claims/{claim}" for name in tasks for claim in shipped_recipes(name, claims=True)]
    print_result({"recipes": recipes, "claims": claims}, [*recipes, *claims], as_json=options.as_json)


@app.command()
@with_options()
def show(
    options: Options, task: TaskArgument, name: NameArgument = "default", sets: SetOption = None
) -> None:
    """Print a recipe with every key resolved and explained."""
    from effcli.core.recipe import dump_recipe, parse_set
    from effcli.core.registry import find_recipe

    task, _, given = task.partition("/")  # as `recipes ls` prints them
    overrides = [parse_set(item) for item in sets or []]
    recipe = find_recipe(task, given or name, overrides)
    print_result(recipe.model_dump(mode="json"), dump_recipe(recipe).splitlines(), as_json=options.as_json)


@app.command()
@with_options()
def cp(
    options: Options,
    task: TaskArgument,
    name: NameArgument = "default",
    destination: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="File or folder to write (default: NAME.yaml in the current folder)."
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Copy a shipped recipe to a file that you can edit."""
    from effcli.core.files import check_new_file, make_folder, write_text
    from effcli.core.recipe import read_recipe
    from effcli.core.registry import get_task

    task, _, given = task.partition("/")
    if given:
        name, destination = given, destination or (Path(name) if name != "default" else None)
    text, _ = read_recipe(get_task(task).name, name)
    path = destination or Path(f"{name}.yaml")
    path = path / f"{name}.yaml" if path.is_dir() else path
    check_new_file(path, force=force)
    make_folder(path.parent)
    write_text(path, text)
    print_result({"output": str(path)}, [str(path)], as_json=options.as_json)


@app.command()
@with_options()
def check(
    options: Options,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recipe or claim files (.yaml).")],
) -> None:
    """Validate recipe and claim files; reports all mistakes at once and prints the valid files."""
    from effcli.core.errors import RecipeError
    from effcli.core.evidence.claims import Claim
    from effcli.core.recipe import is_claim, load_recipe, read_recipe, task_of
    from effcli.core.registry import get_task, renamed_keys

    mistakes, right = [], []
    for file in files:
        try:
            text, place = read_recipe("", str(file))
            task = get_task(task_of(text, place))
            kind = Claim if is_claim(text, place) else task.recipe_class
            load_recipe(kind, text, place, renamed=renamed_keys(task.name))
        except UsageError as error:
            mistakes.append(
                str(error) if error.place or isinstance(error, RecipeError) else f"{file}: {error}"
            )
        else:
            right.append(str(file))
    if not mistakes:
        print_result({"files": right}, right, as_json=options.as_json)
        return
    if not options.as_json:  # there the error is the one object
        print_result({}, right, as_json=False)
    raise RecipeError("\n".join(mistakes))
