"""`effcli enhance run` between its plan and its output: enhance, print, decide the exit code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from ..common.options import RecipeOptions
from ..common.output import is_main_process, print_error, print_note, print_plan, print_result
from ..common.session import runtime_for

if TYPE_CHECKING:
    from effcli.core.recipe import Recipe
    from effcli.core.runtime import Runtime
    from effcli.enhance.files.batch import Outcome
    from effcli.enhance.files.jobs import OutputPlan
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
        format: what to write; None is that of the input.
        keep_times: give each output the times of its input.
        gallery: the page to write.
        resume: outputs that are there, or come into being meanwhile, are skipped.
    """

    output: str = ""
    quality: int = 95
    format: str | None = None
    keep_times: bool = False
    gallery: Path | None = None
    resume: bool = False


def enhance_run(recipe: EnhanceRecipe, plan: OutputPlan, options: RecipeOptions, writing: Writing) -> int:
    """Enhance what is planned and print the outputs; returns the exit code."""
    to_stdout = any(job.destination is None for job in plan.jobs)
    _check(plan, options, writing, to_stdout)
    from effcli.enhance.files.batch import enhance_files, without_too_large
    from effcli.enhance.files.gallery import BatchFacts, open_gallery
    from effcli.enhance.pipeline import open_enhancer

    started = time.perf_counter()
    runtime = runtime_for(options, recipe)
    enhancer = open_enhancer(recipe, runtime)
    plan = without_too_large(plan, enhancer)
    gallery = open_gallery(writing.gallery, plan) if writing.gallery else None
    outcome = enhance_files(
        plan,
        enhancer,
        quality=writing.quality,
        keep_times=writing.keep_times,
        gallery=gallery,
        show_progress=not options.quiet,
    )
    batch = _Batch(recipe, plan, options, writing, outcome)
    total_s = time.perf_counter() - started
    if plan.shard is not None and is_main_process():
        batch.write_summary(runtime, total_s)
    batch.report()
    if gallery is not None:
        n_planned = len(plan.jobs) + len(plan.skipped) + len(plan.failures)
        gallery.write(runtime, BatchFacts(n_planned, batch.failures, outcome.interrupted))
    if not to_stdout:
        made = [entry["output"] for entry in outcome.done] + ([str(writing.gallery)] if gallery else [])
        print_result(batch.result(runtime, total_s), made, as_json=options.as_json)
    return batch.exit_code()


def _check(plan: OutputPlan, options: RecipeOptions, writing: Writing, to_stdout: bool) -> None:
    """Refuse what cannot go together, and a batch of which nothing can be done."""
    if to_stdout and options.as_json:
        raise UsageError("--json and a picture cannot both go to stdout", place="-o -")
    if writing.keep_times and (to_stdout or any(job.source is None for job in plan.jobs)):
        raise UsageError("standard input and output have no modification times to keep", place="--keep-times")
    places = [place for job in plan.jobs for place in (job.source, job.destination)]
    if writing.keep_times and not all(isinstance(place, Path) for place in places):
        raise UsageError(
            "pictures read or written by URL have no modification times to keep", place="--keep-times"
        )
    if not plan.jobs and plan.failures and plan.shard is None:
        raise all_failed([failure.error for failure in plan.failures])


@dataclass(frozen=True)
class _Batch:
    """A batch that has ended."""

    recipe: EnhanceRecipe
    plan: OutputPlan
    options: RecipeOptions
    writing: Writing
    outcome: Outcome

    @property
    def failures(self) -> list[EffcliError]:
        """Why pictures were not enhanced; with ``--resume`` those of other processes count as skipped."""
        taken = [] if self.writing.resume else self.outcome.taken
        return [*(failure.error for failure in self.plan.failures), *self.outcome.failures, *taken]

    def report(self) -> None:
        """Say what failed; raise where nothing was done."""
        if not self.outcome.done and not self.outcome.interrupted and self.failures:
            raise all_failed(self.failures)
        if not is_main_process():
            return
        for failure in self.failures:
            print_error(failure)
        if self.writing.resume and not self.options.quiet:
            for taken in self.outcome.taken:
                print_note(f"skipped: {taken}")

    def result(self, runtime: Runtime, total_s: float) -> dict[str, Any]:
        """What ``--json`` prints."""
        from effcli.core.evidence.result import result_of_verb

        n_skipped = len(self.plan.skipped) + (len(self.outcome.taken) if self.writing.resume else 0)
        result = result_of_verb(
            self.recipe.task,
            "run",
            self.recipe.method,
            recipe=self.options.recipe,
            output=self.writing.output,
            metrics=self.outcome.metrics(n_failed=len(self.failures), n_skipped=n_skipped),
            runtime=runtime,
            total_s=total_s,
        )
        return {
            **result.to_json(),
            "interrupted": self.outcome.interrupted,
            "files": self.outcome.done,
            "left_out": dict(self.plan.left_out),
            "failures": [{"code": f.code, "place": f.place, "message": f.message} for f in self.failures],
            **({"gallery": str(self.writing.gallery)} if self.writing.gallery else {}),
        }

    def write_summary(self, runtime: Runtime, total_s: float) -> None:
        """Write the summary of a shard into the output folder, with what an earlier run of it did."""
        from effcli.enhance.files.shards import summary_of, write_summary

        assert self.plan.shard is not None and self.plan.inputs is not None
        writing = self.writing
        settings = {
            "recipe": self.recipe.model_dump(mode="json"),
            "format": writing.format,
            "quality": writing.quality,
            "keep_times": writing.keep_times,
        }
        result = self.result(runtime, total_s)
        summary = summary_of(result, self.plan.shard, self.plan.inputs, settings)
        write_summary(writing.output, self.plan.shard, summary)

    def exit_code(self) -> int:
        """Of the command; says that it was interrupted."""
        outcome = self.outcome
        if outcome.interrupted:
            n_ended = len(outcome.done) + len(outcome.failures) + len(outcome.taken)
            n_left = len(self.plan.jobs) - n_ended
            message = f"interrupted: {n_left} of {len(self.plan.jobs)} pictures were not started"
            hint = "the same command with --resume skips what is done"
            if is_main_process():
                print_error(InterruptedRunError(message, hint=hint))
            return EXIT_INTERRUPTED
        if not self.failures:
            return EXIT_DONE
        return EXIT_PARTIAL if outcome.done else EXIT_FAILED


def all_failed(failures: list[EffcliError]) -> EffcliError:
    """One error for all inputs: wrong input, unless something failed that is not the input's fault."""
    if len(failures) == 1:
        return failures[0]
    kind = UsageError if all(isinstance(failure, UsageError) for failure in failures) else RunError
    hints = list(dict.fromkeys(failure.hint for failure in failures if failure.hint))
    hint = "none of the inputs can be used" if not hints else "; ".join(hints[:2])
    error = kind("\n".join(printable(str(failure)) for failure in failures), hint=hint)
    error.is_list = True
    return error
