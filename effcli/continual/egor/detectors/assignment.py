"""Which places of a detector answer for which object (ATSS: Zhang et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effcli.continual.egor.detectors.detector import Targets

TOP_K = 9
_INSIDE = 0.01


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``[..., N, 4]`` with boxes ``[..., G, 4]``: ``[..., N, G]``."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    both = sides.clamp(min=0).prod(-1)
    return both / (box_area(a) + box_area(b) - both).clamp(min=1e-9)


def box_area(boxes: Tensor) -> Tensor:
    """Of boxes ``[..., 4]``."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def assign(centres: Tensor, sides: Tensor, levels: Sequence[int], targets: Targets) -> Tensor:
    """The object that each place answers for: int64 ``[B, N]``, -1 for none.

    For each object the 9 places of each level with the nearest centres are candidates. Those whose anchor overlaps it
    by at least mean + deviation of all its candidates' overlaps, and whose centre is inside, are its places; one that
    has several objects keeps the one it overlaps most.

    Args:
        centres: of the anchors, x and y in pixels, ``[N, 2]``.
        sides: of the square anchors, pixels, ``[N]``.
        levels: how many of the N places belong to each level.
        targets: the objects.
    """
    boxes = targets.boxes
    half = sides[:, None] / 2
    overlaps = pairwise_iou(torch.cat([centres - half, centres + half], -1), boxes)  # [B, N, G]
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    distances = torch.cdist(centres, middles)  # [B, N, G]
    is_candidate = torch.zeros_like(overlaps, dtype=torch.bool)
    first = 0
    for n in levels:
        near = distances[:, first : first + n].topk(min(TOP_K, n), dim=1, largest=False).indices
        is_candidate[:, first : first + n].scatter_(1, near, True)
        first += n
    threshold = _mean_plus_deviation(overlaps, is_candidate)
    from_edges = torch.cat(
        [centres[:, None] - boxes[:, None, :, :2], boxes[:, None, :, 2:] - centres[:, None]], -1
    )
    is_inside = from_edges.amin(-1) > _INSIDE
    is_place = is_candidate & (overlaps >= threshold) & is_inside & targets.valid[:, None]
    best, chosen = torch.where(is_place, overlaps, -1.0).max(-1)
    return torch.where(best >= 0, chosen, -1)


def _mean_plus_deviation(values: Tensor, mask: Tensor) -> Tensor:
    """Over dimension 1 of ``[B, N, G]`` where the mask is set; the deviation is that of a sample."""
    n = mask.sum(1, keepdim=True)
    mean = (values * mask).sum(1, keepdim=True) / n
    squares = ((values - mean).square() * mask).sum(1, keepdim=True)
    return mean + (squares / (n - 1).clamp(min=1)).sqrt()
