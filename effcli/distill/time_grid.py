"""The noise levels that T-step sampling visits, for every T at once, so that teachers and students share their time
axis.

Step k of T, 0 <= k <= T, is entry round(k span / T) of one table whose entry 0 is the clean end. Three kinds of tables:

- N levels of any diffusers scheduler: entry i > 0 is timestep i - 1, and entry 0 the scheduler's final alpha (span =
  N). These are diffusers' "trailing" timesteps, so that its own pipelines sample a student as it was trained.
- 2^m + 1 levels with ``set_alpha_to_one: false``: entry i is timestep i, the clean end among them (span = 2^m). This is
  the table of the released code of progressive distillation and RDD (docs/methods/rdd.md, Noise table and time
  axis).
- 1024 levels of a process without a table (flow matching, EDM, score SDEs: `processes.py`): entry i is at the place
  i / 1024 of its time axis, shifted as its scheduler says, and entry 0 is free of noise (span = 1024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from effcli.core.errors import UsageError
from effcli.diffusion.ddim import RenewingScheduler, ddim_scheduler
from effcli.diffusion.processes import Process, ProcessScheduler, levels_at, process_of, sigmas_at

_ONE = torch.ones(())
_N_LEVELS = 1024
"""Of a process without a table."""


class Point(NamedTuple):
    """Where on the time axis each image of a batch is.

    Attributes:
        t: the timestep that the network gets, ``[B]``, int64 where levels are a table of betas, else float32;
            meaningless at the clean end.
        alpha, sigma: of z = alpha x + sigma eps, ``[B, 1, 1, 1]``.
        data_std: of EDM; see `processes.py`.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    data_std: Tensor = _ONE


class TimeGrid:
    """See the first lines of this file.

    Args:
        scheduler_config: of any diffusers scheduler.
        device: where the table is kept.

    Attributes:
        span: the largest number of steps.
    """

    def __init__(self, scheduler_config: Mapping[str, Any], device: torch.device) -> None:
        process = process_of(scheduler_config)
        if process is not None:
            self._data_std = torch.tensor(process.data_std, device=device)
            self._keep(*_levels_of_process(process), device)
            return
        self._data_std = _ONE.to(device)
        scheduler = ddim_scheduler(scheduler_config, 1)
        assert not isinstance(scheduler, ProcessScheduler | RenewingScheduler)
        levels = scheduler.alphas_cumprod.double()
        n_levels = len(levels)
        has_clean_entry = is_power_of_two(n_levels - 1) and not scheduler.config["set_alpha_to_one"]
        if not has_clean_entry:
            levels = torch.cat([scheduler.final_alpha_cumprod.double().reshape(1), levels])
        timesteps = torch.arange(len(levels)) - (0 if has_clean_entry else 1)
        self._keep(timesteps, levels.sqrt(), (1 - levels).sqrt(), device)

    def _keep(self, t: Tensor, alpha: Tensor, sigma: Tensor, device: torch.device) -> None:
        self.span = len(alpha) - 1
        self._t = t.to(device)
        self._alpha = alpha.float().to(device)
        self._sigma = sigma.float().to(device)

    def at(self, k: Tensor, steps: int | Tensor) -> Point:
        """Step ``k``, int64 ``[B]`` in 0..steps, of ``steps`` steps, one number for all or ``[B]``."""
        steps = steps.double() if isinstance(steps, Tensor) else steps
        entry = (k.double() * (self.span / steps)).round().long()
        alpha, sigma = (table[entry][:, None, None, None] for table in (self._alpha, self._sigma))
        return Point(self._t[entry], alpha, sigma, self._data_std)

    def timesteps(self, steps: int) -> list[float]:
        """The timesteps that the network gets at steps ``steps``, ..., 1."""
        timesteps: list[float] = self.at(
            torch.arange(steps, 0, -1, device=self._alpha.device), steps
        ).t.tolist()
        return timesteps

    def check_steps(self, student_steps: int, teacher_steps: int) -> None:
        """Make sure that halving ``teacher_steps`` ends at ``student_steps``, and that there are that many levels.

        Raises:
            UsageError: one is not a power of two, or too large.
        """
        for key, value in (("student_steps", student_steps), ("teacher_steps", teacher_steps)):
            if not is_power_of_two(value):
                raise UsageError(
                    f"{value} is not a power of two", place=key, hint="each round halves the number of steps"
                )
        if student_steps > teacher_steps:
            raise UsageError(
                f"{student_steps} is more than the teacher's {teacher_steps} steps", place="student_steps"
            )
        if teacher_steps > self.span:
            raise UsageError(
                f"{teacher_steps} is more than the model's {self.span} noise levels", place="teacher_steps"
            )


def _levels_of_process(process: Process) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps, alpha and sigma of the entries, the clean one first."""
    places = torch.arange(1, _N_LEVELS + 1, dtype=torch.float64) / _N_LEVELS
    sigmas = torch.cat([torch.zeros(1, dtype=torch.float64), sigmas_at(process, places)])
    levels = levels_at(process, sigmas)
    return levels.t.float(), levels.alpha, levels.sigma


def is_power_of_two(n: int) -> bool:
    """1, 2, 4, ..."""
    return n > 0 and n & (n - 1) == 0
