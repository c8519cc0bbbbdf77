"""How far the depth of pixels is from what LiDAR, or the renderer, knows of them."""

from __future__ import annotations

from typing import Any

import numpy as np

_PER_M = 1000
_MOST_M = 200
_LARGE_M = 1.0


class DepthErrors:
    """Counts the errors of depth maps, by millimetre; those beyond 200 m count as that.

    Args:
        depth_range: nearest and farthest depth of the detector, metres; truth outside it does not count.
    """

    def __init__(self, depth_range: tuple[float, float]) -> None:
        self._range = depth_range
        self._counts = np.zeros(_MOST_M * _PER_M + 1, np.int64)
        self._n_true = 0

    def add(self, found: np.ndarray, true: np.ndarray | None) -> None:
        """One picture: metres ``[H, W]`` each, 0 where unknown; None where there is no truth."""
        if true is None:
            return
        near, far = self._range
        counts = (true > near) & (true < far)
        self._n_true += int(counts.sum())
        both = counts & (found > 0)
        errors = np.abs(found[both].astype(float) - true[both])
        steps = np.minimum(np.rint(errors * _PER_M), _MOST_M * _PER_M).astype(int)
        self._counts += np.bincount(steps, minlength=len(self._counts))

    def summary(self) -> dict[str, Any]:
        """Of all pictures.

        Returns:
            ``pixels`` with a true depth in the detector's range; ``known_percent`` of them have a depth;
            ``median_error_m`` of those, and ``above_1m_percent``, the share with larger errors; None without any.
        """
        n = int(self._counts.sum())
        if not n:
            return {"pixels": self._n_true, "known_percent": 0.0} | dict.fromkeys(
                ("median_error_m", "above_1m_percent")
            )
        median = int(np.searchsorted(np.cumsum(self._counts), n / 2)) / _PER_M
        large = int(self._counts[int(_LARGE_M * _PER_M) + 1 :].sum())
        return {
            "pixels": self._n_true,
            "known_percent": round(100 * n / self._n_true, 2),
            "median_error_m": median,
            "above_1m_percent": round(100 * large / n, 2),
        }
