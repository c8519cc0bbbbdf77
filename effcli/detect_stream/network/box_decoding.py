"""From the head's outputs to objects (docs/methods/streamdsgn.md, Post-processing)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from effcli.core.tensor_file import require_finite_output
from effcli.detect_stream.data.boxes3d import cut_to_image, image_boxes
from effcli.detect_stream.data.frame_objects import FrameObjects, objects_of
from effcli.detect_stream.network.anchors import anchors_of, decode, with_direction
from effcli.detect_stream.network.config import CLASSES, NetworkConfig
from effcli.detect_stream.network.streamdsgn import HeadOutputs
from effcli.nn.rotated_boxes import rotated_nms


@dataclass(frozen=True)
class Limits:
    """Which boxes are kept.

    Attributes:
        score: least score.
        iou: a box that overlaps a better one of its class by more goes.
        candidates: best boxes of a class that are looked at.
        most: boxes that are kept in all.
    """

    score: float = 0.1
    iou: float = 0.25
    candidates: int = 300
    most: int = 500


def boxes_of(outputs: HeadOutputs, config: NetworkConfig, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes of one frame.

    Args:
        outputs: of a batch of one.
        config: of the network.
        limits: which are kept.

    Returns:
        Boxes ``[N, 7]``, scores ``[N]`` and numbers of classes ``[N]``, best first.

    Raises:
        NonFiniteError: the network gave NaN.
    """
    anchors = anchors_of(config).to(outputs.scores.device)
    scores = require_finite_output(outputs.scores[0], "the scores of boxes").sigmoid()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in range(len(CLASSES)):
        own = scores[:, number]
        rows = (own >= limits.score).nonzero()[:, 0]
        if len(rows) > limits.candidates:
            rows = rows[own[rows].topk(limits.candidates).indices]
        if not len(rows):
            continue
        boxes = decode(outputs.codes[0, rows], anchors[rows])
        boxes[:, 6] = with_direction(boxes[:, 6], outputs.directions[0, rows].argmax(1))
        kept = rotated_nms(boxes, own[rows], limits.iou)
        found.append((boxes[kept], own[rows][kept], torch.full_like(kept, number)))
    if not found:
        return anchors.new_zeros(0, 7), anchors.new_zeros(0), torch.zeros(0, dtype=torch.long)
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = scores.argsort(descending=True, stable=True)[: limits.most]
    return boxes[order], scores[order], labels[order]


def as_objects(
    boxes: Tensor, scores: Tensor, labels: Tensor, projection: np.ndarray, size: tuple[int, int]
) -> FrameObjects:
    """Boxes as objects, with what a camera sees of them; those outside the picture go.

    Args:
        boxes, scores, labels: as of :func:`boxes_of`.
        projection: 3x4 matrix of the left camera, for the pixels of the source.
        size: height and width of its pictures.
    """
    plain = boxes.detach().cpu().double().numpy().reshape(-1, 7)
    kinds = tuple(CLASSES[i] for i in labels.tolist())
    flat = image_boxes(plain, projection)
    cut = cut_to_image(flat, *size)
    objects = objects_of(kinds, plain, image_boxes=np.nan_to_num(cut), scores=scores.detach().cpu().numpy())
    return objects.pick(((cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])) if len(cut) else [])
