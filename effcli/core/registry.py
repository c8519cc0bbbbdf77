"""The one table that names tasks and methods. Nothing here is imported until it is used.

Where a task's parts are follows from its name: ``detect-stream`` has its verbs in ``effcli.cli.detect_stream`` and its
steps in ``effcli.detect_stream.pipeline``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effcli.core.errors import InputError, UsageError

if TYPE_CHECKING:
    from effcli.core.evidence.result import Result
    from effcli.core.plan import Plan
    from effcli.core.recipe import Override, Recipe
    from effcli.core.recipe_changes import Change


@dataclass(frozen=True)
class Method:
    """A method of a task: the value of the recipe key ``method``.

    Attributes:
        name: as recipes write it.
        module: where the functions are that the task's pipeline calls.
        recipe: its recipe class, as ``module:class``.
        verb: the verb that fills a run directory with it.
        pipeline: the module with the functions of its verb, where that is not the task's own.
    """

    name: str
    module: str
    recipe: str
    verb: str = "run"
    pipeline: str | None = None


@dataclass(frozen=True)
class Task:
    """A command.

    Attributes:
        name: what a person types.
        summary: one line for ``effcli --help``.
        methods: the first is meant where a recipe names none.
    """

    name: str
    summary: str
    methods: tuple[Method, ...]

    @property
    def cli(self) -> str:
        """The module with the Typer ``app`` of the task's verbs."""
        return f"effcli.cli.{self._room}"

    @property
    def recipe_module(self) -> str:
        """The module with what the recipes of the task's methods share, and the keys that were renamed."""
        return f"effcli.{self._room}.recipe"

    def method(self, name: str) -> Method:
        """The row of a method.

        Raises:
            ValueError: the task has no such method; the message names the nearest.
        """
        names = [method.name for method in self.methods]
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"available: {', '.join(names)}"
            raise ValueError(f"no method {name!r}, {hint}")
        return self.methods[names.index(name)]

    def recipe_class(self, content: Mapping[str, Any]) -> type[Recipe]:
        """The class of the recipe that a file with this content is.

        Raises:
            ValueError: it names a method that the task does not have.
        """
        module, _, name = self.method(content.get("method", self.methods[0].name)).recipe.partition(":")
        found: type[Recipe] = getattr(import_module(module), name)
        return found

    def plan_function(self, recipe: Recipe) -> Callable[[Any], Plan[Any]]:
        """The pipeline's function that loads and checks everything: ``plan_run(recipe)``, ``plan_train(recipe)``."""
        found: Callable[[Any], Plan[Any]] = self._in_pipeline(recipe, "plan_{}")
        return found

    def run_function(self, recipe: Recipe) -> Callable[..., Result]:
        """The pipeline's function that fills a run directory: ``run(recipe, inputs, run)`` with the plan's inputs."""
        found: Callable[..., Result] = self._in_pipeline(recipe, "{}")
        return found

    def pipeline(self, method: str) -> str:
        """The module with the functions of a method's verb."""
        return self.method(method).pipeline or f"effcli.{self._room}.pipeline"

    def _in_pipeline(self, recipe: Recipe, function: str) -> Any:
        verb = self.method(recipe.method).verb.replace("-", "_")
        return getattr(import_module(self.pipeline(recipe.method)), function.format(verb))

    @property
    def _room(self) -> str:
        return self.name.replace("-", "_")


