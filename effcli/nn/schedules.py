"""Learning rates over the steps of a training."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def cosine(step: int, total_steps: int, first: float, last: float) -> float:
    """Half a cosine from ``first`` at step 0 to ``last`` at ``total_steps``."""
    return last + (first - last) * (1 + math.cos(math.pi * step / total_steps)) / 2


def warmup_cosine(step: int, total_steps: int, rate: float, warmup_steps: int) -> float:
    """Linear from ``rate / warmup_steps`` at step 0 to ``rate``, then half a cosine to 0, as open_clip has it."""
    if step < warmup_steps:
        return rate * (step + 1) / warmup_steps
    return cosine(step - warmup_steps, total_steps - warmup_steps, rate, 0.0)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give all parameters the learning rate ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate
