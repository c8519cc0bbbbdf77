"""Metrics of class-incremental learning, from matrices of accuracies.

``R[t, i]`` is the accuracy on the classes of task ``i`` after learning task ``t``, 0..1; what is not known is NaN:
tasks that come later, and those without test images. Means are of what is known.
"""

from __future__ import annotations

import numpy as np


def last_average(accuracy: np.ndarray) -> float:
    """The mean of the last row: of tasks, not of images."""
    return _mean(accuracy[-1])


def forgetting(accuracy: np.ndarray) -> float | None:
    """How much of the best accuracy on each earlier task is gone, averaged (Chaudhry et al. 2018); None for one task.

    The best is looked for in the rows before the last, so a task that got better at the end counts as negative.
    """
    n_tasks = len(accuracy)
    if n_tasks < 2:
        return None
    best = [np.fmax.reduce(accuracy[i:-1, i]) for i in range(n_tasks - 1)]
    return _mean(np.array(best) - accuracy[-1, :-1])


def backward_transfer(accuracy: np.ndarray) -> float | None:
    """The mean change of each earlier task since it was learned; None for one task."""
    if len(accuracy) < 2:
        return None
    return _mean(accuracy[-1, :-1] - np.diagonal(accuracy)[:-1])


def average_incremental(accuracy: np.ndarray, n_images: np.ndarray) -> float:
    """The mean over tasks of the accuracy on all images of the classes seen so far, the first task counted.

    Args:
        accuracy: ``R``.
        n_images: test images of each task.
    """
    seen = ~np.isnan(accuracy) & (n_images > 0)
    return float(
        np.mean(
            [
                np.average(row[known], weights=n_images[known])
                for row, known in zip(accuracy, seen, strict=True)
                if known.any()
            ]
            or [np.nan]
        )
    )


def stability_plasticity(accuracy: np.ndarray) -> tuple[float, float, float] | None:
    """Accuracy on the earlier tasks at the end, on each task when it was new, and the harmonic mean (CLFD, Fig. 8)."""
    if len(accuracy) < 2:
        return None
    stability, plasticity = _mean(accuracy[-1, :-1]), _mean(np.diagonal(accuracy))
    total = stability + plasticity
    return stability, plasticity, 2 * stability * plasticity / total if total else 0.0


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else float("nan")
