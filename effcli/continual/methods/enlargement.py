"""More classes than there are, for features that leave room for later ones: turned or mixed images.

IR, "dataset augmentation", in the forms of PASS and IL2A, which share IR's training.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

N_MIXTURES = 4
"""Mixed images for each image of a batch, at most."""

Enlarge = Literal["rotation", "mixup", "soft", "none"]


def n_outputs(enlarge: Enlarge, n_classes: int) -> int:
    """Outputs of the temporary classifier of ``n_classes`` classes."""
    if enlarge == "rotation":
        return 4 * n_classes
    return n_classes + (n_classes * (n_classes - 1) // 2 if enlarge == "mixup" else 0)


def enlarged(x: Tensor, labels: Tensor, n_classes: int, enlarge: Enlarge) -> tuple[Tensor, Tensor]:
    """A larger batch with labels among :func:`n_outputs`.

    Args:
        x: images ``[B, C, S, S]``.
        labels: ``[B]``, from 0 to ``n_classes - 1``.
        n_classes: of the task.
        enlarge: how.

    Returns:
        Images, and labels: ``[N]``, or of soft ones the share of each class, ``[N, n_classes]``.
    """
    if enlarge == "rotation":
        return rotated(x, labels)
    if enlarge == "mixup":
        return mixed_classes(x, labels, n_classes)
    return mixed(x, labels, n_classes) if enlarge == "soft" else (x, labels)


def rotated(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each image turned by 0, 90, 180 and 270 degrees, one after another: label y becomes 4y to 4y + 3."""
    turned = torch.stack([x.rot90(r, (2, 3)) for r in range(4)], 1).flatten(0, 1)
    return turned, (4 * labels[:, None] + torch.arange(4, device=labels.device)).flatten()


def mixed_classes(x: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """The batch, and about half-and-half mixtures of different classes: each pair of classes is one more class.

    The pair (a, b) has the label ``n_classes + hi (hi - 1) / 2 + lo`` whichever way round.
    """
    images, numbers = [x], [labels]
    for _ in range(N_MIXTURES):
        other = torch.randperm(len(x), device=x.device)
        shares = np.random.beta(20, 20, len(x))
        shares[(shares < 0.4) | (shares > 0.6)] = 0.5
        share = torch.from_numpy(shares).to(x)[:, None, None, None]
        different = labels != labels[other]
        images.append((share * x + (1 - share) * x[other])[different])
        low, high = torch.minimum(labels, labels[other]), torch.maximum(labels, labels[other])
        numbers.append((n_classes + high * (high - 1) // 2 + low)[different])
    return torch.cat(images), torch.cat(numbers)


def mixed(x: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Ordinary mixup: the batch mixed with itself in another order, and the labels in the same shares."""
    other = torch.randperm(len(x), device=x.device)
    share = torch.from_numpy(np.random.beta(20, 20, len(x))).to(x)[:, None]
    one_hot = F.one_hot(labels, n_classes).to(x)
    images = share[..., None, None] * x + (1 - share[..., None, None]) * x[other]
    return images, share * one_hot + (1 - share) * one_hot[other]
