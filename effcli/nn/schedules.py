"""Learning rates over the steps of a training."""

from __future__ import annotations

import math


def cosine(step: int, total_steps: int, first: float, last: float) -> float:
    """Half a cosine from ``first`` at step 0 to ``last`` at ``total_steps``."""
    return last + (first - last) * (1 + math.cos(math.pi * step / total_steps)) / 2
