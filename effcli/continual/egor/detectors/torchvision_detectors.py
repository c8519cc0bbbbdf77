"""torchvision's FCOS and RetinaNet as detectors that learn: their networks and losses, our replay and distillation.

What differs from GFL: scores of FCOS are sqrt(sigma(z) sigma(centreness)) as torchvision has them; boxes have no
distributions, so box distillation is L1 of the four distances (FCOS) or smooth L1 of the four offsets (RetinaNet);
places for it are chosen by the best score.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from effcli.continual.egor.detectors.assignment import pairwise_iou
from effcli.continual.egor.detectors.detector import DetectionLoss, Detector, Raw, Targets, mean_of_levels
from effcli.core.errors import InputError
from effcli.core.weight_file import check_tensors, make_within

log = logging.getLogger(__name__)

PRIOR = 0.01
COLUMNS = "head.classification_head.cls_logits.weight"
_FIRST_STRIDE = 8
_ANCHORS = 9
_OLD_TOWER = re.compile(r"(head\.(?:classification|regression)_head\.conv)\.([0246])\.(weight|bias)")
_BUILDERS = {
    "fcos": "fcos_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "retinanet-v2": "retinanet_resnet50_fpn_v2",
}
_BOX = 4


class TorchvisionDetector(Detector):
    """Common to both.

    Args:
        net: torchvision's.
    """

    strides = (8, 16, 32, 64, 128)

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net: Any = net

    @property
    def n_classes(self) -> int:
        """How many classes it knows."""
        return int(self.net.head.classification_head.num_classes)

    @property
    def n_anchors(self) -> int:
        """Of each place of a level."""
        return int(self.net.head.classification_head.num_anchors)

    @property
    def trunk(self) -> tuple[nn.Module, ...]:
        """The backbone, whose pyramid is inside."""
        return (self.net.backbone,)

    def pyramid(self, images: Tensor) -> Sequence[Tensor]:
        """What the heads see."""
        return list(self.net.backbone(images).values())

    def heads(self, levels: Sequence[Tensor]) -> Raw:
        """What is said of a pyramid."""
        head, levels = self.net.head.classification_head, list(levels)
        towers = tuple(head.conv(level) for level in levels)
        logits = [self._by_anchor(head.cls_logits(tower)) for tower in towers]
        return Raw(torch.cat(logits, 1).float(), self._edges(levels).float(), towers, tuple(levels))

    def _edges(self, levels: list[Tensor]) -> Tensor:
        """What boxes are decoded from."""
        raise NotImplementedError

    def _by_anchor(self, level: Tensor) -> Tensor:
        """``[B, A C, H, W]`` as ``[B, H W A, C]``."""
        n, _, height, width = level.shape
        by_anchor = level.view(n, self.n_anchors, -1, height, width).permute(0, 3, 4, 1, 2)
        return by_anchor.reshape(n, height * width * self.n_anchors, -1)

    def grow(self, n_new: int) -> None:
        """Have ``n_new`` more classes: columns ~ N(0, 0.01^2) with bias -log((1 - 0.01) / 0.01); old ones stay."""
        self._add_columns(n_new, self.n_classes)

    def renew(self, n_new: int) -> None:
        """Have ``n_new`` new classes in place of all."""
        self._add_columns(n_new, 0)

    def _add_columns(self, n_new: int, n_kept: int) -> None:
        weight, bias = (one[:, :n_kept] for one in self._columns())
        new = weight.new_empty(self.n_anchors, n_new, *weight.shape[2:]).normal_(std=0.01)
        new_bias = bias.new_full((self.n_anchors, n_new), -math.log((1 - PRIOR) / PRIOR))
        self._set_columns(torch.cat([weight, new], 1), torch.cat([bias, new_bias], 1))
        self.net.head.classification_head.num_classes = n_kept + n_new

    def drop_column(self, column: int) -> None:
        """Forget what is said of one class, such as the background that torchvision's labels leave room for."""
        weight, bias = self._columns()
        kept = [k for k in range(self.n_classes) if k != column]
        self._set_columns(weight[:, kept], bias[:, kept])
        self.net.head.classification_head.num_classes -= 1

    def _columns(self) -> tuple[Tensor, Tensor]:
        """Weights ``[A, C, F, 3, 3]`` and biases ``[A, C]`` of the last convolution."""
        conv = self.net.head.classification_head.cls_logits
        return (
            conv.weight.detach().unflatten(0, (self.n_anchors, -1)),
            conv.bias.detach().unflatten(0, (self.n_anchors, -1)),
        )

    def _set_columns(self, weight: Tensor, bias: Tensor) -> None:
        conv = nn.Conv2d(weight.shape[2], weight.shape[0] * weight.shape[1], 3, padding=1).to(weight.device)
        with torch.no_grad():
            conv.weight.copy_(weight.flatten(0, 1))
            conv.bias.copy_(bias.flatten())  # type: ignore[union-attr]
        self.net.head.classification_head.cls_logits = conv

    def small_boxes(self, raw: Raw) -> Tensor:
        """The boxes: the release's quirk is one of GFL's edges."""
        return self.boxes(raw)

    def response(self, raw: Raw) -> Tensor:
        """The best score."""
        return self.scores(raw).amax(-1)

    def anchors(self, raw: Raw) -> Tensor:
        """torchvision's anchors, ``[N, 4]``."""
        grids = [list(feature.shape[-2:]) for feature in raw.features]
        size = [side * _FIRST_STRIDE for side in grids[0]]
        device = raw.edges.device
        strides = [
            [torch.tensor(side // n, device=device) for side, n in zip(size, grid, strict=True)]
            for grid in grids
        ]
        generator = self.net.anchor_generator
        generator.set_cell_anchors(torch.float32, device)
        return torch.cat(generator.grid_anchors(grids, strides))

    def detection_loss(self, raw: Raw, targets: Targets, first: int = 0) -> DetectionLoss:
        """torchvision's training loss of the columns from ``first`` on."""
        anchors = self.anchors(raw)
        per_image = [
            {"boxes": boxes[valid], "labels": labels[valid] - first}
            for boxes, labels, valid in zip(targets.boxes, targets.labels, targets.valid, strict=True)
        ]
        each = [anchors] * len(per_image)
        matched = self._matched(per_image, each, self.level_sizes(raw))
        outputs = self._outputs(Raw(raw.logits[..., first:], raw.edges, raw.features))
        losses = self.net.head.compute_loss(per_image, outputs, each, matched)
        total = torch.stack(list(losses.values())).sum()
        balance, n = self._balance(raw, targets, torch.stack(matched))
        return DetectionLoss(total, balance, n)

    def _outputs(self, raw: Raw) -> dict[str, Tensor]:
        """As torchvision's head gives them."""
        return {"cls_logits": raw.logits, "bbox_regression": raw.edges}

    def _matched(
        self, targets: list[dict[str, Tensor]], anchors: list[Tensor], levels: list[int]
    ) -> list[Tensor]:
        """The object of each anchor of each image, negative for none, by torchvision's rule."""
        raise NotImplementedError

    @torch.no_grad()
    def _balance(self, raw: Raw, targets: Targets, matched: Tensor) -> tuple[Tensor, int]:
        """s, and the number of positives."""
        image, place = torch.nonzero(matched >= 0, as_tuple=True)
        if not len(image):
            return raw.logits.sum() * 0, 0
        valid_first = [torch.nonzero(v)[:, 0] for v in targets.valid]
        chosen = torch.stack(
            [valid_first[i][matched[i, p]] for i, p in zip(image.tolist(), place.tolist(), strict=True)]
        )
        score = self.own_probability(raw)[image, place, targets.labels[image, chosen]]
        gap = (self._quality(raw, targets, image, place, chosen) - score).abs()
        return mean_of_levels(gap, place, self.level_sizes(raw)), len(image)

    def own_probability(self, raw: Raw) -> Tensor:
        """p of the balance factor, ``[B, N, C]``."""
        return raw.logits.sigmoid()

    def _quality(self, raw: Raw, targets: Targets, image: Tensor, place: Tensor, chosen: Tensor) -> Tensor:
        """What the score of a positive should be: 1."""
        return torch.ones(len(image), device=raw.logits.device)


class Fcos(TorchvisionDetector):
    """FCOS (Tian et al., ICCV 2019): edges are left, top, right and bottom in strides, and centreness."""

    def _edges(self, levels: list[Tensor]) -> Tensor:
        boxes, centreness = self.net.head.regression_head(levels)
        return torch.cat([boxes, centreness], -1)

    def _outputs(self, raw: Raw) -> dict[str, Tensor]:
        return {
            "cls_logits": raw.logits,
            "bbox_regression": raw.edges[..., :_BOX],
            "bbox_ctrness": raw.edges[..., _BOX:],
        }

    def scores(self, raw: Raw) -> Tensor:
        """sqrt(sigma(z) sigma(centreness))."""
        return (self.own_probability(raw) + 1e-12).sqrt()

    def own_probability(self, raw: Raw) -> Tensor:
        """sigma(z) sigma(centreness)."""
        return raw.logits.sigmoid() * raw.edges[..., _BOX:].sigmoid()

    def boxes(self, raw: Raw) -> Tensor:
        """From the distances to the four edges."""
        anchors = self.anchors(raw).expand(len(raw.edges), -1, -1)
        boxes: Tensor = self.net.box_coder.decode(raw.edges[..., :_BOX], anchors)
        return boxes

    def box_distances(self, new: Tensor, old: Tensor) -> Tensor:
        """Absolute differences of the four distances, in strides."""
        return (new[..., :_BOX] - old[..., :_BOX]).abs()

    def _matched(
        self, targets: list[dict[str, Tensor]], anchors: list[Tensor], levels: list[int]
    ) -> list[Tensor]:
        rule: Any = SimpleNamespace(center_sampling_radius=self.net.center_sampling_radius, head=_MATCHES)
        found: list[Tensor] = FCOS.compute_loss(rule, targets, {}, anchors, levels)
        return found

    def _quality(self, raw: Raw, targets: Targets, image: Tensor, place: Tensor, chosen: Tensor) -> Tensor:
        """IoU."""
        found, true = self.boxes(raw)[image, place], targets.boxes[image, chosen]
        return pairwise_iou(found[:, None], true[:, None])[:, 0, 0]


class Retina(TorchvisionDetector):
    """RetinaNet (Lin et al., ICCV 2017): edges are offsets from nine anchors a place."""

    def _edges(self, levels: list[Tensor]) -> Tensor:
        offsets: Tensor = self.net.head.regression_head(levels)
        return offsets

    def scores(self, raw: Raw) -> Tensor:
        """sigma(z)."""
        return raw.logits.sigmoid()

    def boxes(self, raw: Raw) -> Tensor:
        """From offsets and logarithms of sides."""
        anchors = self.anchors(raw)
        coder = self.net.head.regression_head.box_coder
        return torch.stack([coder.decode_single(edges, anchors) for edges in raw.edges])

    def box_distances(self, new: Tensor, old: Tensor) -> Tensor:
        """Smooth L1 of the four offsets."""
        return F.smooth_l1_loss(new, old, reduction="none")

    def _matched(
        self, targets: list[dict[str, Tensor]], anchors: list[Tensor], levels: list[int]
    ) -> list[Tensor]:
        rule: Any = SimpleNamespace(proposal_matcher=self.net.proposal_matcher, head=_MATCHES)
        found: list[Tensor] = RetinaNet.compute_loss(rule, targets, {}, anchors)
        return found


_MATCHES = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
"""In the place of a head: torchvision's matching then gives what it would hand to the head's loss."""


class RetinaV2(Retina):
    """torchvision's second RetinaNet (retinanet_resnet50_fpn_v2): GroupNorm in the towers, GIoU of boxes."""


KINDS: dict[str, type[TorchvisionDetector]] = {"fcos": Fcos, "retinanet": Retina, "retinanet-v2": RetinaV2}


def new_torchvision_detector(kind: str, n_classes: int, *, frozen: bool) -> TorchvisionDetector:
    """FCOS or RetinaNet with ResNet-50 and an FPN, as torchvision builds them.

    Args:
        kind: ``fcos``, ``retinanet`` or ``retinanet-v2``.
        n_classes: columns.
        frozen: whether BatchNorm is torchvision's FrozenBatchNorm2d, as in its pretrained models of the first two.
    """
    is_v2 = kind == "retinanet-v2"
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d if frozen else nn.BatchNorm2d,
        trainable_layers=3 if frozen else 5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(2048 if is_v2 else 256, 256),
    )
    if kind == "fcos":
        return Fcos(FCOS(backbone, n_classes))
    if not is_v2:
        return Retina(RetinaNet(backbone, n_classes))
    head = RetinaNetHead(256, _ANCHORS, n_classes, norm_layer=partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    return RetinaV2(RetinaNet(backbone, n_classes, head=head))


def kind_of(weights: Mapping[str, Tensor]) -> str | None:
    """Which of torchvision's detectors a state dict is of; None for none of them."""
    if "head.regression_head.bbox_ctrness.weight" in weights:
        return "fcos"
    if COLUMNS in weights and not any("rpn" in k for k in weights):
        has_norms = "head.classification_head.conv.0.1.weight" in weights
        return "retinanet-v2" if has_norms else "retinanet"
    return None


def from_state_dict(weights: Mapping[str, Tensor], place: str = "weights") -> TorchvisionDetector:
    """A detector with these weights; ``place`` is where they come from, in messages.

    Names may have a prefix, as wrappers of the model give them (``module.``, ``model.``), and those of RetinaNet may
    be torchvision's before version 0.13.

    Raises:
        InputError: they are of none of these kinds, or names or shapes are not those of the ResNet-50 form.
    """
    weights = _unwrapped(weights, place)
    kind = kind_of(weights)
    columns = weights.get(COLUMNS)
    if kind is None or columns is None or columns.ndim != 4:
        what = "is not a detector of ours, nor a state dict of torchvision's FCOS or RetinaNet"
        raise InputError(what, place=place, hint=_hint(weights))
    if kind == "retinanet":
        weights = _with_new_names(weights)
    n_classes = columns.shape[0] // (1 if kind == "fcos" else _ANCHORS)
    frozen = not any(name.endswith("num_batches_tracked") for name in weights)
    n_elements = sum(value.numel() for value in weights.values())
    detector = make_within(
        lambda: new_torchvision_detector(kind, n_classes, frozen=frozen), n_elements, len(weights), place
    )
    try:
        check_tensors(detector.net.state_dict(), weights, place)
    except InputError as error:
        what = f"is not torchvision's {_BUILDERS[kind]}: {error.message}"
        raise InputError(what, place=place, hint="other backbones are not supported") from None
    detector.net.load_state_dict(dict(weights))
    return detector


def _unwrapped(weights: Mapping[str, Tensor], place: str) -> Mapping[str, Tensor]:
    """Without the prefix of a wrapper, such as ``module.``; what does not have it is left out, and said."""
    prefixes = sorted(name.removesuffix(COLUMNS) for name in weights if name.endswith(COLUMNS))
    if prefixes in ([], [""]):
        return weights
    if len(prefixes) > 1:
        names = ", ".join(repr(one) for one in prefixes)
        raise InputError(
            f"holds several detectors, whose names begin with {names}",
            place=place,
            hint="save the state dict of the one that is meant",
        )
    (prefix,) = prefixes
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if len(found) < len(weights):
        n = len(weights) - len(found)
        log.warning("%s: %d tensors whose names do not begin with %r are left out", place, n, prefix)
    return found


def _with_new_names(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """RetinaNet's towers as torchvision calls them from 0.13 on: conv.2.weight is conv.1.0.weight now."""

    def new(name: str) -> str:
        old = _OLD_TOWER.fullmatch(name)
        return name if old is None else f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}"

    return {new(name): value for name, value in weights.items()}


def _hint(weights: Mapping[str, Tensor]) -> str:
    if any("rpn" in name or "roi_heads" in name for name in weights):
        return "Faster R-CNN and others with two stages are not supported"
    if COLUMNS.removeprefix("head.") in weights or any(name.startswith("backbone.body") for name in weights):
        return "save the state dict of the whole model: torch.save(model.state_dict(), FILE)"
    return "fcos_resnet50_fpn, retinanet_resnet50_fpn and retinanet_resnet50_fpn_v2 are supported"
