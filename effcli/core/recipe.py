"""Recipes: typed YAML settings that say everything which decides a run's outcome.

A task's recipe is a frozen pydantic model derived from :class:`Recipe`, made of :class:`Section` models.
Shipped recipes live in the ``effcli.recipes`` package as ``<task>/<name>.yaml``. Every mistake in a file or
a ``--set`` is reported at once, with its place.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from effcli.core.errors import RecipeError, UsageError
from effcli.core.recipe_changes import Change, explanation, is_of_run, upgraded

R = TypeVar("R", bound="Section")
Key = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML in which on, off, yes, no, y and n are text, as dates are; a key that is true or false takes them."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if not tag.endswith(":timestamp") and (first in "tTfF" or not tag.endswith(":bool"))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """The content of YAML as recipes read it.

    Raises:
        yaml.YAMLError, ValueError: it is not YAML.
    """
    return yaml.load(text, Loader=_Loader)


class Section(BaseModel):
    """A group of settings: frozen, strict about unknown keys, numbers finite.

    Attributes:
        absent: keys that other methods of a task have, and why this one has not: what an error says of them.
    """

    absent: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _no_boolean_as_number(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        checked = check(value)
        if isinstance(value, bool) and not isinstance(checked, bool):
            raise ValueError(f"Input should be a number, not {str(value).lower()}")
        return checked


class Recipe(Section):
    """What every task's recipe has; tasks add their own sections."""

    task: str = Field(description="The command this recipe is for.")
    method: str = Field(description="The method.")
    seed: int = Field(0, ge=0, description="All randomness follows from this number.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of the heavy layers; auto uses bf16 where the hardware has it."
    )

    @property
    def named_code(self) -> tuple[str, str] | None:
        """The key, and its value, that names Python code to run: only a person may give it, never a file."""
        return None


@dataclass(frozen=True)
class Switch:
    """What a key is for each value of ``compat``; the default of the key is ``ours``."""

    paper: Any
    released: Any
    ours: Any