_ENHANCE, _QUANTIZE, _DISTILL = "effcli.enhance", "effcli.quantize", "effcli.distill"
_CONTINUAL, _EGOR = "effcli.continual", "effcli.continual.egor"
_RL, _STREAM = "effcli.rl_distill", "effcli.detect_stream"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "enhance",
            "Brighten dark photos (WalMaFa).",
            (
                Method("walmafa", f"{_ENHANCE}.walmafa", f"{_ENHANCE}.recipe:WalMaFaRecipe", verb="train"),
                # one row per method
            ),
        ),
        Task(
            "quantize",
            "Make a diffusion model small and fast (MPQ-DM).",
            (
                Method("mpq-dm", f"{_QUANTIZE}.mpq_dm", f"{_QUANTIZE}.recipe:MpqDmRecipe"),
                # one row per method
            ),
        ),
        Task(
            "distill",
            "Few-step students of a diffusion model (RDD), small CLIP models (CLIP-KD).",
            (
                Method("rdd", f"{_DISTILL}.rdd", f"{_DISTILL}.recipe:RddRecipe"),
                Method("rcfd", f"{_DISTILL}.rcfd", f"{_DISTILL}.recipe:RcfdRecipe"),
                Method("pd", f"{_DISTILL}.pd", f"{_DISTILL}.recipe:PdRecipe"),
                Method("cd", f"{_DISTILL}.any_steps.consistency", f"{_DISTILL}.any_steps.recipe:CdRecipe"),
                Method(
                    "shortcut",
                    f"{_DISTILL}.any_steps.shortcut",
                    f"{_DISTILL}.any_steps.recipe:ShortcutRecipe",
                ),
                Method("clip-kd", f"{_DISTILL}.clip_kd.pipeline", f"{_DISTILL}.clip_kd.recipe:ClipKdRecipe"),
                Method(
                    "reinforce",
                    f"{_DISTILL}.clip_kd.reinforced.pipeline",
                    f"{_DISTILL}.clip_kd.recipe:ReinforceRecipe",
                    verb="reinforce",
                    pipeline=f"{_DISTILL}.clip_kd.reinforced.pipeline",
                ),
                Method(
                    "teacher", f"{_DISTILL}.trained.teacher", f"{_DISTILL}.recipe:TeacherRecipe", verb="train"
                ),
                Method(
                    "classifier",
                    f"{_DISTILL}.trained.classifier",
                    f"{_DISTILL}.recipe:ClassifierRecipe",
                    verb="train",
                ),
                Method(
                    "lit",
                    f"{_DISTILL}.clip_kd.locked_image",
                    f"{_DISTILL}.clip_kd.recipe:LockedImageRecipe",
                    verb="train",
                ),
            ),
        ),
        Task(
            "continual",
            "Learn new classes without forgetting the old (CLFD, E2Net, IR; EGOR for detectors).",
            (
                Method("clfd", f"{_CONTINUAL}.methods.er", f"{_CONTINUAL}.recipes.rehearsal:ClfdRecipe"),
                Method("er", f"{_CONTINUAL}.methods.er", f"{_CONTINUAL}.recipes.rehearsal:ErRecipe"),
                Method("derpp", f"{_CONTINUAL}.methods.derpp", f"{_CONTINUAL}.recipes.rehearsal:DerppRecipe"),
                Method(
                    "er-ace", f"{_CONTINUAL}.methods.er_ace", f"{_CONTINUAL}.recipes.rehearsal:ErAceRecipe"
                ),
                Method(
                    "cls-er", f"{_CONTINUAL}.methods.cls_er", f"{_CONTINUAL}.recipes.rehearsal:ClsErRecipe"
                ),
                Method("e2net", f"{_CONTINUAL}.methods.e2net", f"{_CONTINUAL}.recipes.e2net:E2NetRecipe"),
                Method("ir", f"{_CONTINUAL}.methods.ir", f"{_CONTINUAL}.recipes.prototypes:IrRecipe"),
                Method(
                    "frozen-ncm",
                    f"{_CONTINUAL}.methods.frozen_ncm",
                    f"{_CONTINUAL}.recipes.prototypes:FrozenNcmRecipe",
                ),
                Method("ncm", f"{_CONTINUAL}.methods.frozen.ncm", f"{_CONTINUAL}.recipes.features:NcmRecipe"),
                Method(
                    "ranpac",
                    f"{_CONTINUAL}.methods.frozen.ranpac",
                    f"{_CONTINUAL}.recipes.features:RanpacRecipe",
                ),
                Method(
                    "lwf", f"{_CONTINUAL}.methods.baselines.lwf", f"{_CONTINUAL}.recipes.baselines:LwfRecipe"
                ),
                Method(
                    "ewc", f"{_CONTINUAL}.methods.baselines.ewc", f"{_CONTINUAL}.recipes.baselines:EwcRecipe"
                ),
                Method(
                    "icarl",
                    f"{_CONTINUAL}.methods.baselines.icarl",
                    f"{_CONTINUAL}.recipes.baselines:IcarlRecipe",
                ),
                Method(
                    "wa", f"{_CONTINUAL}.methods.baselines.wa", f"{_CONTINUAL}.recipes.baselines:WaRecipe"
                ),
                Method(
                    "slca",
                    f"{_CONTINUAL}.methods.pretrained.slca",
                    f"{_CONTINUAL}.recipes.pretrained:SlcaRecipe",
                ),
                Method(
                    "ease",
                    f"{_CONTINUAL}.methods.pretrained.ease",
                    f"{_CONTINUAL}.recipes.pretrained:EaseRecipe",
                ),
                Method("sgd", f"{_CONTINUAL}.methods.sgd", f"{_CONTINUAL}.recipe:SgdRecipe"),
                Method("joint", f"{_CONTINUAL}.methods.sgd", f"{_CONTINUAL}.recipe:JointRecipe"),
                Method(
                    "egor",
                    f"{_EGOR}.egor",
                    f"{_EGOR}.recipe:EgorRecipe",
                    pipeline=f"{_EGOR}.pipeline",
                ),
                Method(
                    "branch",
                    f"{_EGOR}.detectors.branched",
                    f"{_EGOR}.recipe:BranchRecipe",
                    pipeline=f"{_EGOR}.branching",
                ),
                Method(
                    "detector",
                    f"{_EGOR}.detectors.gfl",
                    f"{_EGOR}.recipe:DetectorRecipe",
                    verb="train-detector",
                    pipeline=f"{_EGOR}.pipeline",
                ),
            ),
        ),
        Task(
            "detect-stream",
            "3D boxes from a stereo stream, correct when you receive them (StreamDSGN).",
            (
                Method(
                    "streamdsgn",
                    f"{_STREAM}.network.streamdsgn",
                    f"{_STREAM}.recipe:StreamDsgnRecipe",
                    verb="train",
                ),
            ),
        ),
        Task(
            "rl-distill",
            "Train a group of policies that teach each other (OPD-DA).",
            (
                Method("opd-da", f"{_RL}.ppo", f"{_RL}.recipe:OpdDaRecipe"),
                Method("opd-da-dqn", f"{_RL}.dqn", f"{_RL}.recipe:OpdDaDqnRecipe"),
                Method("ppo", f"{_RL}.ppo", f"{_RL}.recipe:PpoRecipe"),
                Method("dqn", f"{_RL}.dqn", f"{_RL}.recipe:DqnRecipe"),
            ),
        ),
    )
}


