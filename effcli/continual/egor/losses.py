"""Distances from the old detector where it responds (docs/methods/egor.md, High-response distillation)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, roi_align

from effcli.continual.egor.detectors.detector import Detector, Raw
from effcli.continual.egor.recipe import DistillationSection

NMS_IOU = 0.005
DEVIATIONS = 2.0
EDGE_DIVISOR = 4
CALIBRATED_BATCH = 8
ROI, FINEST = 3, 56


def distillation(
    detector: Detector,
    new: Raw,
    old: Raw,
    pasted: Sequence[Tensor],
    n_old: int,
    balance: Tensor,
    settings: DistillationSection,
) -> dict[str, Tensor]:
    """The terms of Phi_inc's distance from Phi_ori.

    Args:
        detector: Phi_inc; also decodes what Phi_ori says.
        new: what Phi_inc says of the batch.
        old: what Phi_ori says of it.
        pasted: boxes of pasted objects in each image, pixels, ``[P, 4]`` each.
        n_old: columns of old classes.
        balance: s; with ``distillation.balance`` off 1 takes its place.
        settings: weights, and where distances are taken.

    Returns:
        ``class_distance``, ``box_distance`` and ``feature_distance``, weighted and balanced.
    """
    s = balance if settings.balance else torch.ones_like(balance)
    n_images = new.logits.shape[0]
    per_image = CALIBRATED_BATCH / n_images if settings.reduction == "batch-8" else 1.0
    old_scores = detector.scores(old)
    at_classes = chosen_places(old_scores.amax(-1), settings)
    at_boxes = chosen_places(detector.response(old), settings)
    kept = without_duplicates(detector, old, old_scores, at_boxes, settings.nms)
    terms = {
        "class_distance": class_distance(new, old, at_classes, n_old) * per_image,
        "box_distance": settings.box_weight * box_distance(detector, new, old, kept, n_old) * per_image,
        "feature_distance": settings.feature_weight
        * feature_distance(new.features, old.features, pasted, detector.strides),
    }
    return {name: settings.weight * s * value for name, value in terms.items()}


def chosen_places(response: Tensor, settings: DistillationSection) -> Tensor:
    """Where distances are taken: the 1000 highest of each image, or, as ERD, those above mean + 2 deviations.

    Args:
        response: ``[B, N]``.
        settings: which rule.

    Returns:
        A mask ``[B, N]``.
    """
    if settings.select == "threshold":
        limit = response.mean(1, keepdim=True) + DEVIATIONS * response.std(1, keepdim=True)
        return response > limit
    best = response.topk(min(settings.top_k, response.shape[1]), dim=1).indices
    return torch.zeros_like(response, dtype=torch.bool).scatter_(1, best, True)


def class_distance(new: Raw, old: Raw, places: Tensor, n_old: int) -> Tensor:
    """The mean over each image's places and old classes of (z_inc - z_ori)^2, summed over images."""
    squares = (new.logits[..., :n_old] - old.logits).square().mean(-1)
    return ((squares * places).sum(1) / places.sum(1).clamp(min=1)).sum()


@torch.no_grad()
def without_duplicates(detector: Detector, old: Raw, scores: Tensor, places: Tensor, nms: str) -> Tensor:
    """Those of the places that class-wise NMS at IoU 0.005 of the old detector's boxes leaves, a mask ``[B, N]``.

    ``reference`` decodes boxes as the released code does, with edges in strides beside centres in pixels; ``scaled``
    decodes them right.
    """
    image, place = torch.nonzero(places, as_tuple=True)
    boxes = (detector.small_boxes(old) if nms == "strides" else detector.boxes(old))[image, place]
    best, label = scores[image, place].max(-1)
    keep = batched_nms(boxes, best, image * scores.shape[-1] + label, NMS_IOU)
    kept = torch.zeros_like(places)
    kept[image[keep], place[keep]] = True
    return kept


def box_distance(detector: Detector, new: Raw, old: Raw, places: Tensor, n_old: int) -> Tensor:
    """The sum over places and edges of w KD, over 4; w is the best old score of Phi_inc, without gradient."""
    image, place = torch.nonzero(places, as_tuple=True)
    weight = detector.scores(new)[image, place, :n_old].amax(-1).detach()
    distances = detector.box_distances(new.edges[image, place], old.edges[image, place])
    return (weight[:, None] * distances).sum() / EDGE_DIVISOR


def feature_distance(
    new: Sequence[Tensor], old: Sequence[Tensor], pasted: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Frobenius norms of the differences of the classification towers in pasted boxes (3x3 RoIAlign), one a level."""
    rois = torch.cat(
        [torch.cat([boxes.new_full((len(boxes), 1), i), boxes], 1) for i, boxes in enumerate(pasted)]
    ).to(new[0].device)
    level = level_of(rois[:, 1:], len(strides))
    total = new[0].sum() * 0
    for number, (mine, theirs, stride) in enumerate(zip(new, old, strides, strict=True)):
        own = rois[level == number]
        if not len(own):
            continue
        difference = mine.float() - theirs.float()
        patches = roi_align(difference, own, ROI, 1 / stride, sampling_ratio=-1, aligned=True)
        total = total + patches.norm()
    return total


def level_of(boxes: Tensor, n_levels: int) -> Tensor:
    """The pyramid's level of each box: floor(log2(sqrt(w h) / 56 + 1e-6)), within those that there are."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    return (area.sqrt() / FINEST + 1e-6).log2().floor().clamp(0, n_levels - 1).long()
