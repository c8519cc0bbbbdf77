"""What `effcli enhance run` does between its options and its output."""

from __future__ import annotations

import time
from typing import Any

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

from .output import configure_logging, print_error, print_plan, print_result
from .session import CommonOptions, resolve_recipe, runtime_for


def enhance_run(
    inputs: list[str],
    output: str | None,
    options: CommonOptions,
    shorthands: dict[str, tuple[str, Any]],
    *,
    force: bool,
    format: str | None,
    quality: int,
) -> int:
    """Plan, enhance, print; returns the exit code."""
    configure_logging(quiet=options.quiet, verbose=options.verbose)
    started = time.perf_counter()
    recipe: Any = resolve_recipe("enhance", options, shorthands)
    from effcli.enhance.files import plan_outputs

    plan = plan_outputs(inputs, output, force=force, skip_existing=options.resume, format=format)
    if options.dry_run:
        from effcli.core.recipe import dump_recipe

        moves = {str(job.source or "-"): str(job.destination or "-") for job in plan.jobs}
        problems = {
            f"problem {number}": str(failure.error) for number, failure in enumerate(plan.failures, 1)
        }
        print_plan(dump_recipe(recipe), {**moves, **problems}, as_json=options.as_json)
        return EXIT_DONE
    to_stdout = any(job.destination is None for job in plan.jobs)
    if to_stdout and options.as_json:
        raise UsageError("--json and a picture cannot both go to stdout", place="-o -")
    if not plan.jobs and plan.failures:
        raise _all_failed([failure.error for failure in plan.failures])
    from effcli.enhance.batch import enhance_files
    from effcli.enhance.enhancer import Enhancer

    runtime = runtime_for(recipe, options)
    enhancer = Enhancer(
        recipe.weights, runtime=runtime, strength=recipe.strength, max_memory_mb=recipe.max_memory_mb
    )
    outcome = enhance_files(plan, enhancer, quality=quality, show_progress=not options.quiet)
    failures = [*((failure.error for failure in plan.failures) if runtime.is_main else ()), *outcome.failures]
    if not outcome.done and not outcome.interrupted and failures and runtime.world == 1:
        raise _all_failed(failures)
    for failure in failures:
        print_error(failure)
    result = {
        "schema": 1,
        "task": "enhance",
        "verb": "run",
        "method": recipe.method,
        "recipe": options.recipe,
        "output": output or "",
        "metrics": outcome.metrics(n_failed=len(failures), n_skipped=len(plan.skipped)),
        "timing": {"total_s": round(time.perf_counter() - started, 3)},
        "environment": runtime.describe(),
        "interrupted": outcome.interrupted,
        "files": outcome.done,
        "failures": [{"code": f.code, "place": f.place, "message": f.message} for f in failures],
    }
    if not to_stdout:
        print_result(result, [entry["output"] for entry in outcome.done], as_json=options.as_json)
    if outcome.interrupted:
        n_left = len(plan.jobs) - len(outcome.done) - len(outcome.failures)
        hint = "the same command with --resume leaves out what is done"
        print_error(
            InterruptedRunError(
                f"interrupted: {n_left} of {len(plan.jobs)} pictures were not started", hint=hint
            )
        )
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
    return kind("\n".join(str(failure) for failure in failures), hint=hint)
