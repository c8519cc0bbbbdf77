"""torchvision's detectors in our frame, against torchvision itself."""

from __future__ import annotations

import argparse
import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.ops import FrozenBatchNorm2d

from effcli.continual.egor.detectors.detector import Targets
from effcli.continual.egor.detectors.feature_statistics import watched_layers
from effcli.continual.egor.detectors.released_weights import read_state_dict
from effcli.continual.egor.detectors.torchvision_detectors import TorchvisionDetector, from_state_dict
from effcli.continual.egor.losses import distillation
from effcli.continual.egor.recipe import DistillationSection
from effcli.continual.egor.weights import load_detector, save_detector
from effcli.core.errors import InputError, UsageError

BUILDERS: dict[str, Any] = {
    "fcos": fcos_resnet50_fpn,
    "retinanet": retinanet_resnet50_fpn,
    "retinanet-v2": retinanet_resnet50_fpn_v2,
}
SIZE = 96


@pytest.fixture(scope="module", params=BUILDERS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, TorchvisionDetector]:
    """torchvision's model with four labels, and ours from its state dict."""
    torch.manual_seed(0)
    builder = BUILDERS[request.param]
    theirs = builder(weights=None, weights_backbone=None, num_classes=4, min_size=SIZE, max_size=SIZE)
    with torch.no_grad():  # so that scores differ
        theirs.head.classification_head.cls_logits.weight.normal_(0, 0.05)
        theirs.head.classification_head.cls_logits.bias.fill_(-1)
        for layer in theirs.backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
    theirs.score_thresh, theirs.nms_thresh, theirs.detections_per_img = 0.05, 0.6, 100
    return theirs.eval(), from_state_dict(theirs.state_dict()).eval()


def pictures(n: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8)


def objects() -> tuple[Targets, list[dict[str, Tensor]]]:
    boxes = torch.tensor([[[5.0, 8, 50, 60], [40, 30, 90, 95]], [[10, 10, 40, 42], [0, 0, 0, 0]]])
    labels = torch.tensor([[2, 3], [2, 0]])
    valid = torch.tensor([[True, True], [True, False]])
    each = [{"boxes": b[v], "labels": k[v]} for b, k, v in zip(boxes, labels, valid, strict=True)]
    return Targets(boxes, labels, valid), each


