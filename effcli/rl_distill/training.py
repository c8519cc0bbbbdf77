"""The training loop of a group of policies, whatever its algorithm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from effcli.core.errors import InterruptedRunError, RunError
from effcli.core.registry import load_method
from effcli.core.run import Run, Stateful
from effcli.rl_distill.environments.copies import EnvironmentFailure, failures_named
from effcli.rl_distill.group import Policy
from effcli.rl_distill.progress_evaluation import BestSoFar, Board
from effcli.rl_distill.recipe import RlDistillRecipe

PROGRESS_LINES = 10
"""Progress lines per group."""
ATTENTION_POINTS = 100
"""How many times per training the attention weights are recorded."""


class Group(Protocol):
    """Policies that learn side by side.

    Attributes:
        policies: the members.
        kind: the algorithm, ``ppo`` or ``dqn``.
        attention_means: mean attention weights of the last update, ``[T, T]``; None without attention.
    """

    policies: Sequence[Policy]
    kind: str
    attention_means: Tensor | None

    @property
    def n_updates(self) -> int:
        """Updates of the whole training."""

    def update(self, update: int) -> dict[str, float]:
        """Act and learn once; returns the means of the loss terms."""

    def restart(self, update: int) -> None:
        """Start new episodes, after an interruption, where those of before do not continue."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore it."""


class TrainingRecord:
    """Seconds of training and what was recorded of the group; part of the checkpoint.

    Attributes:
        seconds: spent in updates.
        failure: the message of an exception that an environment raised; None so far.
        disagreement: (update, disagreement) pairs.
        attention: (update, mean weights) pairs; the weights are ``[T][T]``, row policy to column policy.
        best: what evaluations during the training found.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.failure: str | None = None
        self.disagreement: list[tuple[int, float]] = []
        self.attention: list[tuple[int, list[list[float]]]] = []
        self.best = BestSoFar()

    def state_dict(self) -> dict[str, Any]:
        """Everything but a failure."""
        return {
            "seconds": self.seconds,
            "disagreement": list(self.disagreement),
            "attention": list(self.attention),
            "best": self.best.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.seconds = float(state["seconds"])
        self.disagreement = [(int(update), float(value)) for update, value in state["disagreement"]]
        self.attention = [(int(update), rows) for update, rows in state["attention"]]
        if "best" in state:  # not in version 0.1
            self.best.load_state_dict(state["best"])


@dataclass(frozen=True)
class TrainedGroup:
    """A group after its training, and the record of it."""

    group: Group
    record: TrainingRecord


def train_group(recipe: RlDistillRecipe, name: str, run: Run) -> TrainedGroup:
    """Train one group; its checkpoints, log and progress lines carry its name.

    Raises:
        RunError: an environment failed; the checkpoint is written.
        InterruptedRunError: Ctrl-C or SIGTERM; the checkpoint is written.
    """
    with failures_named(recipe.env.id):
        group: Group = load_method(recipe).create(recipe, run.runtime)
    record = TrainingRecord()
    begun = run.has_begun(name)
    every = -(-group.n_updates // PROGRESS_LINES)
    board: Board | None = None
    for update in _guarded(run, name, group, record, recipe.env.workers):
        if board is None:
            board = Board(run, recipe.train.tensorboard, steps_of(group))
            if begun and update:
                with failures_named(recipe.env.id):
                    group.restart(update)
                is_exact = all(policy.continues for policy in group.policies)
                run.say(f"{name}: resumed {'in the middle of its' if is_exact else 'with new'} episodes")
        started = time.perf_counter()
        try:
            values = group.update(update)
        except EnvironmentFailure as error:
            record.failure = str(error)
            run.stop_after_step()
            continue
        record.seconds += time.perf_counter() - started
        _note(record, group, update, values)
        returns = [policy.returns.recent(recipe.eval.window) for policy in group.policies]
        known = {f"return_{i + 1}": value for i, value in enumerate(returns) if value is not None}
        n_logged = max(1, group.n_updates // 1000)
        run.log(name, update, every=n_logged, **values, **known)
        if update % n_logged == 0:
            board.add(name, {**values, **known}, steps_of(group))
        if _evaluates(recipe, group, update):
            record.best.evaluate(group.policies, recipe, run, steps_of(group))
            found = dict(enumerate(record.best.points[-1][1], 1))
            board.add(name, {f"evaluation_{i}": value for i, value in found.items()}, steps_of(group))
        if (update + 1) % every == 0 or update + 1 == group.n_updates:
            run.say(_progress_line(name, group, returns, record, values))
    if board is not None:
        board.close()
    return TrainedGroup(group, record)


def steps_of(group: Group) -> int:
    """Environment steps of each policy so far."""
    return sum(policy.returns.n_steps for policy in group.policies) // len(group.policies)


def _evaluates(recipe: RlDistillRecipe, group: Group, update: int) -> bool:
    """Whether an evaluation is due after an update: the last ends the training, and is one."""
    if not recipe.eval.every:
        return False
    per_update = recipe.train.env_steps / group.n_updates
    is_due = (update + 1) * per_update // recipe.eval.every > update * per_update // recipe.eval.every
    return bool(is_due) or update + 1 == group.n_updates


def _note(record: TrainingRecord, group: Group, update: int, values: dict[str, float]) -> None:
    if "disagreement" in values:
        record.disagreement.append((update, values["disagreement"]))
    if group.attention_means is not None and update % max(1, group.n_updates // ATTENTION_POINTS) == 0:
        record.attention.append((update, group.attention_means.tolist()))


def _guarded(run: Run, name: str, group: Group, record: TrainingRecord, workers: int) -> Iterator[int]:
    """The updates still to do; where an environment failed, the checkpoint is written before the run fails."""
    state: dict[str, Stateful] = {"group": group, "clock": record}
    try:
        yield from run.steps(name, group.n_updates, state, unit="updates", beside=workers)
    except InterruptedRunError as error:
        if record.failure is None:
            raise
        raise RunError(
            f"the environment failed: {record.failure}",
            place=str(run.path),
            hint="the training so far is kept; the same command with --resume continues with new episodes",
        ) from error


def _progress_line(
    name: str,
    group: Group,
    returns: Sequence[float | None],
    record: TrainingRecord,
    values: dict[str, float],
) -> str:
    n_steps = sum(policy.returns.n_steps for policy in group.policies)
    shown = ", ".join("no episode yet" if value is None else f"{value:.1f}" for value in returns)
    speed = n_steps / record.seconds if record.seconds else 0.0
    apart = f", disagreement {values['disagreement']:.3f}" if "disagreement" in values else ""
    return f"{name}: {n_steps // len(returns)} steps per policy, {speed:.0f} steps/s, return {shown}{apart}"
