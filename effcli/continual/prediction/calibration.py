"""What the scores of a classifier are worth, found on the images that it was measured on, never on learned ones."""

from __future__ import annotations

import torch
from torch import Tensor

from effcli.continual.network import Calibration

KEPT_SHARE = 0.95
"""Of the test images that are of known classes, the share that is not taken for something unknown."""

_LOWEST, _HIGHEST, _HALVINGS = 1e-4, 1e4, 60


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """A temperature, and a score below which an image is more likely of no known class.

    Args:
        logits: of test images, float ``[N, K]``; N at least 1.
        labels: their classes, ``[N]``.
    """
    temperature = fitting_temperature(logits, labels)
    scores = torch.softmax(logits.double() / temperature, 1).amax(1)
    below = float(scores.sort().values[int((1 - KEPT_SHARE) * len(scores))])
    return Calibration(temperature, below, len(labels))


def fitting_temperature(logits: Tensor, labels: Tensor) -> float:
    """T, so that the mean score of the best classes is the share of right ones, of ``softmax(logits / T)``.

    The share is (right + 1) / (N + 2), the rule of succession, so that a few right answers do not make it certain.
    The mean score falls with T: it is found by halving an interval.
    """
    right = int((logits.argmax(1) == labels).sum())
    wanted = (right + 1) / (len(labels) + 2)
    low, high = _LOWEST, _HIGHEST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        score = float(torch.softmax(logits.double() / middle, 1).amax(1).mean())
        low, high = (middle, high) if score > wanted else (low, middle)
    return float((low * high) ** 0.5)
