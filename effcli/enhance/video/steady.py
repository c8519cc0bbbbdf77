"""Brightening frames one after another so that the result does not flicker.

What a picture is to become is predicted from that picture alone, and from frame to frame predictions differ. Here the
level to reach, and the share of the result in the blend, follow the predictions with a time constant; at a cut they
start anew. A network that paints the picture names no level beforehand: there the levels of its results are followed,
and each result is brought to the level by the curve that all its pixels share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.core.tensor_file import require_finite_output
from effcli.enhance.brightness import Target
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.network.exposure import at_level, grey, level, thumbnail
from effcli.enhance.walmafa import Brightener

TIME_CONSTANT_S = 0.75
"""After a jump of the predictions the level has gone 63 % of the way."""

_MOST_SETTLED = 0.7
"""Log gain of a stop: a result of a network that paints is never moved further."""
_CUT = 0.35
_CUT_OVER_PACE = 2.5
_LIGHT = 2.0
_SIDE = 24
_LEAST = 2e-3
_PACE_SHARE = 0.2


@dataclass(frozen=True)
class FrameLevels:
    """The levels of a frame, and what the next frame follows.

    Attributes:
        input: level of the frame as it was, 0..1.
        unsmoothed: level of the result if each frame were brightened for itself.
        output: level of the result.
        is_cut: a new scene begins here, or the light went on or off.
        followed: the smoothed level.
        share: the smoothed share of the result in the blend.
        pace: how much successive frames differ of late.
    """

    input: float
    unsmoothed: float
    output: float
    is_cut: bool
    followed: float
    share: float
    pace: float


class SteadyEnhancer:
    """Brightens the frames of one video in their order.

    Args:
        enhancer: what brightens a picture.
    """

    def __init__(self, enhancer: Enhancer) -> None:
        self._enhancer = enhancer
        self._last: FrameLevels | None = None
        self._last_s = 0.0
        self._seen: Tensor | None = None

    def resume(self, x: Tensor, time_s: float, levels: FrameLevels) -> None:
        """Take up the work after a frame that is done.

        Args:
            x: the frame as it was, [1, 3, H, W] in 0..1.
            time_s: its time in seconds.
            levels: what :meth:`enhance` said of it.
        """
        self._last, self._last_s, self._seen = levels, time_s, _layout(x)

    @torch.inference_mode()
    def enhance(self, x: Tensor, time_s: float) -> tuple[Tensor, FrameLevels]:
        """Brighten the next frame.

        Args:
            x: [1, 3, H, W] in 0..1.
            time_s: its time in seconds.

        Returns:
            The result, of the same shape, and the levels.

        Raises:
            RunError: the result is not finite, or memory does not suffice.
        """
        seen, own = _layout(x), _level(x)
        is_cut, pace = self._compare(seen, own)
        weight = 1.0 if is_cut else 1 - math.exp(-max(0.0, time_s - self._last_s) / TIME_CONSTANT_S)
        with self._enhancer.runtime.tuner("enhance").step(x.numel()):
            bright, unsmoothed, target = self._brightened(x, own, weight)
        require_finite_output(bright, "the brightened pixels")
        strength = self._enhancer.strength
        out = torch.lerp(x, bright, strength)
        levels = FrameLevels(
            input=own,
            unsmoothed=own + strength * (unsmoothed - own),
            output=_level(out),
            is_cut=is_cut,
            followed=target.level or 0.0,
            share=target.share,
            pace=pace,
        )
        self._last, self._last_s, self._seen = levels, time_s, seen
        return out, levels

    def _brightened(self, x: Tensor, own: float, weight: float) -> tuple[Tensor, float, Target]:
        """The steady result, the level of the result without smoothing, and the smoothed target."""
        brighten = self._enhancer.brighten
        if self._enhancer.strength == 0:
            return x, own, Target(own)
        target = brighten.target(x) if isinstance(brighten, Brightener) else Target()
        if isinstance(brighten, Brightener) and target.level is not None:
            smooth = self._followed(target.level, target.share, weight)
            bright = brighten.render(x, smooth, tolerance=0.0)
            return bright, own + target.share * (target.level - own), smooth
        bright = brighten(x)
        painted = _level(bright)
        smooth = self._followed(painted, 1.0, weight)
        assert smooth.level is not None
        return at_level(bright, smooth.level, most_log_gain=_MOST_SETTLED), painted, smooth

    def _followed(self, wanted: float, share: float, weight: float) -> Target:
        if self._last is None:
            return Target(wanted, share)
        last = self._last
        return Target(
            last.followed + weight * (wanted - last.followed), last.share + weight * (share - last.share)
        )

    def _compare(self, seen: Tensor, own: float) -> tuple[bool, float]:
        """Whether a scene begins with a frame, and how much frames differ of late."""
        if self._seen is None or self._last is None:
            return True, 0.0
        difference = float((seen - self._seen).abs().mean())
        light = (own + _LEAST) / (self._last.input + _LEAST)
        pace = self._last.pace
        is_cut = difference > max(_CUT, _CUT_OVER_PACE * pace) or not 1 / _LIGHT < light < _LIGHT
        return is_cut, 0.0 if is_cut else pace + _PACE_SHARE * (difference - pace)


def _level(x: Tensor) -> float:
    return float(level(thumbnail(x)))


def _layout(x: Tensor) -> Tensor:
    """What is where in a picture, whatever its exposure: small grey levels over their mean."""
    small = F.interpolate(grey(x), (_SIDE, _SIDE), mode="area") + _LEAST
    return small / small.mean()


def summary(frames: Iterable[FrameLevels]) -> dict[str, Any]:
    """Mean levels of a video, and how much they change from one frame to the next, in one pass.

    Returns:
        ``input_level`` and ``level`` (of the output); ``level_change``: the mean absolute change from frame to frame of
        ``input``, ``unsmoothed`` and ``output``, without changes at cuts, None where there is none; ``cuts``.
    """
    names = ("input", "unsmoothed", "output")
    n_frames = n_changes = n_scenes = 0
    totals, changes = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    last: FrameLevels | None = None
    for frame in frames:
        n_frames, n_scenes = n_frames + 1, n_scenes + frame.is_cut
        is_change = last is not None and not frame.is_cut
        n_changes += is_change
        for name in names:
            totals[name] += getattr(frame, name)
            changes[name] += abs(getattr(frame, name) - getattr(last, name)) if is_change else 0.0
        last = frame
    return {
        "input_level": round(totals["input"] / n_frames, 4),
        "level": round(totals["output"] / n_frames, 4),
        "level_change": {name: round(changes[name] / n_changes, 5) if n_changes else None for name in names},
        "cuts": max(0, n_scenes - 1),
    }