class CompatRecipe(Recipe):
    """A recipe of a method whose paper, released code and reading here differ in places.

    Attributes:
        switches: dotted key -> what it is under each ``compat``, where the recipe does not set it.
    """

    switches: ClassVar[Mapping[str, Switch]] = {}
    compat: Literal["paper", "released", "ours"] = Field(
        "ours",
        description="Which version the switches of the method follow where they are not set one by one. "
        "paper: the text of the paper; released: its authors' code; ours: what works best here. "
        "docs/methods lists the switches.",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_compat(cls, data: Any) -> Any:
        compat = data.get("compat", cls.model_fields["compat"].default) if isinstance(data, Mapping) else None
        if compat not in {"paper", "released", "ours"}:
            return data
        content = dict(data)
        for section in {key.partition(".")[0] for key in cls.switches if "." in key} - content.keys():
            content[section] = cls.model_fields[section].default
        for key, switch in cls.switches.items():
            _set_default(content, key.split("."), getattr(switch, compat))
        return content


def _set_default(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set what is not set, in mappings and in sections that are objects already."""
    *outer, last = path
    for part in outer:
        inner = data.get(part, {})
        if isinstance(inner, Section):
            if last not in inner.model_fields_set:
                data[part] = inner.model_copy(update={last: value})
            return
        if not isinstance(inner, Mapping):
            return  # a mistake, which the validation names
        data[part] = dict(inner)
        data = data[part]
    data.setdefault(last, value)


@dataclass(frozen=True)
class Override:
    """One setting given on the command line: the flag as typed, the key it stands for, the value."""

    flag: str
    key: str
    value: Any


def parse_set(text: str) -> Override:
    """Parse one ``--set key.sub=value``; the value is read as YAML.

    Raises:
        UsageError: no ``=``, an empty key, or a value that is not YAML.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UsageError("expected key=value", place=f"--set {text}")
    try:
        value = load_yaml(raw)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(
            "the value is not valid YAML", place=f"--set {text}", hint="quote it: key='\"value\"'"
        ) from None
    return Override(flag=f"--set {text}", key=key.strip(), value=value)


def load_recipe(
    model: type[R] | Callable[[Mapping[str, Any]], type[R]],
    text: str,
    place: str,
    overrides: Sequence[Override] = (),
    *,
    renamed: Sequence[Change] = (),
) -> R:
    """Validate ``text`` against ``model`` after applying ``overrides`` in order.

    The recipe that a run directory keeps may be one of version 0.1; in any other file, and in ``overrides``, the keys
    of that version are mistakes, and the message names the new one.

    Args:
        model: a recipe class, any other section that is a file of its own, or a function that chooses one by the
            content and raises a ValueError where the content names a method that is not there.
        text: YAML.
        place: the file name used in messages.
        overrides: settings from the command line; a later one wins.
        renamed: the keys that were called something else in version 0.1.

    Raises:
        RecipeError: all mistakes, one line each, as ``place:line: key: reason``.
    """
    data, lines = _parse(text, place)
    if not isinstance(data, dict):
        problem = "is empty" if data is None else "must be a mapping of keys to values"
        raise RecipeError(problem, place=place)
    places = {key: f"{place}:{line}" for key, line in lines.items()}
    if is_of_run(place):
        data = upgraded(data, renamed)
    mistakes = []
    for override in overrides:
        try:
            data = _set(data, override, places)
        except RecipeError as error:
            mistakes.append((str(error.place), error.message))
    try:
        chosen: type[R] = model if isinstance(model, type) else model(data)
    except ValueError as error:
        mistakes.append((places.get(("method",), place), f"method: {error}"))
        raise _all_mistakes(mistakes) from None
    try:
        recipe = chosen.model_validate(data)
    except ValidationError as error:
        method = data.get("method", chosen.model_fields["method"].default) if renamed else None
        mistakes += [_explain(chosen, item, place, places, method, renamed) for item in error.errors()]
    else:
        if not mistakes:
            return recipe
    raise _all_mistakes(mistakes)


def task_of(text: str, place: str) -> str:
    """The task that a recipe or claim file names.

    Raises:
        RecipeError: it is not YAML or has no ``task:``.
    """
    return kind_of(text, place)[0]


def kind_of(text: str, place: str, renamed: Sequence[Change] = ()) -> tuple[str, str | None]:
    """The task and the method that a recipe file names; ``renamed`` as in :func:`load_recipe`.

    Raises:
        RecipeError: it is not YAML or has no ``task:``.
    """
    content, _ = _parse(text, place)
    if not isinstance(content, dict) or not isinstance(content.get("task"), str):
        raise RecipeError(
            "has no 'task:' key",
            place=place,
            hint="add a line that says which command the file is for, such as: task: enhance",
        )
    method = (upgraded(content, renamed) if is_of_run(place) else content).get("method")
    return str(content["task"]), None if method is None else str(method)


def is_claim(text: str, place: str) -> bool:
    """Whether a file is a claim rather than a recipe.

    Raises:
        RecipeError: it is not YAML.
    """
    content, _ = _parse(text, place)
    return isinstance(content, dict) and "arms" in content


def dump_recipe(recipe: BaseModel, *, comments: bool = True) -> str:
    """Write a resolved recipe as YAML; with ``comments`` each key carries its description."""
    return "\n".join(_dump(recipe, comments, indent=0)) + "\n"


def difference(old: Recipe, new: Recipe) -> str | None:
    """Name the first key in which two recipes differ, as ``key: old -> new``; None when they agree."""
    before, after = dict(_flatten(old.model_dump(mode="json"))), dict(_flatten(new.model_dump(mode="json")))
    for key in [*before, *(k for k in after if k not in before)]:
        if key not in before or key not in after or before[key] != after[key]:
            return f"{'.'.join(key)}: {before.get(key)!r} -> {after.get(key)!r}"
    return None


def shipped_recipes(task: str, *, claims: bool = False) -> list[str]:
    """Names of the recipes (or claim files) shipped for ``task``, sorted, ``default`` first."""
    folder = _folder(task, claims)
    if not task or not folder.is_dir():
        return []
    names = [entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return sorted(names, key=lambda name: (name != "default", name))


def read_recipe(task: str, name_or_file: str) -> tuple[str, str]:
    """Find a recipe by shipped name or path and return ``(text, place)``.

    Raises:
        UsageError: neither a file nor a shipped name; the nearest name is the hint.
    """
    return _read_yaml(task, name_or_file, claims=False)


def read_claim(task: str, name_or_file: str) -> tuple[str, str]:
    """Find a claim file by shipped name or path and return ``(text, place)``."""
    return _read_yaml(task, name_or_file, claims=True)


def _folder(task: str, claims: bool) -> Traversable:
    folder = files("effcli.recipes") / task.replace("-", "_")
    return folder / "claims" if claims else folder


def _read_yaml(task: str, name_or_file: str, *, claims: bool) -> tuple[str, str]:
    what = "claim" if claims else "recipe"
    names = shipped_recipes(task, claims=claims)
    if name_or_file in names:
        text = (_folder(task, claims) / f"{name_or_file}.yaml").read_text(encoding="utf-8")
        inside = f"{task}/claims" if claims else task
        return text, f"recipes/{inside}/{name_or_file}.yaml"
    path = Path(name_or_file)
    if path.is_dir():
        path = path / "recipe.yaml"
        if claims or not path.is_file():
            raise UsageError(f"is a folder, not a {what}", place=name_or_file)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        near = get_close_matches(name_or_file, names, n=1)
        shipped = f"shipped: {', '.join(names) or 'none'}; or name a .yaml file"
        raise UsageError(
            f"no {what} {name_or_file!r}", hint=f"did you mean {near[0]!r}?" if near else shipped
        )
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError:
        raise UsageError("is not a text file in UTF-8", place=str(path)) from None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", place=str(path)) from None


def _parse(text: str, place: str) -> tuple[Any, dict[Key, int]]:
    """Read YAML; returns the content and the line of each key. Duplicate keys, which YAML takes, are refused."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        lines = dict(_key_lines(root, place))
        return load_yaml(text), lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}:{mark.line + 1}" if mark else place
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RecipeError(f"not valid YAML: {reason}", place=where) from None


def _key_lines(root: yaml.Node | None, place: str) -> Iterator[tuple[Key, int]]:
    """Yield each key path with its line; what an alias (``*name``) repeats is visited once."""
    waiting: list[tuple[Key, yaml.Node | None]] = [((), root)]
    visited: set[int] = set()
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, yaml.MappingNode) or id(node) in visited:
            continue
        visited.add(id(node))
        names: set[str] = set()
        for key_node, value_node in node.value:
            key, line = (*path, str(key_node.value)), key_node.start_mark.line + 1
            if key[-1] in names:
                raise RecipeError(f"{'.'.join(key)}: key given twice", place=f"{place}:{line}")
            names.add(key[-1])
            yield key, line
            waiting.append((key, value_node))


def _set(data: dict[str, Any], override: Override, places: dict[Key, str]) -> dict[str, Any]:
    """A copy of ``data`` with the override in it; ``places`` then says that its keys come from the flag.

    Raises:
        RecipeError: a part of the key before the last is a value.
    """
    key = tuple(override.key.split("."))
    changed = inner = dict(data)
    for depth, part in enumerate(key[:-1], 1):
        below = {} if inner.get(part) is None else inner[part]
        if not isinstance(below, dict):
            raise RecipeError(
                f"{override.key}: {'.'.join(key[:depth])!r} is not a section", place=override.flag
            )
        inner[part] = inner = dict(below)
        places.setdefault(key[:depth], override.flag)
    inner[key[-1]] = override.value
    for old in [old for old in places if old[: len(key)] == key]:
        del places[old]
    places[key] = override.flag
    return changed


def _all_mistakes(mistakes: Sequence[tuple[str, str]]) -> RecipeError:
    if len(mistakes) == 1:
        return RecipeError(mistakes[0][1], place=mistakes[0][0])
    return RecipeError("\n".join(f"{where}: {reason}" for where, reason in mistakes))


def _explain(
    model: type[Section],
    item: Any,
    place: str,
    places: Mapping[Key, str],
    method: Any,
    renamed: Sequence[Change],
) -> tuple[str, str]:
    """Where one of pydantic's errors is, and what it says in our words."""
    path: Key = tuple(str(part) for part in item["loc"])
    where = next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), place)
    key, value = ".".join(path) or "recipe", item["input"]
    if (reason := explanation(key, value, method, renamed)) is not None:
        return where, f"{key}: {reason}"
    if item["type"] == "extra_forbidden" and path[0] in model.absent.keys() - model.model_fields.keys():
        given = max((one for one in places if one[: len(path)] == path), key=len, default=path)
        return where, f"{'.'.join(given)}: not a setting of this method: {model.absent[path[0]]}"
    if item["type"] == "extra_forbidden":
        near = _nearest(path, list(_keys(model)))
        return where, f"{key}: unknown key" + (f", did you mean {near!r}?" if near else "")
    if item["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        return where, f"{key}: is a section; its keys go below it, indented"
    reason = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    if item["type"] not in {"value_error", "missing"} and isinstance(value, str | int | float | None):
        reason += f", not {yaml.safe_dump(value).splitlines()[0]}"
    return where, f"{key}: {reason}"


def _nearest(path: Key, known: Sequence[Key]) -> str | None:
    """The name that was meant: a similar one in the same section, or the same one in another section."""
    siblings = [key[-1] for key in known if key[:-1] == path[:-1]]
    near = get_close_matches(path[-1], siblings, n=1)
    elsewhere = [".".join(key) for key in known if key[-1] == path[-1]]
    return next(iter([*near, *elsewhere]), None)


def _keys(model: type[BaseModel], path: Key = ()) -> Iterator[Key]:
    """Every key of a model and of the sections in it."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        for section in _sections_in(field.annotation):
            yield from _keys(section, (*path, name))


def _sections_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections_in(inner)]


def _dump(section: BaseModel, comments: bool, indent: int) -> Iterator[str]:
    pad = " " * indent
    for name, field in type(section).model_fields.items():
        if comments and field.description:
            yield from textwrap.wrap(
                field.description, 100, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# "
            )
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield f"{pad}{name}:"
            yield from _dump(value, comments, indent + 2)
        else:
            yield f"{pad}{name}: {_one_line(section.model_dump(mode='json', include={name})[name])}"


def _one_line(plain: Any) -> str:
    """YAML of a plain value in one line; strings with line breaks need the quoted style for that."""
    for style in (None, '"'):
        text: str = yaml.safe_dump(
            plain, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True
        )
        text = text.removesuffix("\n...\n").removesuffix("\n")
        if len(text.splitlines()) == 1:
            break
    return text


def _flatten(data: Mapping[str, Any], path: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, (*path, name))
        else:
            yield (*path, name), value
