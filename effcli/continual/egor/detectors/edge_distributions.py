"""What detectors say whose edges are distributions (GFL, Li et al., NeurIPS 2020), and how they are trained.

Symbols are those of the paper: z are logits, sigma(z) scores, y what a score should say: the IoU of the box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from effcli.continual.egor.detectors.assignment import assign, pairwise_iou
from effcli.continual.egor.detectors.detector import DetectionLoss, Detector, Raw, Targets, mean_of_levels
from effcli.continual.egor.detectors.losses import distribution_focal, quality_focal

BOX_WEIGHT, EDGE_WEIGHT = 2.0, 0.25
TEMPERATURE = 10.0
_EDGE_MARGIN = 0.1


class EdgeDistributions(Detector):
    """A network with one square anchor per location, whose ``edges`` are logits of 4 distributions.

    Attributes:
        reg_max: largest distance of an edge, in strides.
        anchor_scale: side of an anchor, in strides.
        offset: of a location's centre from its pixel, in strides.
    """

    reg_max: int
    anchor_scale: int
    offset: float = 0.0

    def scores(self, raw: Raw) -> Tensor:
        """sigma(z)."""
        return raw.logits.sigmoid()

    def boxes(self, raw: Raw) -> Tensor:
        """From the mean of each edge's distribution."""
        centres, strides = self._places(raw)
        return _from_edges(centres, self._distances(raw.edges) * strides[:, None])

    def small_boxes(self, raw: Raw) -> Tensor:
        """Centres in pixels with edges in strides, as ERD and the release of IOR decode them for their NMS."""
        centres, _ = self._places(raw)
        return _from_edges(centres, self._distances(raw.edges))

    def response(self, raw: Raw) -> Tensor:
        """The largest logit of any edge."""
        return raw.edges.amax(-1)

    def detection_loss(self, raw: Raw, targets: Targets, first: int = 0) -> DetectionLoss:
        """QFL + 2 GIoU + 0.25 DFL of the classes from ``first`` on (GFL, equations 2 to 6).

        QFL is divided by the positives of the batch; GIoU and DFL are weighted by each positive's best score.
        """
        centres, strides = self._places(raw)
        levels = self.level_sizes(raw)
        assigned = assign(centres, strides * self.anchor_scale, levels, targets)
        image, place = torch.nonzero(assigned >= 0, as_tuple=True)
        logits = raw.logits[..., first:]
        y = torch.zeros_like(logits)
        n_positives = len(image)
        if not n_positives:
            nothing = raw.edges.sum() * 0
            return DetectionLoss(quality_focal(logits, y) + nothing, nothing.detach(), 0)
        chosen = assigned[image, place]
        stride, edges = strides[place][:, None], raw.edges[image, place]
        true_boxes = targets.boxes[image, chosen] / stride
        found = _from_edges(centres[place] / stride, self._distances(edges))
        quality = pairwise_iou(found.detach()[:, None], true_boxes[:, None])[:, 0, 0]
        label = targets.labels[image, chosen] - first
        y[image, place, label] = quality
        score = logits.detach()[image, place].sigmoid()
        weight = score.amax(-1)
        giou = generalized_box_iou_loss(found, true_boxes)
        distances = _to_edges(centres[place] / stride, true_boxes).clamp(0, self.reg_max - _EDGE_MARGIN)
        dfl = distribution_focal(edges.unflatten(-1, (4, -1)), distances).mean(-1)
        boxes = (weight * (BOX_WEIGHT * giou + EDGE_WEIGHT * dfl)).sum() / weight.sum()
        total = quality_focal(logits, y) / n_positives + boxes
        gap = (quality - score.gather(1, label[:, None])[:, 0]).abs()
        return DetectionLoss(total, mean_of_levels(gap, place, levels), n_positives)

    def box_distances(self, new: Tensor, old: Tensor) -> Tensor:
        """T^2 times the mean over bins of the softened distributions' KL divergence, T = 10, ``[K, 4]``."""
        new, old = (edges.unflatten(-1, (4, -1)) / TEMPERATURE for edges in (new, old))
        divergence = F.kl_div(new.log_softmax(-1), old.softmax(-1), reduction="none")
        return divergence.mean(-1) * TEMPERATURE**2

    def _distances(self, edges: Tensor) -> Tensor:
        """The mean of each edge's distribution, in strides, ``[..., 4]``."""
        bins = torch.arange(self.reg_max + 1.0, device=edges.device)
        means: Tensor = edges.unflatten(-1, (4, -1)).softmax(-1) @ bins
        return means

    def _places(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Centres ``[N, 2]`` in pixels and strides ``[N]`` of all places."""
        centres, strides = [], []
        for stride, level in zip(self.strides, raw.features, strict=True):
            height, width = level.shape[-2:]
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            grid = torch.stack([x, y], -1).flatten(0, 1)
            centres.append((grid + self.offset) * float(stride))
            strides.append(torch.full((height * width,), float(stride)))
        return torch.cat(centres).to(raw.edges.device), torch.cat(strides).to(raw.edges.device)


def by_place(level: Tensor) -> Tensor:
    """``[B, C, H, W]`` as ``[B, H W, C]``."""
    return level.flatten(2).transpose(1, 2)


def _from_edges(centres: Tensor, distances: Tensor) -> Tensor:
    """Boxes from the distances of left, top, right and bottom."""
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)


def _to_edges(centres: Tensor, boxes: Tensor) -> Tensor:
    return torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], -1)