def get_task(name: str) -> Task:
    """Return the task called ``name``.

    Raises:
        UsageError: there is no such task; the nearest name is the hint.
    """
    if name in TASKS:
        return TASKS[name]
    near = get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"tasks: {', '.join(TASKS)}"
    raise UsageError(f"no task {name!r}", hint=hint)


def find_recipe(task: str, name_or_file: str, overrides: Sequence[Override] = ()) -> Recipe:
    """Read a task's recipe by shipped name or path and resolve it.

    Raises:
        UsageError: the task or recipe is unknown, or a file names code that no option names.
        RecipeError: the recipe or an override is wrong; all mistakes at once.
    """
    from effcli.core.recipe import load_recipe, read_recipe

    entry = get_task(task)
    text, place = read_recipe(task, name_or_file)
    recipe = load_recipe(entry.recipe_class, text, place, overrides, renamed=renamed_keys(task))
    _check_named_code(recipe, overrides, place)
    return recipe


def _check_named_code(recipe: Recipe, overrides: Sequence[Override], place: str) -> None:
    """A file, which may come from anybody, runs no code; an option of the command line may."""
    if recipe.named_code is None:
        return
    key, value = recipe.named_code
    typed = [one.key for one in overrides if one.flag.startswith("--")]
    if not any(key == one or key.startswith(f"{one}.") for one in typed):
        raise UsageError(
            f"{key}: names Python code, {value!r}, which is not run because a file says so",
            place=place,
            hint=f"if you trust this code, add -s {key}={value}",
        )


def renamed_keys(task: str) -> Sequence[Change]:
    """The recipe keys of a task that were called something else in version 0.1; none of an unknown task."""
    if task not in TASKS:
        return ()
    found: Sequence[Change] = getattr(import_module(TASKS[task].recipe_module), "RENAMED", ())
    return found


def recipe_of_run(task: str, run: str | Path) -> Recipe:
    """The recipe of a task's run directory.

    Raises:
        InputError: it is none.
    """
    if not (Path(run) / "recipe.yaml").is_file():
        raise InputError("not a run directory", place=str(run), hint=f"name a run of `effcli {task}`")
    return find_recipe(task, str(run))


def load_method(recipe: Recipe) -> Any:
    """The module with the functions of the recipe's method; what they are, the task's pipeline says."""
    return method_module(recipe.task, recipe.method)


def method_module(task: str, method: str) -> Any:
    """The module of a method by name.

    Raises:
        ValueError: the task has no such method; the message names the nearest.
    """
    return import_module(get_task(task).method(method).module)
