"""Every loss of the room (docs/methods/streamdsgn.md, Losses, Motion-consistency loss and Depth loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.network.anchors import Assignment, decode, direction_bin, encode
from effcli.detect_stream.network.config import CLASSES, NetworkConfig
from effcli.detect_stream.recipe import StreamLossSection
from effcli.nn.rotated_boxes import iou_3d, pairwise

ALPHA, GAMMA, BETA = 0.25, 2.0, 1 / 9
LEAST_POSITIVES = 10
_DEPTH_PARTS = 4


@dataclass(frozen=True)
class ObjectTensors:
    """The labelled objects of a frame, as tensors.

    Attributes:
        boxes: in the ground frame, ``[N, 7]``.
        labels: numbers of their classes, ``[N]``.
        ids: of their tracks, ``[N]``.
    """

    boxes: Tensor
    labels: Tensor
    ids: Tensor


def score_loss(scores: Tensor, classes: Tensor) -> Tensor:
    """Focal loss summed over anchors that count, over the number of positive ones and 10.

    Args:
        scores: logits, ``[A, 3]``.
        classes: number of the class, -1 for nothing, -2 for anchors that do not count, ``[A]``.
    """
    counts = classes > -2
    targets = F.one_hot(classes.clamp(min=-1) + 1, len(CLASSES) + 1)[:, 1:].to(scores.dtype)
    raw = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    p = scores.sigmoid()
    apart = p * (1 - targets) + (1 - p) * targets
    weight = (ALPHA * targets + (1 - ALPHA) * (1 - targets)) * apart**GAMMA
    return (weight * raw * counts[:, None]).sum() / ((classes >= 0).sum() + LEAST_POSITIVES)


def smooth_l1(difference: Tensor) -> Tensor:
    """Huber's loss with beta 1/9, element by element."""
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=BETA, reduction="none")


