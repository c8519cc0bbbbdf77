"""Learning rates over the steps of a training."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def cosine(step: int, total_steps: int, first: float, last: float) -> float:
    """Half a cosine from ``first`` at step 0 to ``last`` at ``total_steps``."""
    return last + (first - last) * (1 + math.cos(math.pi * step / total_steps)) / 2


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give all parameters the learning rate ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate
