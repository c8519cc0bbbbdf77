"""The rules that keep the project a house, read from its syntax trees; and what asking for help costs."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import typer

from effcli.core.recipe import Override, shipped_recipes
from effcli.core.registry import TASKS, Task, find_recipe

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "effcli").rglob("*.py"))
COMMANDS = sorted((ROOT / "cli").rglob("*.py"))
ROOMS = {name.replace("-", "_") for name in TASKS}
SHARED = {"nn", "data", "metrics", "diffusion"}

MOST_FILES_IN_A_FOLDER = 16

# What a part may import of the library, beside itself. `doctor` looks at everything that it describes,
# `self_test` computes something of every task.
MAY_IMPORT = {
    "core": set(),
    **{name: {"core", *SHARED} for name in SHARED},
    **{name: {"core", *SHARED} for name in ROOMS},
    "doctor": {"core", "nn"},
    "self_test": {"core", *SHARED, *ROOMS},
    "assets": set(),
    "__main__": {"cli"},
    "__init__": set(),
}

# Where a device is named outside the runtime, and why.
NAMES_A_DEVICE = {
    "effcli/core/runtime.py": "decides devices",
    "effcli/nn/selective_scan.py": "chooses the fastest kernel for a device",
    "effcli/enhance/network/strips.py": "asks how much memory a device has free",
}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def part_of(file: Path) -> str:
    """``core`` for effcli/core/run.py, ``doctor`` for effcli/doctor.py."""
    first = file.relative_to(ROOT / "effcli").parts[0]
    return first.removesuffix(".py")


def imports_of(file: Path) -> Iterator[tuple[str, int]]:
    """Every module of effcli that is imported at any depth of the file, also for types only."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["effcli", *file.relative_to(ROOT / "effcli").parent.parts]
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def test_every_part_has_a_rule() -> None:
    assert {part_of(file) for file in LIBRARY} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("file", LIBRARY, ids=name_of)
def test_imports_go_one_way(file: Path) -> None:
    allowed = {part_of(file), "__version__", *MAY_IMPORT[part_of(file)]}
    wrong = [
        f"{name_of(file)}:{line}: {module}"
        for module, line in imports_of(file)
        if module.split(".")[0] == "effcli" and module.split(".")[1] not in allowed
    ]
    assert wrong == []


def test_the_import_rule_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "effcli" / "core").mkdir(parents=True)
    file = tmp_path / "effcli" / "core" / "x.py"
    file.write_text(
        "import effcli.a\nfrom effcli import b\n"
        "def f():\n    from effcli.c import d\n    from ..e import g\n    from . import h\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = [module for module, _ in imports_of(file)]
    assert sorted(found) == ["effcli.a", "effcli.b", "effcli.c.d", "effcli.core.h", "effcli.e.g"]


def tasks_that_reach(shared: set[str]) -> dict[str, set[str]]:
    """For each file of the shared rooms, the tasks that import it, themselves or through other shared files."""
    importers: dict[str, set[str]] = {}
    for file in LIBRARY:
        own = ".".join(file.relative_to(ROOT / "effcli").with_suffix("").parts)
        for module, _ in imports_of(file):
            for name in (module, module.rpartition(".")[0]):
                importers.setdefault(name.removeprefix("effcli."), set()).add(own)
    reached = {}
    for name in shared:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            new = importers.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += [one for one in new if one.split(".")[0] in SHARED]
        reached[name] = {one.split(".")[0] for one in seen} & ROOMS
    return reached


def test_shared_rooms_hold_what_two_tasks_import() -> None:
    """``nn`` is apart: operators that stand alone and know no task."""
    shared = {
        ".".join(file.relative_to(ROOT / "effcli").with_suffix("").parts)
        for file in LIBRARY
        if part_of(file) in SHARED - {"nn"} and file.name != "__init__.py"
    }
    alone = {name: tasks for name, tasks in tasks_that_reach(shared).items() if len(tasks) < 2}
    assert alone == {}


# Who opens image files with Pillow: everything else goes through `effcli.data.images`.
OPENS_PICTURES = {"effcli/data/image_opening.py", "effcli/data/image_codecs.py"}


def test_pictures_are_opened_in_one_place() -> None:
    found = {
        name_of(file)
        for file in [*LIBRARY, *COMMANDS]
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute)
        and node.attr == "open"
        and ast.unparse(node.value).endswith("Image")
    }
    assert found == OPENS_PICTURES


