"""Claims: what a paper promises, as data that ``effcli verify`` tests on the machine at hand.

A claim file names a base recipe, arms (overrides of it), seeds and what is expected of the arms. Every arm and seed is
an ordinary run. An expectation *holds*, *does not hold*, or is *not decided* when the spread over the seeds is larger
than the distance from the expected difference.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from effcli.core.errors import InterruptedRunError, UsageError
from effcli.core.evidence.result import finite, numbers, read_result
from effcli.core.files import write_text
from effcli.core.machine import describe_machine
from effcli.core.recipe import Override, Recipe, Section, load_recipe, read_claim
from effcli.core.registry import find_recipe, get_task
from effcli.core.run import open_run
from effcli.core.runtime import Runtime, create_runtime

Verdict = Literal["holds", "does not hold", "not decided"]
ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # it names a folder


class Expectation(Section):
    """One sentence about the arms: exactly one of ``above``, ``above_metric`` and ``at_least`` is given."""

    arm: str = Field(description="The arm the sentence is about.")
    metric: str = Field(description="Its metric, dotted as in result.json.")
    above: str | None = Field(None, description="The arm it is compared with, seed by seed.")
    above_metric: str | None = Field(None, description="A metric of the same run it is compared with.")
    at_least: float | None = Field(None, description="A constant it is compared with.")
    by: float = Field(0.0, description="How much larger it is expected to be.")
    times: float = Field(1.0, gt=0, description="Factor on the compared value.")

    @model_validator(mode="after")
    def _one_reference(self) -> Expectation:
        if sum(value is not None for value in (self.above, self.above_metric, self.at_least)) != 1:
            raise ValueError("give one of above, above_metric and at_least")
        return self


class Claim(Section):
    """A claim file."""

    task: str = Field(description="The task whose recipe is the base.")
    title: str = Field(description="What is claimed, in one line.")
    source: str = Field(description="Where the paper says it, with its figure.")
    base: str = Field(description="The recipe all arms start from.")
    data: dict[str, str | list[str]] = Field(
        {}, description="Recipe key -> file name or names in the folder that --data gives."
    )
    overrides: dict[str, Any] = Field({}, description="Recipe key -> value, for all arms.")
    arms: dict[ArmName, dict[str, Any]] = Field(
        description="Arm -> recipe key -> value; the key recipe names another base for this arm, of another method."
    )
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="Seeds; each gives one run per arm.")
    expect: list[Expectation] = Field(min_length=1, description="What the claim says about the arms.")

    @model_validator(mode="after")
    def _arms_exist(self) -> Claim:
        for item in self.expect:
            for arm in (item.arm, item.above):
                if arm is not None and arm not in self.arms:
                    raise ValueError(f"expect names an arm that this claim does not have: {arm!r}")
        return self


@dataclass(frozen=True)
class Finding:
    """How one expectation came out: paired differences over the seeds."""

    expectation: str
    differences: list[float]
    mean: float
    spread: float | None
    verdict: Verdict


def names_a_file(name: str) -> bool:
    """Whether what a person typed for a claim is a path rather than the name of a shipped one."""
    return name.endswith((".yaml", ".yml"))


def load_claim(task: str, name_or_file: str) -> tuple[Claim, str]:
    """Read a claim by shipped name or path; returns it and its name, which is the path of a file as it was given.

    Raises:
        RecipeError: the file is not a claim; all mistakes at once.
    """
    text, place = read_claim(task, name_or_file)
    return load_recipe(Claim, text, place), name_or_file


def arm_recipe(claim: Claim, arm: str, seed: int, data: Path | None) -> Recipe:
    """The resolved recipe of one arm and seed.

    Raises:
        UsageError: the claim needs ``data`` and it is not given, or a file is not in it.
        RecipeError: the base and the overrides do not make a valid recipe.
    """
    overrides = [
        Override(f"claim data {key}", key, _in_folder(names, data)) for key, names in claim.data.items()
    ]
    settings = {**claim.overrides, **claim.arms[arm], "seed": seed}
    base = str(settings.pop("recipe", claim.base))
    overrides += [Override(f"arm {arm}", key, value) for key, value in settings.items()]
    return find_recipe(claim.task, base, overrides)


def verify(
    claim: Claim,
    name: str,
    *,
    output: Path,
    data: Path | None,
    seeds: Sequence[int] | None = None,
    device: str = "auto",
    threads: int | Literal["auto"] | None = None,
    show_progress: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run all arms and seeds that are not there yet and judge the expectations.

    Args:
        name: of a shipped claim, or the path of a claim file.
        output: folder for the runs (``<arm>-seed<n>``) and ``claim.json``, which a page of results is made of.
        data: folder that the claim's data files are in.
        seeds: use these instead of the claim's.
        announce: called with a line before each run.

    Returns:
        The content of ``claim.json``.

    Raises:
        UsageError: a mistake in the claim or its recipes, before anything runs; or a metric that the first run of
            an arm does not have.
    """
    used_seeds = list(dict.fromkeys(seeds or claim.seeds))
    recipes = {(arm, seed): arm_recipe(claim, arm, seed, data) for seed in used_seeds for arm in claim.arms}
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in claim.arms}
    for (arm, seed), recipe in recipes.items():
        runtime = create_runtime(device=device, precision=recipe.precision, seed=seed, threads=threads)
        path = output / f"{arm}-seed{seed}"
        if runtime.is_main and not (path / "result.json").exists():
            announce(f"{name}: {arm}, seed {seed}")
        result = _run_arm(path, recipe, runtime, f"{name}:{arm}", show_progress)
        _check_metrics(claim, arm, result)
        results[arm].append(result)
    content = summarise(claim, name, used_seeds, results)
    if runtime.is_main:
        write_text(output / "claim.json", json.dumps(content, indent=2) + "\n")
    return content


