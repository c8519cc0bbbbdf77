"""Bit widths as they are written: ``w2a4``. No PyTorch, so that recipes load fast."""

from __future__ import annotations

import re
from typing import NamedTuple


class BitWidths(NamedTuple):
    """Mean bits of the weights; bits of the activations, None where they stay as they are."""

    weights: int
    activations: int | None


def parse_bits(text: str) -> BitWidths:
    """Read ``w2a4``; ``w4`` is for weights only.

    Raises:
        ValueError: anything else, or bits that are not in 1..8.
    """
    match = re.fullmatch(r"w(\d+)(?:a(\d+))?", text.lower(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not of the form w2a4 or w4")
    weights, activations = int(match[1]), int(match[2]) if match[2] else None
    for name, value in (("weights", weights), ("activations", activations)):
        if value is not None and not 1 <= value <= 8:
            raise ValueError(f"{value} bits for {name} are not in 1..8")
    return BitWidths(weights, activations)