@pytest.mark.parametrize("folder", sorted({file.parent for file in [*LIBRARY, *COMMANDS]}), ids=name_of)
def test_rooms_are_small(folder: Path) -> None:
    assert sum(1 for file in folder.glob("*.py") if file.name != "__init__.py") <= MOST_FILES_IN_A_FOLDER


def test_core_knows_tasks_and_methods_by_the_registry_alone() -> None:
    names = {*TASKS, *(method.name for task in TASKS.values() for method in task.methods)}
    found = [
        f"{name_of(file)}:{node.lineno}: {node.value}"
        for file in sorted((ROOT / "effcli" / "core").rglob("*.py"))
        if file.name != "registry.py"
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert found == []


# What the module of a method has, by task and verb: the Protocol in the task's pipeline. Methods with a pipeline of
# their own are not chosen from others there.
METHOD_PROTOCOLS = {
    ("enhance", "train"): "EnhanceMethod",
    ("quantize", "run"): "QuantizeMethod",
    ("distill", "run"): "DistillMethod",
    ("distill", "train"): "TrainedMethod",
    ("continual", "run"): "ContinualMethod",
    ("detect-stream", "train"): "StreamMethod",
    ("rl-distill", "run"): "RlMethod",
}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_method_has_its_recipe_and_the_functions_that_its_task_asks_for(task: Task) -> None:
    for method in task.methods:
        pipeline = importlib.import_module(task.pipeline(method.name))
        functions = []
        if method.pipeline is None:
            functions = getattr(pipeline, METHOD_PROTOCOLS[task.name, method.verb]).__annotations__
        recipe = task.recipe_class({"method": method.name})
        assert method.name in get_args(recipe.model_fields["method"].annotation)
        assert task.name in get_args(recipe.model_fields["task"].annotation)
        module = importlib.import_module(method.module)
        assert [name for name in functions if not callable(getattr(module, name, None))] == []
        for name in (method.verb, f"plan_{method.verb}"):
            assert callable(getattr(pipeline, name.replace("-", "_"))), name


def test_every_method_has_a_shipped_recipe_or_takes_the_default_one() -> None:
    for task in TASKS.values():
        shipped = {find_recipe(task.name, name).method for name in shipped_recipes(task.name)}
        for method in {method.name for method in task.methods} - shipped:
            assert find_recipe(task.name, "default", [Override("", "method", method)]).method == method


@pytest.mark.parametrize("file", LIBRARY, ids=name_of)
def test_devices_are_named_in_the_runtime_only(file: Path) -> None:
    if name_of(file) in NAMES_A_DEVICE:
        return
    found = []
    for node in ast.walk(tree_of(file)):
        text = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", "")
        if isinstance(text, str) and text.split(":")[0] in {"cuda", "mps"}:
            found.append(f"{name_of(file)}:{node.lineno}")  # type: ignore[attr-defined]
    assert found == []


def test_no_exception_to_the_device_rule_is_stale() -> None:
    for name in NAMES_A_DEVICE:
        assert "cuda" in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("file", LIBRARY, ids=name_of)
def test_the_library_does_not_print_or_leave_or_read_the_command_line(file: Path) -> None:
    found = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            is_wrong = node.func.id in {"print", "exit", "quit", "input", "eval", "exec"}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            is_wrong = (node.value.id, node.attr) in {("sys", "exit"), ("sys", "argv")}
        else:
            is_wrong = isinstance(node, ast.Name) and node.id == "SystemExit"
        if is_wrong:
            found.append(f"{name_of(file)}:{getattr(node, 'lineno', 0)}")
    assert found == []


# --- help ---------------------------------------------------------------------------------------------

HELP = """
import contextlib, importlib, io, json, sys
sys.argv = ["effcli"]
from effcli.cli.main import _Root, app, main

HEAVY = {"torch", "numpy", "diffusers", "PIL", "yaml", "gymnasium", "accelerate", "matplotlib", "numba"}

def ask(*path):
    sys.argv, out = ["effcli", *path, "--help"], io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, (path, stop.code)
    assert "Usage: effcli" in out.getvalue(), path
    return sorted((HEAVY | {"pydantic"} if not path else HEAVY) & sys.modules.keys())

import typer
found = {"": ask()}
for name, (module, _) in _Root.table.items():
    found[name] = ask(name)
    command = typer.main.get_command(importlib.import_module(module).app)
    for verb in getattr(command, "commands", {}):
        found[f"{name} {verb}"] = ask(name, verb)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HELP)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"", "recipes ls", "enhance run", "enhance train", "verify", *TASKS} <= found.keys()
    assert {command: modules for command, modules in found.items() if modules} == {}


def test_recipe_files_import_no_torch() -> None:
    """A recipe class that stands in its method's module, as a small one may, costs torch's second and a half."""
    script = """
import sys
import yaml
from effcli.core.recipe import read_recipe, shipped_recipes
from effcli.core.registry import TASKS, find_recipe
for task in TASKS:
    room = "effcli." + task.replace("-", "_")
    for name in shipped_recipes(task):
        method = yaml.safe_load(read_recipe(task, name)[0])["method"]
        if TASKS[task].method(method).recipe.startswith((f"{room}.recipe:", f"{room}.recipes.")):
            find_recipe(task, name)
assert not {"torch", "numpy", "diffusers"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("effcli en", "enhance"),
        ("effcli enhance --st", "--strength"),
        ("effcli enhance a.png --st", "--strength"),
        ("effcli quantize tr", ""),
        ("effcli quantize ev", "eval"),
        ("effcli quantize run --alloc k", "kurtosis"),
    ],
)
def test_completion(words: str, expected: str) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    environment = {**os.environ, "_EFFCLI_COMPLETE": "complete_bash", **asked}
    command = [Path(sys.executable).with_name("effcli")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == expected.split()


# --- sizes --------------------------------------------------------------------------------------------

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 40  # docstring and signature not counted

# What is longer, and why it stays so.
LONGER = {
    "effcli/core/recipe.py": "what a recipe is, its file and its mistakes belong together",
    "effcli/core/run.py": "one class, the run, whose parts share its state",
    "effcli/detect_stream/data/drive_renderer.py:_cast": "a compiled kernel: one pass over pixels shares its values",
    "effcli/detect_stream/data/town/rasteriser.py:_fill": "a compiled kernel: the steps of a triangle share its planes",
    "effcli/nn/compiled/selective_scan.py:_backward_unit": "a compiled kernel: its blocks share the scan's state",
}


def longer_than_allowed() -> dict[str, int]:
    """Files, and functions as ``file:name``, with their lines."""
    found = {}
    for file in [*LIBRARY, *COMMANDS]:
        n_lines = len(file.read_text(encoding="utf-8").splitlines())
        if n_lines > MOST_LINES_OF_A_FILE:
            found[name_of(file)] = n_lines
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef) and _body_lines(node) > MOST_LINES_OF_A_FUNCTION:
                found[f"{name_of(file)}:{node.name}"] = _body_lines(node)
    return found


def test_files_and_functions_are_short() -> None:
    assert {name: n for name, n in longer_than_allowed().items() if name not in LONGER} == {}


def _body_lines(node: ast.FunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_class_names_are_given_once() -> None:
    """A reader who greps for a class finds one definition."""
    places: dict[str, list[str]] = {}
    for file in LIBRARY:
        for node in tree_of(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(file))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_choices_of_the_option_method_are_the_methods(task: Task) -> None:
    """A method that the registry has and the command line refuses could be chosen by its recipe alone."""
    group = typer.main.get_command(importlib.import_module(task.cli).app)
    for verb in {method.verb for method in task.methods}:
        command = group.commands[verb]  # type: ignore[attr-defined]
        options = {option.name: option for option in command.params}
        if "method" not in options:
            assert [method.verb for method in task.methods].count(verb) == 1, f"{task.name} {verb}"
            continue
        choices = set(get_args(options["method"].type_descriptor.annotation))
        methods = {method.name for method in task.methods if method.verb == verb}
        assert methods <= choices, f"{task.name} {verb}"
        assert {name.removeprefix("clfd-") for name in choices} == methods, f"{task.name} {verb}"