def _run_arm(path: Path, recipe: Recipe, runtime: Runtime, name: str, show_progress: bool) -> dict[str, Any]:
    """One run, unless it is there and finished."""
    task = get_task(recipe.task)
    try:
        with open_run(
            path,
            recipe,
            runtime,
            verb=task.method(recipe.method).verb,
            recipe_name=name,
            resume=True,
            show_progress=show_progress,
        ) as run:
            if not run.is_finished:
                plan = task.plan_function(recipe)(recipe)
                task.run_function(recipe)(recipe, plan.inputs, run)
            if run.stop_requested:
                raise InterruptedRunError("interrupted between two runs", place=str(path.parent))
    except InterruptedRunError as error:
        raise InterruptedRunError(
            error.message, place=error.place, hint="the same command continues from there"
        ) from None
    return runtime.on_main(lambda: read_result(path))


def _check_metrics(claim: Claim, arm: str, result: dict[str, Any]) -> None:
    """Look up what is expected of ``arm`` in its first result, not after the hours that all runs take."""
    for item in claim.expect:
        if item.arm == arm and item.above_metric is not None:
            metric_of(result, item.above_metric)
        if arm in (item.arm, item.above):
            metric_of(result, item.metric)


def summarise(
    claim: Claim, name: str, seeds: list[int], results: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Judge every expectation and collect the numbers of every arm."""
    findings = [judge(expectation, results) for expectation in claim.expect]
    table = {arm: _shared_numbers(rows) for arm, rows in results.items()}
    verdicts = {finding.verdict for finding in findings}
    verdict: Verdict = "holds"
    if "not decided" in verdicts:
        verdict = "not decided"
    if "does not hold" in verdicts:
        verdict = "does not hold"
    total_s = sum(row["timing"]["total_s"] for rows in results.values() for row in rows)
    environment = next(iter(results.values()))[0]["environment"]
    content: dict[str, Any] = finite(
        {
            "schema": 1,
            "claim": name,
            "task": claim.task,
            "title": claim.title,
            "source": claim.source,
            "data": sorted({str(file) for files in claim.data.values() for file in _listed(files)}),
            "seeds": seeds,
            "arms": table,
            "findings": [asdict(finding) for finding in findings],
            "verdict": verdict,
            "command": _command(claim, name),
            "timing": {"total_s": round(total_s, 1)},
            "machine": describe_machine(),
            "commit": _commits(results),
            "environment": {key: value for key, value in environment.items() if key != "seed"},
            "date": time.strftime("%Y-%m-%d"),
        }
    )
    return content


def judge(expectation: Expectation, results: dict[str, list[dict[str, Any]]]) -> Finding:
    """Compare seed by seed; see the module's first lines for the three verdicts."""
    rows = results[expectation.arm]
    own = [metric_of(row, expectation.metric) for row in rows]
    if expectation.above is not None:
        other = [metric_of(row, expectation.metric) for row in results[expectation.above]]
        reference = expectation.above
    elif expectation.above_metric is not None:
        other = [metric_of(row, expectation.above_metric) for row in rows]
        reference = expectation.above_metric
    else:
        other = [float(expectation.at_least or 0.0)] * len(rows)
        reference = f"{expectation.at_least:g}"
    differences = [a - expectation.times * b for a, b in zip(own, other, strict=True)]
    mean = statistics.fmean(differences)
    spread = statistics.stdev(differences) if len(differences) > 1 else None
    margin = mean - expectation.by
    verdict: Verdict = "not decided"
    if spread is not None and (abs(margin) > spread or spread == 0):
        reached = margin >= 0 if expectation.at_least is not None else margin > 0
        verdict = "holds" if reached else "does not hold"
    relation = "at least" if expectation.at_least is not None else "above"
    by = f" by {expectation.by:g}" if expectation.by else ""
    times = f"{expectation.times:g} times " if expectation.times != 1 else ""
    sentence = f"{expectation.arm}: {expectation.metric} {relation} {times}{reference}{by}"
    return Finding(sentence, differences, mean, spread, verdict)


def metric_of(result: dict[str, Any], dotted: str) -> float:
    """Look up ``a.b`` in a result's metrics.

    Raises:
        UsageError: there is no such number, or it was NaN or inf.
    """
    found = dict(numbers(result["metrics"]))
    if dotted not in found:
        near = get_close_matches(dotted, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"available: {', '.join(found)}"
        raise UsageError(
            f"no finite number {dotted!r} among the metrics", place=str(result["output"]), hint=hint
        )
    return found[dotted]


def _command(claim: Claim, name: str) -> str:
    """What to type for this claim; ``DIR`` is the folder with its data."""
    named = name if names_a_file(name) else f"{claim.task}/{name}"
    return f"effcli verify {named}{' --data DIR' if claim.data else ''}"


def _commits(results: dict[str, list[dict[str, Any]]]) -> str | None:
    """The commit that the runs were made with; all of them, where they differ."""
    found = {row["environment"].get("commit") for rows in results.values() for row in rows}
    return ", ".join(sorted(name or "unknown" for name in found)) if found != {None} else None


def _shared_numbers(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Every number that all runs of an arm have, in the order of the seeds."""
    found = [dict(numbers(row["metrics"])) for row in rows]
    return {name: [row[name] for row in found] for name in found[0] if all(name in row for row in found)}


def _in_folder(names: str | list[str], data: Path | None) -> str | list[str]:
    if data is None:
        raise UsageError(
            "this claim is measured on data that is not in the package",
            place="--data",
            hint=f"--data FOLDER with {', '.join(_listed(names))}",
        )
    folder = data.absolute()  # the run's recipe keeps it, so it must not depend on where the command is typed
    for name in _listed(names):
        if not (folder / name).exists():
            raise UsageError(f"has no {name}", place=f"--data {data}")
    return str(folder / names) if isinstance(names, str) else [str(folder / name) for name in names]


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names