def test_it_finds_what_torchvision_finds(pair: tuple[nn.Module, TorchvisionDetector]) -> None:
    theirs, ours = pair
    images = pictures()
    with torch.no_grad():
        expected = theirs([image / 255 for image in images])
    found = ours.detect(ours.normalise(images))
    for one, other in zip(found, expected, strict=True):
        assert len(one.boxes) == len(other["boxes"]) > 5
        torch.testing.assert_close(one.boxes, other["boxes"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-5, rtol=1e-4)
        assert one.labels.tolist() == other["labels"].tolist()


def test_its_loss_is_torchvisions(pair: tuple[nn.Module, TorchvisionDetector]) -> None:
    theirs, ours = pair
    targets, each = objects()
    images = pictures()
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    expected = sum(float(value.detach()) for value in theirs([i / 255 for i in images], each).values())
    theirs.eval()
    loss = ours.detection_loss(ours(ours.normalise(images)), targets)
    assert loss.total.item() == pytest.approx(expected, rel=1e-4)
    assert 0 < loss.balance.item() <= 1
    assert loss.n_positives > 0


@pytest.mark.slow
def test_new_and_old_columns_are_taught_apart(pair: tuple[nn.Module, TorchvisionDetector]) -> None:
    teacher = pair[1]
    images = teacher.normalise(pictures())
    student = copy.deepcopy(teacher)
    student.grow(2)
    assert (student.n_classes, teacher.n_classes) == (6, 4)
    with torch.no_grad():
        old, new = teacher(images), student(images)
    assert torch.equal(new.logits[..., :4], old.logits)
    targets, _ = objects()
    new_targets = Targets(targets.boxes, targets.labels + 2, targets.valid)
    student.detection_loss(student(images), new_targets, first=4).total.backward()
    conv = student.net.head.classification_head.cls_logits
    by_column = conv.weight.grad.unflatten(0, (student.n_anchors, 6)).abs().amax((0, 2, 3, 4))
    assert by_column[:4].tolist() == [0] * 4
    assert float(by_column[4:].min()) > 0
    student.zero_grad(set_to_none=True)
    with torch.no_grad():
        conv.weight += 0.01
        student.net.head.regression_head.bbox_reg.weight.mul_(1.5)
    pasted = (torch.tensor([[4.0, 4, 60, 60]]), torch.zeros(0, 4))
    one = torch.tensor(1.0)
    terms = distillation(student, student(images), old, pasted, 4, one, DistillationSection(top_k=50))
    assert all(terms[name].item() > 0 for name in ("class_distance", "box_distance"))
    torch.stack(list(terms.values())).sum().backward()
    by_column = conv.weight.grad.unflatten(0, (student.n_anchors, 6)).abs().amax((0, 2, 3, 4))
    assert by_column[4:].tolist() == [0, 0]
    assert float(by_column[:4].min()) > 0
    same = distillation(teacher, old, old, pasted, 4, one, DistillationSection())
    assert [value.item() for value in same.values()] == [0, 0, 0]


@pytest.mark.slow
def test_the_background_column_goes_and_the_file_comes_back(
    pair: tuple[nn.Module, TorchvisionDetector], tmp_path: Path
) -> None:
    theirs, ours = pair
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    named, about = load_detector(str(tmp_path / "theirs.pth"), ("a", "b", "c"), (96, None))
    images = named.normalise(pictures())
    with torch.no_grad():
        whole, without = ours(images), named(images)
    assert torch.equal(without.logits, whole.logits[..., 1:])
    assert (about.classes, about.longest, len(about.histograms)) == (("a", "b", "c"), 96, 3)
    save_detector(tmp_path / "ours.safetensors", named, about)
    again, same = load_detector(str(tmp_path / "ours.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(images).logits, without.logits)
    assert same == about
    with pytest.raises(UsageError, match="does not name its 4 classes"):
        load_detector(str(tmp_path / "theirs.pth"))
    with pytest.raises(UsageError, match="has 4 classes, but 2 names given"):
        load_detector(str(tmp_path / "theirs.pth"), ("a", "b"))


@pytest.mark.slow
def test_checkpoints_of_training_scripts_are_unwrapped(
    pair: tuple[nn.Module, TorchvisionDetector], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, _ = pair
    weights = theirs.state_dict()
    name = "head.classification_head.cls_logits.weight"
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    script = {"model": wrapped, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.01), "epoch": 3}
    torch.save(script, tmp_path / "script.pth")
    read = from_state_dict(read_state_dict(tmp_path / "script.pth"))
    assert torch.equal(read.net.state_dict()[name], weights[name])
    lightning = {"state_dict": {"teacher.x": torch.zeros(1)} | {f"net.{k}": v for k, v in weights.items()}}
    torch.save({"model": lightning}, tmp_path / "lightning.pth")
    read = from_state_dict(read_state_dict(tmp_path / "lightning.pth"), "lightning.pth")
    assert torch.equal(read.net.state_dict()[name], weights[name])
    assert "lightning.pth: 1 tensors whose names do not begin with 'net.' are left out" in caplog.text
    with pytest.raises(InputError, match="holds several detectors, whose names begin with '', 'module"):
        from_state_dict({**weights, **wrapped})


def test_names_of_old_releases_of_retinanet() -> None:
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    weights = theirs.state_dict()
    old = {
        re.sub(r"conv\.(\d)\.0\.", lambda m: f"conv.{2 * int(m[1])}.", key): weights[key] for key in weights
    }
    assert "head.regression_head.conv.6.bias" in old
    read = from_state_dict(old).net.state_dict()
    assert all(torch.equal(read[key], weights[key]) for key in weights)


def test_frozen_batchnorm_is_recognised(pair: tuple[nn.Module, TorchvisionDetector]) -> None:
    theirs, _ = pair
    weights = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    detector = from_state_dict(weights)
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in detector.modules()) == 53
    assert len(watched_layers(detector)) == 53
    assert not detector.net.backbone.body.layer1[0].conv1.weight.requires_grad


def test_other_state_dicts_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="nor a state dict of torchvision's FCOS or RetinaNet"):
        load_detector(str(tmp_path / "x.pth"), ("a",))
    with pytest.raises(InputError) as refusal:
        from_state_dict({"rpn.head.conv.weight": torch.zeros(1)})
    assert refusal.value.hint == "Faster R-CNN and others with two stages are not supported"
    (tmp_path / "y.pth").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="cannot be read"):
        load_detector(str(tmp_path / "y.pth"), ("a",))
