"""GFL against parameter counts of the released model and slow, obvious losses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.egor.detectors.detector import Detections, Raw, Targets
from effcli.continual.egor.detectors.feature_statistics import watched_layers
from effcli.continual.egor.detectors.gfl import (
    Gfl,
    resnet50_config,
    tiny_config,
)
from effcli.continual.egor.detectors.losses import distribution_focal, quality_focal


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def targets(*images: list[tuple[tuple[float, float, float, float], int]]) -> Targets:
    most = max(1, max(map(len, images)))
    boxes, labels = torch.zeros(len(images), most, 4), torch.zeros(len(images), most, dtype=torch.long)
    valid = torch.zeros(len(images), most, dtype=torch.bool)
    for i, objects in enumerate(images):
        for j, (box, label) in enumerate(objects):
            boxes[i, j], labels[i, j], valid[i, j] = torch.tensor(box), label, True
    return Targets(boxes, labels, valid)


@pytest.fixture(scope="module")
def tiny() -> Gfl:
    torch.manual_seed(0)
    detector = Gfl(tiny_config(4)).eval()
    with torch.no_grad():  # scores and edges that differ from place to place
        for conv in (detector.gfl_cls, detector.gfl_reg):
            conv.weight.normal_(0, 0.1)
        detector.scales.copy_(torch.tensor([1.3, 0.8]))
    return detector


@pytest.mark.slow
def test_r50_has_the_parameters_of_the_released_model() -> None:
    forty = Gfl(resnet50_config(40))
    assert n_parameters(forty) == 32_348_337
    assert n_parameters(forty.backbone) == 23_508_032
    assert n_parameters(forty.fpn) == 3_868_672
    assert len(watched_layers(forty)) == 53
    forty.grow(40)
    assert n_parameters(forty) == n_parameters(Gfl(resnet50_config(80))) == 32_440_537


def test_growing_keeps_what_is_said_of_old_classes_bit_for_bit(tiny: Gfl) -> None:
    import copy

    grown = copy.deepcopy(tiny)
    grown.grow(3)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        before, after = tiny(x), grown(x)
    assert grown.n_classes == 7
    assert n_parameters(grown) - n_parameters(tiny) == 3 * (9 * 64 + 1)
    assert torch.equal(after.logits[..., :4], before.logits)
    assert torch.equal(after.edges, before.edges)
    new = grown.gfl_cls
    assert new.bias is not None
    assert new.bias[4:].tolist() == pytest.approx([-math.log(99)] * 3)
    assert float(new.weight[4:].detach().std()) == pytest.approx(0.01, rel=0.1)


def test_places_of_160_pixels() -> None:
    detector = Gfl(resnet50_config(2)).eval()
    with torch.no_grad():
        raw = detector(torch.zeros(1, 3, 160, 160))
    assert detector.level_sizes(raw) == [400, 100, 25, 9, 4]
    assert raw.logits.shape == (1, 538, 2)
    assert raw.edges.shape == (1, 538, 68)


def test_frozen_batchnorm_stays_as_it_is() -> None:
    detector = Gfl(resnet50_config(2, norm="frozen", frozen_stages=1)).train()
    assert not any(m.training for m in detector.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(p.requires_grad for p in detector.backbone.stem.parameters())
    assert not any(p.requires_grad for p in detector.backbone.stages[0].parameters())
    assert detector.backbone.stages[1][0].conv1.weight.requires_grad
    assert not detector.backbone.stages[1][0].bn1.weight.requires_grad
    assert detector.cls_tower.training


def test_quality_focal_against_its_equation() -> None:
    z, y = torch.randn(5, 3), torch.rand(5, 3)
    expected = 0.0
    for zi, yi in zip(z.flatten().tolist(), y.flatten().tolist(), strict=True):
        sigma = 1 / (1 + math.exp(-zi))
        expected -= (yi - sigma) ** 2 * (yi * math.log(sigma) + (1 - yi) * math.log(1 - sigma))
    assert float(quality_focal(z, y)) == pytest.approx(expected, rel=1e-5)


def test_distribution_focal_pulls_to_both_neighbours() -> None:
    edges = torch.randn(9)
    log_p = edges.log_softmax(0)
    found = distribution_focal(edges[None], torch.tensor([2.25]))
    assert float(found) == pytest.approx(float(-(0.75 * log_p[2] + 0.25 * log_p[3])), rel=1e-5)
    whole = distribution_focal(edges[None], torch.tensor([4.0]))
    assert float(whole) == pytest.approx(float(-log_p[4]), rel=1e-5)


def slow_loss(detector: Gfl, raw: Raw, wanted: Targets, first: int) -> tuple[float, float]:
    """The loss and s, place by place (GFL, equations 2 to 6; section 3.1)."""
    stride_of, centres = [], []
    for stride, level in zip(detector.strides, raw.features, strict=True):
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                centres.append((x * stride, y * stride))
                stride_of.append(stride)
    from effcli.continual.egor.detectors.assignment import assign

    sides = torch.tensor(stride_of) * 4.0
    assigned = assign(torch.tensor(centres).float(), sides, detector.level_sizes(raw), wanted)
    quality, boxes, edges, weights = 0.0, 0.0, 0.0, 0.0
    gaps: dict[int, list[float]] = {}
    n = 0
    for b in range(raw.logits.shape[0]):
        for i, (x, y) in enumerate(centres):
            z = raw.logits[b, i, first:]
            target = torch.zeros_like(z)
            j = int(assigned[b, i])
            if j >= 0:
                n += 1
                s = stride_of[i]
                p = raw.edges[b, i].view(4, 9).softmax(-1)
                left, top, right, bottom = [float((q * torch.arange(9)).sum()) for q in p]
                found = torch.tensor([x / s - left, y / s - top, x / s + right, y / s + bottom])
                true = wanted.boxes[b, j] / s
                inter = (torch.minimum(found[2:], true[2:]) - torch.maximum(found[:2], true[:2])).clamp(0)
                both = float(inter.prod())
                union = float((found[2:] - found[:2]).prod() + (true[2:] - true[:2]).prod()) - both
                hull = float((torch.maximum(found[2:], true[2:]) - torch.minimum(found[:2], true[:2])).prod())
                iou = both / union
                label = int(wanted.labels[b, j]) - first
                target[label] = iou
                w = float(z.sigmoid().max())
                weights += w
                boxes += w * (1 - iou + (hull - union) / hull)
                lengths = [x / s - true[0], y / s - true[1], true[2] - x / s, true[3] - y / s]
                for q, length in zip(p, lengths, strict=True):
                    d = min(max(float(length), 0.0), 8 - 0.1)
                    k = int(d)
                    edges -= w * ((k + 1 - d) * math.log(q[k]) + (d - k) * math.log(q[k + 1])) / 4
                gaps.setdefault(s, []).append(abs(iou - float(z.sigmoid()[label])))
            bce = F.binary_cross_entropy_with_logits(z, target, reduction="none")
            quality += float(((target - z.sigmoid()).square() * bce).sum())
    balance = sum(sum(one) / len(one) for one in gaps.values()) / len(gaps)
    return quality / n + 2 * boxes / weights + 0.25 * edges / weights, balance


@pytest.mark.parametrize("first", [0, 2])
def test_detection_loss_against_a_loop_over_places(tiny: Gfl, first: int) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        raw = tiny(torch.randn(2, 3, 64, 96))
    wanted = targets([((8, 6, 40, 44), 2), ((50, 20, 94, 60), 3)], [((0, 0, 90, 62), 2)])
    loss = tiny.detection_loss(raw, wanted, first)
    total, balance = slow_loss(tiny, raw, wanted, first)
    assert float(loss.total) == pytest.approx(total, rel=1e-4)
    assert float(loss.balance) == pytest.approx(balance, rel=1e-4)
    assert 0 <= float(loss.balance) <= 1
    assert loss.n_positives > 3


def test_a_batch_without_objects_has_a_loss(tiny: Gfl) -> None:
    raw = tiny(torch.randn(2, 3, 64, 64))
    loss = tiny.detection_loss(raw, targets([], []), 0)
    loss.total.backward()
    assert float(loss.total.detach()) > 0
    assert (float(loss.balance), loss.n_positives) == (0.0, 0)
    tiny.zero_grad(set_to_none=True)


def test_old_columns_get_no_gradient_from_the_detection_loss(tiny: Gfl) -> None:
    raw = tiny(torch.randn(1, 3, 64, 64))
    tiny.detection_loss(raw, targets([((8, 6, 40, 44), 3)]), first=2).total.backward()
    gradient = tiny.gfl_cls.weight.grad
    assert gradient is not None
    assert float(gradient[:2].abs().max()) == 0
    assert float(gradient[2:].abs().max()) > 0
    tiny.zero_grad(set_to_none=True)


def said(detector: Gfl, scores: dict[int, tuple[int, float]], height: int, width: int) -> Raw:
    """What a detector says that is sure of some places, and of boxes a stride and a half around their centres."""
    features = tuple(torch.zeros(1, 64, height // s, width // s) for s in detector.strides)
    n = sum(f.shape[2] * f.shape[3] for f in features)
    logits = torch.full((1, n, detector.n_classes), -20.0)
    for place, (label, score) in scores.items():
        logits[0, place, label] = math.log(score / (1 - score))
    edges = torch.zeros(1, n, 4, 9)
    edges[..., 1] = edges[..., 2] = 30.0
    return Raw(logits, edges.flatten(2), features)


def test_detect_finds_thresholds_clips_and_removes_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Gfl(tiny_config(2))
    width = 96 // 8
    raw = said(
        detector, {5 * width + 5: (0, 0.9), 5 * width + 6: (0, 0.6), 0: (1, 0.7), 3: (1, 0.04)}, 96, 96
    )
    monkeypatch.setattr(Gfl, "forward", lambda self, images: raw)
    (found,) = detector.detect(torch.zeros(1, 3, 96, 96))
    assert isinstance(found, Detections)
    assert found.labels.tolist() == [0, 1, 0]  # 8 of 24 pixels apart: IoU 0.5, below 0.6
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6], abs=1e-4)
    assert found.boxes[0].tolist() == pytest.approx([28, 28, 52, 52], abs=1e-3)
    assert found.boxes[1].tolist() == pytest.approx([0, 0, 12, 12], abs=1e-3)
    raw.logits[0, 5 * width + 6, 0] = raw.logits[0, 5 * width + 5, 0] - 1
    raw.edges[0, 5 * width + 6] = raw.edges[0, 5 * width + 5].roll(0)
    small = detector.detect(torch.zeros(1, 3, 96, 96), [(40, 40)])[0]
    assert small.boxes.max() <= 40
    assert len(detector.detect(torch.zeros(1, 3, 96, 96), threshold=0.8)[0].boxes) == 1


def test_normalise_and_back(tiny: Gfl) -> None:
    pictures: Tensor = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(tiny.denormalise(tiny.normalise(pictures)), pictures)
