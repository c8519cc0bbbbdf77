"""`effcli enhance run` on videos: plan, enhance, print, decide the exit code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effcli.core.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    EffcliError,
    InterruptedRunError,
    UsageError,
)

from ..common.options import RecipeOptions
from ..common.output import is_main_process, print_error, print_result
from ..common.session import runtime_for
from .run import all_failed, print_file_plan

if TYPE_CHECKING:
    from effcli.core.runtime import Runtime
    from effcli.enhance.files.jobs import OutputPlan
    from effcli.enhance.recipe import EnhanceRecipe
    from effcli.enhance.video.videos import VideoOutcome


@dataclass(frozen=True)
class VideoWriting:
    """What is written and how.

    Attributes:
        output: what ``--output`` names; None where it is not given.
        quality: of the encoding, 1..100.
        keep_times: give each output the times of its input.
        resume: skip outputs that are there, and continue unfinished ones.
        force: overwrite existing outputs, and begin unfinished ones anew.
        dry_run: print the plan alone.
    """

    output: str | None
    quality: int
    keep_times: bool
    resume: bool
    force: bool
    dry_run: bool


def video_run(
    recipe: EnhanceRecipe,
    inputs: list[str],
    options: RecipeOptions,
    writing: VideoWriting,
    for_pictures: dict[str, object],
) -> int:
    """Enhance videos and print the outputs; returns the exit code.

    Args:
        recipe: the settings.
        inputs: names of files.
        options: as they were given.
        writing: likewise.
        for_pictures: options of pictures alone, which are refused if they were given.
    """
    from effcli.enhance.video.plan import plan_videos

    for name, value in for_pictures.items():
        if value is not None:
            raise UsageError("is for pictures, not for videos", place=name)
    plan = plan_videos(inputs, writing.output, force=writing.force, resume=writing.resume)
    if writing.dry_run:
        print_file_plan(recipe, plan, as_json=options.as_json)
        return EXIT_DONE
    if not plan.jobs and plan.failures:
        raise all_failed([failure.error for failure in plan.failures])
    from effcli.enhance.pipeline import open_enhancer
    from effcli.enhance.video.videos import VideoOptions, enhance_videos

    started = time.perf_counter()
    runtime = runtime_for(options, recipe)
    settings = recipe.model_dump(mode="json", exclude={"data", "train", "eval", "network", "max_memory_mb"})
    how = VideoOptions(
        settings, writing.quality, writing.keep_times, writing.resume, writing.force, not options.quiet
    )
    outcome = enhance_videos(plan, open_enhancer(recipe, runtime), how)
    failures = [*(failure.error for failure in plan.failures), *outcome.failures]
    if not outcome.done and not outcome.interrupted and failures:
        raise all_failed(failures)
    if is_main_process():
        for failure in failures:
            print_error(failure)
    total_s = time.perf_counter() - started
    content = _result(recipe, plan, options, writing, outcome, failures, runtime, total_s)
    print_result(content, [entry["output"] for entry in outcome.done], as_json=options.as_json)
    return _exit_code(plan, outcome, failures)


def _result(
    recipe: EnhanceRecipe,
    plan: OutputPlan,
    options: RecipeOptions,
    writing: VideoWriting,
    outcome: VideoOutcome,
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
        output=writing.output or "",
        metrics=outcome.metrics(n_failed=len(failures), n_skipped=len(plan.skipped)),
        runtime=runtime,
        total_s=total_s,
    )
    return {
        **result.to_json(),
        "interrupted": outcome.interrupted,
        "files": outcome.done,
        "failures": [{"code": f.code, "place": f.place, "message": f.message} for f in failures],
    }


def _exit_code(plan: OutputPlan, outcome: VideoOutcome, failures: list[EffcliError]) -> int:
    if outcome.interrupted:
        done = {entry["input"] for entry in outcome.done}
        n_left = len(plan.jobs) - len(done) - sum(error.place not in done for error in outcome.failures)
        message = f"interrupted: {n_left} of {len(plan.jobs)} videos were not finished"
        if is_main_process():
            print_error(InterruptedRunError(message, hint="the same command with --resume continues"))
        return EXIT_INTERRUPTED
    if not failures:
        return EXIT_DONE
    return EXIT_PARTIAL if outcome.done else EXIT_FAILED
