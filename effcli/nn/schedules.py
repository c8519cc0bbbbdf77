"""Learning rates over the steps of a training."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def cosine(step: int, total_steps: int, first: float, last: float) -> float:
    """Half a cosine from ``first`` at step 0 to ``last`` at ``total_steps``."""
    return last + (first - last) * (1 + math.cos(math.pi * step / total_steps)) / 2


def warmup_cosine(step: int, total_steps: int, rate: float, warmup_steps: int) -> float:
    """Linear from ``rate / warmup_steps`` at step 0 to ``rate``, then half a cosine to 0, as in open_clip."""
    if step < warmup_steps:
        return rate * (step + 1) / warmup_steps
    return cosine(step - warmup_steps, total_steps - warmup_steps, rate, 0.0)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def one_cycle(step: int, total_steps: int, peak: float, momenta: tuple[float, float]) -> tuple[float, float]:
    """Rate and momentum of a step: from a tenth of the peak up for two fifths, then down to a hundred-thousandth.

    Both move on half a cosine; the momentum goes from the first value to the second and back.
    """
    rise = 0.4 * total_steps
    if step < rise:
        return cosine(step, math.ceil(rise), peak / 10, peak), cosine(step, math.ceil(rise), *momenta)
    at, rest = step - rise, total_steps - rise
    falls = (1 + math.cos(math.pi * at / rest)) / 2
    return peak * (1e-5 + (1 - 1e-5) * falls), momenta[0] + (momenta[1] - momenta[0]) * falls
