"""`effcli enhance run` between its plan and its output: enhance, print, decide the exit code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effcli.core.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    EffcliError,
    InterruptedRunError,
    RunError,
    UsageError,
)
from effcli.core.text import printable

from .common.options import RecipeOptions
from .common.output import is_main_process, print_error, print_plan, print_result
from .common.session import runtime_for

if TYPE_CHECKING:
    from effcli.core.recipe import Recipe
    from effcli.core.runtime import Runtime
    from effcli.enhance.files.batch import Outcome
    from effcli.enhance.files.output_plan import OutputPlan
    from effcli.enhance.recipe import EnhanceRecipe


def print_file_plan(recipe: Recipe, plan: OutputPlan, *, as_json: bool) -> None:
    """Print what ``--dry-run`` found: the output of each input, and inputs that cannot be enhanced."""
    moves = {str(job.source or "-"): str(job.destination or "-") for job in plan.jobs}
    problems = [str(failure.error) for failure in plan.failures]
    if as_json:
        files = [{"input": source, "output": destination} for source, destination in moves.items()]
        print_plan(
            recipe, {"files": files, "problems": problems, "left_out": dict(plan.left_out)}, as_json=True
        )
        return
    numbered = {f"problem {number}": problem for number, problem in enumerate(problems, 1)}
    print_plan(recipe, {**moves, **numbered}, as_json=False)


@dataclass(frozen=True)
class Writing:
    """What is written and how.

    Attributes:
        output: what ``--output`` names; empty where it is not given.
        quality: of JPEG and lossy WebP, 1..100.
        keep_times: give each output the times of its input.
        gallery: the page to write.
    """

    output: str = ""
    quality: int = 95
    keep_times: bool = False
    gallery: Path | None = None


def enhance_run(recipe: EnhanceRecipe, plan: OutputPlan, options: RecipeOptions, writing: Writing) -> int:
    """Enhance what is planned and print the outputs; returns the exit code."""
    to_stdout = any(job.destination is None for job in plan.jobs)
    _check(plan, options, writing, to_stdout)
    from effcli.enhance.files.batch import enhance_files
    from effcli.enhance.files.gallery import BatchFacts, open_gallery
    from effcli.enhance.pipeline import open_enhancer

    started = time.perf_counter()
    runtime = runtime_for(options, recipe)
    enhancer = open_enhancer(recipe, runtime)
    gallery = open_gallery(writing.gallery, plan) if writing.gallery else None
    outcome = enhance_files(
        plan,
        enhancer,
        quality=writing.quality,
        keep_times=writing.keep_times,
        gallery=gallery,
        show_progress=not options.quiet,
    )
    failures = [*(failure.error for failure in plan.failures), *outcome.failures]
    if not outcome.done and not outcome.interrupted and failures:
        raise _all_failed(failures)
    if is_main_process():
        for failure in failures:
            print_error(failure)
    if gallery is not None:
        n_planned = len(plan.jobs) + len(plan.skipped) + len(plan.failures)
        gallery.write(runtime, BatchFacts(n_planned, failures, outcome.interrupted))
    if not to_stdout:
        total_s = time.perf_counter() - started
        content = _result(recipe, plan, options, writing, outcome, failures, runtime, total_s)
        made = [entry["output"] for entry in outcome.done] + ([str(writing.gallery)] if gallery else [])
        print_result(content, made, as_json=options.as_json)
    return _exit_code(plan, outcome, failures)


def _check(plan: OutputPlan, options: RecipeOptions, writing: Writing, to_stdout: bool) -> None:
    """Refuse what cannot go together, and a batch of which nothing can be done."""
    if to_stdout and options.as_json:
        raise UsageError("--json and a picture cannot both go to stdout", place="-o -")
    if writing.keep_times and (to_stdout or any(job.source is None for job in plan.jobs)):
        raise UsageError("standard input and output have no times to keep", place="--keep-times")
    if not plan.jobs and plan.failures:
        raise _all_failed([failure.error for failure in plan.failures])


def _result(
    recipe: EnhanceRecipe,
    plan: OutputPlan,
    options: RecipeOptions,
    writing: Writing,
    outcome: Outcome,
    failures: list[EffcliError],
    runtime: Runtime,
    total_s: float,
) -> dict[str, object]:
    from effcli.core.evidence.result import result_of_verb

    result = result_of_verb(
        recipe.task,
        "run",
        recipe.method,
        recipe=options.recipe,
        output=writing.output,
        metrics=outcome.metrics(n_failed=len(failures), n_skipped=len(plan.skipped)),
        runtime=runtime,
        total_s=total_s,
    )
    return {
        **result.to_json(),
        "interrupted": outcome.interrupted,
        "files": outcome.done,
        "left_out": dict(plan.left_out),
        "failures": [{"code": f.code, "place": f.place, "message": f.message} for f in failures],
        **({"gallery": str(writing.gallery)} if writing.gallery else {}),
    }


def _exit_code(plan: OutputPlan, outcome: Outcome, failures: list[EffcliError]) -> int:
    if outcome.interrupted:
        n_left = len(plan.jobs) - len(outcome.done) - len(outcome.failures)
        message = f"interrupted: {n_left} of {len(plan.jobs)} pictures were not started"
        hint = "the same command with --resume skips what is done"
        if is_main_process():
            print_error(InterruptedRunError(message, hint=hint))
        return EXIT_INTERRUPTED
    if not failures:
        return EXIT_DONE
    return EXIT_PARTIAL if outcome.done else EXIT_FAILED


def _all_failed(failures: list[EffcliError]) -> EffcliError:
    """One error for all inputs: wrong input, unless something failed that is not the input's fault."""
    if len(failures) == 1:
        return failures[0]
    kind = UsageError if all(isinstance(failure, UsageError) for failure in failures) else RunError
    hints = list(dict.fromkeys(failure.hint for failure in failures if failure.hint))
    hint = "none of the inputs can be used" if not hints else "; ".join(hints[:2])
    error = kind("\n".join(printable(str(failure)) for failure in failures), hint=hint)
    error.is_list = True
    return error
