"""Which output is there at the moment of a frame (docs/methods/streamdsgn.md, Streaming average precision)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Pairing = Literal["sap", "asap"]
"""Whether a frame may meet its own output (sAP, ECCV 2020) or never does (ASAP, CVPR 2023; the released code)."""


def pair_outputs(
    finishes_s: Sequence[float],
    captures_s: Sequence[float],
    moments_s: Sequence[float],
    pairing: Pairing = "sap",
) -> list[int | None]:
    """For each frame the number of the output that is valid at its moment; None where there is none yet.

    ``sap``: the latest output that was finished when the frame was captured (Li et al. 2020). ``asap``: the same, but
    never one of the frame itself, however fast (ASAP's convention and the released code's).

    Args:
        finishes_s: when each output was finished, in order, seconds after the first frame.
        captures_s: when the frame that each output was computed from was captured.
        moments_s: when each frame was captured.
        pairing: the rule.
    """
    found: list[int | None] = []
    latest = -1
    for moment in moments_s:
        while latest + 1 < len(finishes_s) and finishes_s[latest + 1] <= moment + 1e-9:
            if pairing == "asap" and captures_s[latest + 1] >= moment - 1e-9:
                break
            latest += 1
        found.append(latest if latest >= 0 else None)
    return found
