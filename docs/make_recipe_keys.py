"""Write docs/reference/recipes/: every key of every recipe, with its default, its values and what it means.

python docs/make_recipe_keys.py            # writes the pages
python docs/make_recipe_keys.py --check    # exit code 1 when one is stale
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from effcli.core.registry import TASKS, Method, Task

FOLDER = Path(__file__).parent / "reference" / "recipes"
HEADER = """# Recipe keys: {task}

Every key of the recipes of `effcli {task}`, with its default where a recipe file does not set it, its values and what
it means. Set one with `--set key=value`, or in a file: [runs and recipes](../runs-and-recipes.md).
`effcli recipes show {task}` prints the same for one recipe. Written by `python docs/make_recipe_keys.py` from the
recipe classes; a test compares.
"""
BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "multiple_of": "a multiple of {}",
}
NAMES = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", type(None): "`null`"}


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, its row of the table) of a recipe class, sections resolved."""
    defaults = model.model_construct().model_dump(mode="json", warnings=False)
    for name, field in model.model_fields.items():
        section = next((t for t in _members(field.annotation) if _is_section(t)), None)
        if section is not None:
            yield from rows(section, f"{prefix}{name}.")
            continue
        if prefix or name not in {"task", "method"}:
            cells = (
                f"`{prefix}{name}`",
                _default(field, defaults.get(name)),
                _values(field),
                field.description or "",
            )
            yield prefix + name, "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(task: Task) -> str:
    """The page of one task: what all its methods share, then what each has beside it."""
    by_class: dict[type[BaseModel], list[Method]] = {}
    for method in task.methods:
        by_class.setdefault(task.recipe_class({"method": method.name}), []).append(method)
    tables = {model: dict(rows(model)) for model in by_class}
    shared = set.intersection(*(set(table.values()) for table in tables.values()))
    first = next(iter(tables.values()))
    parts = [
        HEADER.format(task=task.name),
        _table("Every method", [r for r in first.values() if r in shared]),
    ]
    for model, methods in by_class.items():
        own = [row for row in tables[model].values() if row not in shared]
        names = ", ".join(f"`{method.name}`" for method in methods)
        if own:
            parts.append(_table(f"method: {names}", own))
    return "".join(parts)


def _table(title: str, lines: list[str]) -> str:
    head = "| key | default | values | meaning |\n|---|---|---|---|\n"
    return f"\n## {title}\n\n{head}" + "\n".join(lines) + "\n"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one there is."""
    return get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)


def _default(field: FieldInfo, value: Any) -> str:
    return (
        "needed"
        if field.is_required()
        else f"`{value if isinstance(value, str) and value else json.dumps(value)}`"
    )


def _values(field: FieldInfo) -> str:
    kinds = ", ".join(dict.fromkeys(_name(kind) for kind in _members(field.annotation)))
    bounds = [
        BOUNDS[key].format(f"{getattr(item, key):g}")
        for item in field.metadata
        for key in BOUNDS
        if getattr(item, key, None) is not None
    ]
    return ", ".join([kinds, *bounds])


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(
            f"`{json.dumps(value) if not isinstance(value, str) else value}`" for value in get_args(kind)
        )
    if get_origin(kind) in {tuple, list, frozenset}:
        inner = dict.fromkeys(_name(part) for part in get_args(kind) if part is not Ellipsis)
        return f"list of {' and '.join(inner)}"
    if get_origin(kind) is dict:
        return "mapping"
    origin = getattr(kind, "__origin__", kind)  # Annotated
    return NAMES.get(origin, "text")


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    for task in TASKS.values():
        file, text = FOLDER / f"{task.name}.md", page(task)
        if not check:
            file.write_text(text, encoding="utf-8")
            print(file)
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
