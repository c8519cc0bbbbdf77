"""Evaluation while a group learns: the best weights of each policy so far, and curves for TensorBoard."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from effcli.core.errors import UsageError
from effcli.core.run import Run
from effcli.rl_distill.environments.making import environments_of
from effcli.rl_distill.evaluation import play
from effcli.rl_distill.group import Policy
from effcli.rl_distill.recipe import RlDistillRecipe


class BestSoFar:
    """The weights of each policy that had the highest mean return in an evaluation; part of the checkpoint.

    Attributes:
        points: (environment steps of a policy, mean returns of each policy) of every evaluation.
        returns: the highest mean return of each policy; empty before the first evaluation.
        weights: the state dict of its network then.
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, list[float]]] = []
        self.returns: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def evaluate(self, policies: Sequence[Policy], recipe: RlDistillRecipe, run: Run, n_steps: int) -> None:
        """Play episodes with every policy, on the same seeds each time."""
        made, found = partial(environments_of, recipe), []
        for i, policy in enumerate(policies):
            decide = partial(decisions_of, policy)
            name = f"evaluation of policy {i + 1}"
            games = play(decide, made, recipe.eval.every_episodes, run.runtime, name, run.check_stop)
            found.append(games.mean)
        self.points.append((n_steps, found))
        if not self.returns:
            self.returns, self.weights = [float("-inf")] * len(found), [{} for _ in found]
        for i, (value, policy) in enumerate(zip(found, policies, strict=True)):
            if value > self.returns[i]:
                self.returns[i] = value
                self.weights[i] = {n: w.detach().clone() for n, w in policy.network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {"points": list(self.points), "returns": list(self.returns), "weights": list(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.points = [(int(steps), [float(one) for one in found]) for steps, found in state["points"]]
        self.returns, self.weights = list(state["returns"]), list(state["weights"])


def decisions_of(policy: Policy, observations: Tensor) -> Tensor:
    """Decisions of a policy's network."""
    decisions: Tensor = policy.network(observations.float())[1]
    return decisions


class Board:
    """Scalars for TensorBoard in ``tensorboard/`` of a run, or none.

    Args:
        run: the run.
        is_wanted: whether to write.
        n_steps: environment steps at which this process begins; what is there of later ones is hidden.
    """

    def __init__(self, run: Run, is_wanted: bool, n_steps: int) -> None:
        self._writer: Any = None
        if is_wanted and run.runtime.is_main:
            from torch.utils.tensorboard import SummaryWriter

            place = str(run.path / "tensorboard")
            self._writer = SummaryWriter(place, purge_step=n_steps or None)

    def add(self, group: str, values: dict[str, float], n_steps: int) -> None:
        """Write values at a number of environment steps of a policy."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, n_steps)

    def close(self) -> None:
        """Write the rest."""
        if self._writer is not None:
            self._writer.close()


def check_board(is_wanted: bool) -> None:
    """Refuse TensorBoard where its package is missing.

    Raises:
        UsageError: it is.
    """
    if is_wanted and importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "needs a package that is not installed: tensorboard",
            place="--tensorboard",
            hint="pip install 'effcli[tensorboard]'",
        )