def box_losses(codes: Tensor, directions: Tensor, anchors: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Losses of the positive anchors of one frame.

    Args:
        codes: ``[P, 7]``.
        directions: logits, ``[P, 2]``.
        anchors: ``[P, 7]``.
        targets: boxes they are to find, ``[P, 7]``.

    Returns:
        ``box``: of codes, angles by the sine of their difference; ``overlap``: one less the 3D intersection over
        union; ``direction``: cross-entropy of the half turn.
    """
    n = max(len(codes), LEAST_POSITIVES)
    wanted = encode(targets, anchors)
    plain = codes[:, :6] - wanted[:, :6]
    turned = torch.sin(codes[:, 6:] - wanted[:, 6:])
    overlap = iou_3d(decode(codes, anchors), targets)
    return {
        "box": smooth_l1(torch.cat([plain, turned], 1)).sum() / n,
        "overlap": (1 - overlap).sum() / n,
        "direction": F.cross_entropy(directions, direction_bin(targets[:, 6]), reduction="sum") / n,
    }


def motion_loss(
    predicted: Tensor,
    now: Tensor,
    before: Tensor,
    before2: Tensor,
    known2: Tensor,
    n_positives: int,
    weight: float = 0.2,
    ahead: int = 1,
) -> Tensor:
    """Motion-consistency loss (MCL): the motion to the prediction is that of the last step, and its change the same.

    Args:
        predicted: boxes at t+1, or ``ahead`` frames after t, ``[P, 7]``; alone has a gradient.
        now, before, before2: where the same objects were at t, t-1 and t-2, ``[P, 7]``.
        known2: whether ``before2`` is known, ``[P]``.
        n_positives: of the frame.
        weight: of the change of motion (acceleration).
        ahead: frames from t to the prediction; its motion counts per frame.
    """
    step = _moved(predicted, now) / ahead
    last, earlier = _moved(now, before), _moved(before, before2)
    first = smooth_l1(step - last).sum(1)
    second = smooth_l1((step - last) - (last - earlier)).sum(1) * known2
    return (first + weight * second).sum() / max(n_positives, LEAST_POSITIVES)


def _moved(a: Tensor, b: Tensor) -> Tensor:
    """Along X, Y and Z in metres, and the sine of the turn, ``[P, 4]``."""
    return torch.cat([a[:, :3] - b[:, :3], torch.sin(a[:, 6:] - b[:, 6:])], 1)


def same_objects(targets: ObjectTensors, others: ObjectTensors) -> Tensor:
    """For each target the row of the same track among others, -1 where there is none: ``[N]``."""
    if not len(others.ids) or not len(targets.ids):
        return torch.full((len(targets.ids),), -1, device=targets.ids.device)
    same = (targets.ids[:, None] == others.ids[None]) & (targets.ids[:, None] >= 0)
    return torch.where(same.any(1), same.to(torch.uint8).argmax(1), -1)


def overlapping_objects(targets: ObjectTensors, others: ObjectTensors) -> Tensor:
    """For each target the row that overlaps it most in bird's-eye view, if the sizes differ by less than 10 cm."""
    if not len(others.ids) or not len(targets.ids):
        return torch.full((len(targets.ids),), -1, device=targets.ids.device)
    best, which = pairwise("bev", targets.boxes, others.boxes).max(1)
    alike = (targets.boxes[:, 3:6] - others.boxes[which, 3:6]).abs().sum(1) < 0.1
    return torch.where((best > 0) & alike, which, -1)


def histories(objects: Sequence[ObjectTensors], by_overlap: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Where the objects of a later frame were before.

    Args:
        objects: of the later frame, at t, t-1 and t-2.
        by_overlap: find an object at t by the box that overlaps it most, not by its track.

    Returns:
        Boxes at t, t-1 and t-2 ``[N, 3, 7]``, whether t and t-1 are known and whether t-2 is too, ``[N]`` each.
    """
    following, now = objects[0], objects[1]
    rows = overlapping_objects(following, now) if by_overlap else same_objects(following, now)
    ids = torch.where(rows >= 0, now.ids[rows.clamp(min=0)] if len(now.ids) else rows, -1)
    places, known = [], []
    for others in objects[1:]:
        row = same_objects(ObjectTensors(following.boxes, following.labels, ids), others)
        found = row >= 0
        boxes = others.boxes[row.clamp(min=0)] if len(others.boxes) else following.boxes
        places.append(torch.where(found[:, None], boxes, following.boxes))
        known.append(found)
    return torch.stack(places, 1), known[0] & known[1], known[0] & known[1] & known[2]


def depth_loss(logits: Tensor, depth: Tensor, config: NetworkConfig) -> Tensor:
    """Cross-entropy of the depth of those pixels that have one, spread over its two nearest bins.

    The logits are enlarged four times along all three axes (trilinear, corners aligned), at these pixels alone.

    Args:
        logits: ``[B, K, h, w]``.
        depth: metres, 0 where unknown, ``[B, 4 h, 4 w]``.
    """
    inside = (depth > config.depth[0]) & (depth < config.depth[1])
    if not inside.any():
        return logits.sum() * 0
    log_p = torch.cat(
        [
            _enlarged(logits[i].float(), inside[i].nonzero(as_tuple=True), depth.shape[1:]).log_softmax(1)
            for i in range(len(logits))
        ]
    )
    n_bins = log_p.shape[1]
    step = (config.depth[1] - config.depth[0]) / n_bins
    at = (depth[inside] - config.depth[0]) / step - 0.5
    low = at.floor().clamp(0, n_bins - 1)
    share = (at - low).clamp(0, 1)
    bins = torch.stack([low, (low + 1).clamp(max=n_bins - 1)], 1).long()
    found = (torch.stack([1 - share, share], 1) * log_p.gather(1, bins)).sum(1)
    return -found.mean()


def _enlarged(logits: Tensor, pixels: tuple[Tensor, ...], size: Sequence[int]) -> Tensor:
    """Logits ``[K, h, w]`` at some pixels of the enlarged picture, ``[N, 4 K]``."""
    rows, columns = pixels
    where = torch.stack([2 * columns / (size[1] - 1) - 1, 2 * rows / (size[0] - 1) - 1], -1)
    picked = F.grid_sample(logits[None], where[None, None].to(logits.dtype), align_corners=True)[0, :, 0]
    return F.interpolate(
        picked.T[:, None], scale_factor=float(_DEPTH_PARTS), mode="linear", align_corners=True
    )[:, 0]


def frame_losses(
    scores: Tensor,
    codes: Tensor,
    directions: Tensor,
    anchors: Tensor,
    assignment: Assignment,
    objects: Sequence[ObjectTensors],
    targets: ObjectTensors,
    *,
    motion: bool,
    by_overlap: bool,
    ahead: int = 1,
) -> dict[str, Tensor]:
    """All losses of one frame but that of depth.

    Args:
        scores, codes, directions: of all anchors, ``[A, 3]``, ``[A, 7]``, ``[A, 2]``.
        anchors: ``[A, 7]``.
        assignment: which anchors are to find what.
        objects: ``ahead`` frames after t, at t, t-1 and t-2.
        targets: those that are to be found.
        motion: also the consistency of motion.
        by_overlap: how objects are found again for it.
        ahead: frames from t to the predicted moment.
    """
    positive = (assignment.classes >= 0).nonzero()[:, 0]
    which = assignment.objects[positive]
    found = {"score": score_loss(scores, assignment.classes)}
    if not len(positive):
        zero = (codes.sum() + directions.sum()) * 0
        return found | dict.fromkeys(("box", "overlap", "direction", *(("motion",) if motion else ())), zero)
    own = anchors[positive]
    found |= box_losses(codes[positive], directions[positive], own, targets.boxes[which])
    if motion:
        places, known, known2 = histories(objects, by_overlap)
        use = known[which]
        past = places[which[use]]
        found["motion"] = motion_loss(
            decode(codes[positive][use], own[use]),
            past[:, 0], past[:, 1], past[:, 2], known2[which[use]].float(), len(positive), ahead=ahead,
        )  # fmt: skip
    return found


def total_loss(terms: dict[str, Tensor], weights: StreamLossSection) -> Tensor:
    """The sum that is minimised."""
    factors = {
        "score": 1.0,
        "box": weights.box,
        "overlap": weights.overlap,
        "direction": weights.direction,
        "depth": weights.depth,
        "motion": weights.motion,
    }
    return torch.stack([factors[name] * term for name, term in terms.items()]).sum()
