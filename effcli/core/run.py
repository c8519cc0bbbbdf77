"""A run directory: stages, steps, checkpoints, exact resume, metrics, result.

A pipeline gets a :class:`Run` and calls it; nothing is inherited::

    def train(recipe, inputs, run):
        network, optimizer = ...
        for step in run.steps("train", recipe.train.steps, {"network": network, "optimizer": optimizer}):
            loss = ...
            run.log("train", step, loss=loss)
        return run.finish(metrics)

Randomness inside a step depends on (seed, stage, rank, step) only, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import torch

from effcli.core.errors import InterruptedRunError, NonFiniteError, RunError, UsageError
from effcli.core.evidence.result import Result
from effcli.core.files import LOCK_FILE, make_folder, write_error, write_text
from effcli.core.progress import NOTICE, progress_bar
from effcli.core.recipe import Recipe, dump_recipe
from effcli.core.resuming.checkpoint import CheckpointStore, SaveEvery
from effcli.core.resuming.metrics_log import MetricsLog
from effcli.core.resuming.run_directory import claim_directory, default_directory
from effcli.core.resuming.stop import StopSignal
from effcli.core.runtime import Runtime

T = TypeVar("T")
Figures = Callable[[], Mapping[str, str]]
"""Writes pictures into the run directory; returns caption -> file."""
log = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything with a state that a checkpoint keeps: modules, optimisers, schedules, EMA."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...  # noqa: D102


class Run:
    """One open run directory. Made by :func:`open_run`; use as a context manager.

    Attributes:
        path: the directory.
        runtime: device, precision, ranks, seeds.
        recipe_name: the name the run reports.
        is_finished: the directory holds this run's result; there is nothing left to do, and nothing is written.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        runtime: Runtime,
        *,
        verb: str,
        recipe_name: str,
        save_every: SaveEvery,
        show_progress: bool,
        lock: IO[str] | None,
        is_finished: bool,
        new_folders: Sequence[Path],
    ) -> None:
        self.path = path
        self.recipe = recipe
        self.runtime = runtime
        self.verb = verb
        self.recipe_name = recipe_name
        self.save_every = save_every
        self.show_progress = show_progress and runtime.is_main
        self.is_finished = is_finished
        self._new_folders = new_folders if runtime.is_main else ()
        self._stop = StopSignal()
        self._checkpoints = CheckpointStore(path / "checkpoints", dump_recipe(recipe, comments=False))
        self._metrics = MetricsLog(path / "metrics.jsonl")
        self._started = time.monotonic()
        self._earlier_s = 0.0
        self._lock = lock
        self._figures: dict[str, str] = {}
        self._log_handler: logging.Handler | None = None

    def __enter__(self) -> Run:
        if self.runtime.is_main and not self.is_finished:
            self._metrics.reopen()
            try:
                self._log_handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
            except OSError as error:
                raise write_error(error, self.path / "log.txt") from None
            self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            logging.getLogger("effcli").addHandler(self._log_handler)
            log.info(
                "%s %s, recipe %s: %s", self.recipe.task, self.verb, self.recipe_name, self.runtime.describe()
            )
        self.runtime.seed_all("start")
        self._stop.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stop.__exit__(*exception)
        if self._log_handler is not None:
            logging.getLogger("effcli").removeHandler(self._log_handler)
            with contextlib.suppress(OSError):  # the log on a full disk; what matters was written and checked
                self._log_handler.close()
        if self._new_folders and isinstance(exception[1], UsageError):
            self._discard()
        if self._lock is not None:
            self._lock.close()

    def log_earlier(self, records: Sequence[logging.LogRecord]) -> None:
        """Write to the run's own log what was logged before it was open, such as what its data leave out."""
        for record in records:
            if self._log_handler is not None:
                self._log_handler.handle(record)

    # --- work ------------------------------------------------------------------------------------------

    def stage(self, name: str, compute: Callable[..., T], *args: Any) -> T:
        """Compute once and keep: a resumed run loads the stage's value instead of computing it again.

        The value may be tensors, numbers, strings and dicts, lists or tuples of them; it comes back as a resumed
        run would see it, tensors on the CPU. Every rank computes, and all get the main one's value.
        """
        saved = self._load(name)
        if saved is None:
            self.runtime.seed_all(name)
            self._save(name, {"value": compute(*args)})
            saved = self.runtime.on_main(lambda: self._checkpoints.load(name))
        self.runtime.seed_all(name, "done")
        return saved["value"]  # type: ignore[index, no-any-return]

    def steps(
        self,
        stage: str,
        total_steps: int,
        state: Mapping[str, Stateful],
        *,
        unit: str = "steps",
        beside: int = 0,
    ) -> Iterator[int]:
        """Yield the step numbers still to do, from the checkpoint's step to ``total_steps - 1``.

        Before each step the global generators are seeded from (seed, stage, rank, step), after the last one
        from (seed, stage). After a step a checkpoint of ``state`` is written when it is due, at the end, and
        on Ctrl-C or SIGTERM.

        Args:
            stage: name of the loop; its checkpoints and log lines carry it.
            total_steps: number of steps of the whole loop.
            state: everything that the loop changes, by name; with several ranks the same in all of them.
            unit: what a step is called in messages.
            beside: threads and processes that work beside the loop, such as those that read its batches.

        Raises:
            InterruptedRunError: a signal came; the checkpoint is written.
            NonFiniteError: weights are not finite when a checkpoint is due; the one before it is kept.
        """
        first = self._restore(stage, total_steps, state)
        saved_s, saved_step = time.monotonic(), first
        tuner = self.runtime.tuner(stage, beside)
        with progress_bar(stage, total_steps, first, unit, show=self.show_progress) as advance:
            for step in range(first, total_steps):
                self.runtime.seed_step(stage, step)
                with tuner.step():
                    yield step
                advance()
                done = step + 1
                stop = self.runtime.any_rank(self._stop.requested)
                if stop or done == total_steps or self._is_due(done - saved_step, time.monotonic() - saved_s):
                    self._save_steps(stage, done, state)
                    saved_s, saved_step = time.monotonic(), done
                if stop:
                    raise InterruptedRunError(
                        f"interrupted after {done} of {total_steps} {unit} of {stage}; checkpoint written",
                        place=str(self.path),
                        hint="the same command with --resume continues from there",
                    )
        self.runtime.seed_all(stage, "done")

    def has_begun(self, stage: str) -> bool:
        """Whether there is a checkpoint of a stage or a loop."""
        return self.runtime.on_main(lambda: self._checkpoints.has(stage))

    def say(self, line: str) -> None:
        """Print a line on stderr, unless the run is quiet, and write it to the log."""
        if self.runtime.is_main:
            log.log(NOTICE, "%s", line)

    def log(self, stage: str, step: int, *, every: int = 1, **values: float | torch.Tensor) -> None:
        """Append one line to ``metrics.jsonl`` (every ``every`` steps) and refuse NaN and inf.

        On one CPU process every step is looked at; elsewhere that would wait for the device or for other ranks,
        so steps in between are not, and no checkpoint is written of weights that are not finite.

        Raises:
            NonFiniteError: a value is not finite; the last checkpoint is older and stays.
        """
        due = step % every == 0
        if not due and (self.runtime.world > 1 or self.runtime.device.type != "cpu"):
            return
        numbers = self.runtime.mean_over_ranks({name: _number(value) for name, value in values.items()})
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise self._not_finite(f"{name} is {number} at step {step} of {stage}")
        if due and self.runtime.is_main:
            self._metrics.append(stage, step, numbers)

    def stop_after_step(self) -> None:
        """Let the loop that is running write a checkpoint after this step and leave with InterruptedRunError."""
        self._stop.requested = True

    @property
    def stop_requested(self) -> bool:
        """Whether Ctrl-C or SIGTERM came, also one that came too late to stop this run."""
        return self.runtime.any_rank(self._stop.requested)

    def check_stop(self) -> None:
        """Leave here if Ctrl-C or SIGTERM came; for stretches of work outside :meth:`steps`."""
        if self.stop_requested:
            raise InterruptedRunError(
                "interrupted", place=str(self.path), hint="the same command with --resume continues"
            )

    def draw(self, figures: Figures) -> None:
        """Make figures for the report now, in the main rank; one that fails is a warning and costs nothing else.

        Args:
            figures: writes pictures into the run directory and returns caption -> file; it must not wait for other
                ranks.
        """
        if not self.runtime.is_main:
            return
        try:
            self._figures |= figures()
        except Exception as error:  # what was learned and measured is worth more than a picture of it
            log.warning("a figure is missing: %s: %s", type(error).__name__, " ".join(str(error).split()))

    def finish(self, metrics: Mapping[str, Any], figures: Figures | None = None) -> Result:
        """Write ``result.json``, then draw, then write ``report.html``; returns the result.

        Args:
            metrics: the task's numbers, by their contract names.
            figures: as in :meth:`draw`; called after the result is on the disk.
        """
        result = self._result(metrics)
        self.runtime.on_main(lambda: self._write_result(result))
        self.is_finished = True
        if figures is not None:
            self.draw(figures)
        result = replace(result, figures=dict(self._figures))
        self.runtime.on_main(lambda: self._write_report(result))
        return result

    def _result(self, metrics: Mapping[str, Any]) -> Result:
        return Result(
            task=self.recipe.task,
            verb=self.verb,
            method=self.recipe.method,
            recipe=self.recipe_name,
            output=str(self.path),
            metrics=dict(metrics),
            timing={"total_s": round(self._elapsed_s(), 3)},
            environment=self.runtime.describe(),
        )

    def file(self, name: str) -> Path:
        """Where a product goes, such as ``model/unet.safetensors``; its folder is made. For the main rank."""
        path = self.path / name
        make_folder(path.parent)
        return path

    # --- inside ----------------------------------------------------------------------------------------

    def _discard(self) -> None:
        """Take back the folders that this process made for a run that could not start: nothing is in the way then."""
        if self._metrics.n_bytes or self._checkpoints.folder.exists():
            return
        for name in ("recipe.yaml", "log.txt", LOCK_FILE):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            for folder in self._new_folders:
                folder.rmdir()

    def _write_result(self, result: Result) -> None:
        write_text(self.path / "result.json", json.dumps(result.to_json(), indent=2) + "\n")

    def _write_report(self, result: Result) -> None:
        from effcli.core.evidence.report import write_report

        try:
            if result.figures:
                self._write_result(result)
            write_report(self.path)
        except Exception as error:  # the work is done and kept; a page about it must not fail it
            log.warning("no report.html: %s (`effcli report` tries again)", error)
        log.info("finished in %.1f s", result.timing["total_s"])

    def _restore(self, stage: str, total_steps: int, state: Mapping[str, Stateful]) -> int:
        saved = self._load(stage)
        step = 0 if saved is None else int(saved["step"])
        if saved is not None:
            try:
                for name, holder in state.items():
                    holder.load_state_dict(saved["state"][name])
            except (KeyError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise RunError(
                    f"its checkpoint does not fit: {reason}",
                    place=str(self.path),
                    hint="it was written by another version of effcli, or in another precision; start again",
                ) from None
            log.info("%s: resumed at step %d", stage, step)
        if step < total_steps and self.runtime.is_main:
            self._metrics.cut()
        return step

    def _save_steps(self, stage: str, step: int, state: Mapping[str, Stateful]) -> None:
        for name, holder in state.items():
            weights = holder.parameters() if isinstance(holder, torch.nn.Module) else ()
            if not all(bool(torch.isfinite(weight).all()) for weight in weights):
                raise self._not_finite(f"the weights of {name} are not finite after {step} steps of {stage}")
        self._save(
            stage, {"step": step, "state": {name: holder.state_dict() for name, holder in state.items()}}
        )

    def _not_finite(self, what: str) -> NonFiniteError:
        return NonFiniteError(
            f"{what}; the last good checkpoint is kept",
            place=str(self.path),
            hint="lower the learning rate, or run with --precision fp32",
        )

    def _save(self, name: str, content: dict[str, Any]) -> None:
        content |= {
            "elapsed_s": self._elapsed_s(),
            "runtime": self._arithmetic(),
            "metrics_bytes": self._metrics.position,
        }
        self.runtime.on_main(lambda: self._checkpoints.save(name, content))

    def _load(self, name: str) -> dict[str, Any] | None:
        saved = self.runtime.on_main(lambda: self._checkpoints.load(name))
        if saved is not None:
            self._earlier_s = max(self._earlier_s, float(saved["elapsed_s"]))
            self._metrics.go_to(int(saved["metrics_bytes"]))
            now = self._arithmetic()
            before = saved["runtime"]
            if before != now:
                log.warning("%s: resumed with %s, made with %s: the last bits will differ", name, now, before)
        return saved

    def _arithmetic(self) -> dict[str, str | int]:
        """What the last bits of a result depend on, beside the recipe and the threads."""
        return {
            "device": self.runtime.device.type,
            "precision": self.runtime.precision,
            "processes": self.runtime.world,
        }

    def _is_due(self, steps: int, seconds: float) -> bool:
        if self.save_every.steps is not None:
            return steps >= self.save_every.steps
        due = self.save_every.seconds is not None and seconds >= self.save_every.seconds
        return self.runtime.any_rank(due)

    def _elapsed_s(self) -> float:
        return self._earlier_s + time.monotonic() - self._started


def _number(value: float | torch.Tensor) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def open_run(
    output: Path | None,
    recipe: Recipe,
    runtime: Runtime,
    *,
    verb: str,
    recipe_name: str,
    resume: bool = False,
    save_every: SaveEvery | None = None,
    show_progress: bool = False,
) -> Run:
    """Make or reopen a run directory.

    Args:
        output: the directory; None makes ``runs/<task>/<recipe>-<time>``, or with ``resume`` takes the newest
            unfinished one of this recipe there.
        resume: go on from the last checkpoint if there is one.

    Raises:
        UsageError: the directory holds another recipe's run, a finished run or an unfinished one without
            ``resume``, or something that is not a run; it cannot be written; another process works in it.
    """
    lock: IO[str] | None = None

    def claim() -> tuple[Path, bool, list[Path]]:
        nonlocal lock
        path = output or default_directory(recipe, recipe_name, resume=resume)
        new_folders = [folder for folder in (path, *path.parents) if not folder.exists()]
        lock = claim_directory(path, recipe, resume=resume)
        return path, lock is None, new_folders

    path, is_finished, new_folders = runtime.on_main(claim)
    return Run(
        path,
        recipe,
        runtime,
        verb=verb,
        recipe_name=recipe_name,
        save_every=save_every or SaveEvery(),
        show_progress=show_progress,
        lock=lock,
        is_finished=is_finished,
        new_folders=new_folders,
    )
