"""The noise levels that T-step DDIM visits, for every T at once, so that teachers and students share their time axis.

Step k of T, 0 <= k <= T, is entry round(k span / T) of one table whose entry 0 is the clean end. Two kinds of tables:

- N levels of any diffusers scheduler: entry i > 0 is timestep i - 1, and entry 0 the scheduler's final alpha (span =
  N). These are diffusers' "trailing" timesteps, so that its own pipelines sample a student as it was trained.
- 2^m + 1 levels with ``set_alpha_to_one: false``: entry i is timestep i, the clean end among them (span = 2^m). This is
  the table of the released code of progressive distillation and RDD (docs/methods/rdd.md, Noise table and time
  axis).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from effcli.core.errors import UsageError
from effcli.diffusion.ddim import ddim_scheduler


class Point(NamedTuple):
    """Where on the time axis each image of a batch is.

    Attributes:
        t: the timestep that the network gets, int64 ``[B]``; meaningless at the clean end.
        alpha, sigma: of z = alpha x + sigma eps, ``[B, 1, 1, 1]``.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor


class TimeGrid:
    """See the first lines of this file.

    Args:
        scheduler_config: of any diffusers scheduler.
        device: where the table is kept.

    Attributes:
        span: the largest number of steps.
    """

    def __init__(self, scheduler_config: Mapping[str, Any], device: torch.device) -> None:
        scheduler = ddim_scheduler(scheduler_config, 1)
        levels = scheduler.alphas_cumprod.double()
        n_levels = len(levels)
        has_clean_entry = is_power_of_two(n_levels - 1) and not scheduler.config["set_alpha_to_one"]
        self._first_timestep = 0 if has_clean_entry else -1
        if not has_clean_entry:
            levels = torch.cat([scheduler.final_alpha_cumprod.double().reshape(1), levels])
        self.span = len(levels) - 1
        self._alpha = levels.sqrt().float().to(device)
        self._sigma = (1 - levels).sqrt().float().to(device)

    def at(self, k: Tensor, steps: int) -> Point:
        """Step ``k``, int64 ``[B]`` in 0..steps, of ``steps`` steps."""
        entry = (k.double() * (self.span / steps)).round().long()
        alpha, sigma = (table[entry][:, None, None, None] for table in (self._alpha, self._sigma))
        return Point(entry + self._first_timestep, alpha, sigma)

    def timesteps(self, steps: int) -> list[int]:
        """The timesteps that the network gets at steps ``steps``, ..., 1."""
        return [int(t) for t in self.at(torch.arange(steps, 0, -1, device=self._alpha.device), steps).t]

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


def is_power_of_two(n: int) -> bool:
    """1, 2, 4, ..."""
    return n > 0 and n & (n - 1) == 0
