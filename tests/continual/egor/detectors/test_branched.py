"""A frozen detector with a branch: the old network and all it says stay the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn

from effcli.continual.egor.detectors.branched import BranchedDetector, pyramid_width
from effcli.continual.egor.detectors.copied import CopiedBranch, heads_of
from effcli.continual.egor.detectors.detector import Detector, Targets
from effcli.continual.egor.detectors.gfl import Gfl, resnet50_config, tiny_config
from effcli.continual.egor.detectors.nanodet import NanoDetM
from effcli.continual.egor.detectors.torchvision_detectors import from_state_dict
from effcli.continual.egor.weights import (
    BUILTIN,
    UNKNOWN_RATIOS,
    DetectorSpec,
    _built,
    _config_of,
    load_detector,
    save_detector,
)
from effcli.core.errors import InputError, UsageError
from effcli.core.tensor_file import read_tensors, save_tensors

D = TypeVar("D", BranchedDetector, CopiedBranch)

LOW = 0.005  # scores of untrained heads are 0.01


def trained(detector: D, n_steps: int = 3) -> D:
    """A few steps with large rates and noise as images."""
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 0.1)
    wanted = Targets(torch.tensor([[[8.0, 8, 50, 50]]]), torch.tensor([[0]]), torch.tensor([[True]]))
    detector.train()
    for _ in range(n_steps):
        loss = detector.detection_loss(detector(torch.randn(1, 3, 64, 64)), wanted).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return detector.eval()


def spec(n: int) -> DetectorSpec:
    return DetectorSpec(tuple(f"class {i}" for i in range(n)), (UNKNOWN_RATIOS,) * n, 320, None)


@pytest.fixture(params=["gfl", "nanodet"])
def old(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(0)
    return (Gfl(tiny_config(2)) if request.param == "gfl" else NanoDetM(2)).eval()


@pytest.mark.parametrize("start", ["new", "copy"])
def test_what_the_old_detector_says_is_the_same_bit_for_bit(old: Detector, start: str) -> None:
    images = torch.randn(2, 3, 64, 96)
    weights = {name: value.clone() for name, value in old.state_dict().items()}
    with torch.no_grad():
        raw = old(images)
    before = old.detect(images, threshold=LOW)
    detector: BranchedDetector | CopiedBranch
    if start == "new":
        detector = trained(BranchedDetector(old, pyramid_width(old), n_new=3, channels=16))
    else:
        detector = trained(CopiedBranch(old, n_new=3))
    assert all(torch.equal(value, weights[name]) for name, value in old.state_dict().items())
    with torch.no_grad():
        frozen = detector(images).frozen
    assert frozen is not None
    assert torch.equal(frozen.logits, raw.logits) and torch.equal(frozen.edges, raw.edges)
    n_new = 0
    for found, alone in zip(detector.detect(images, threshold=LOW), before, strict=True):
        n = len(alone.scores)
        assert n > 0
        assert torch.equal(found.boxes[:n], alone.boxes)
        assert torch.equal(found.scores[:n], alone.scores)
        assert torch.equal(found.labels[:n], alone.labels)
        assert set(found.labels[n:].tolist()) <= {2, 3, 4}
        n_new += len(found.labels) - n
    assert n_new > 0


def test_the_detector_in_the_package_keeps_its_word() -> None:
    old, _ = load_detector(BUILTIN)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (alone,) = old.detect(images, threshold=0.02)
    detector = trained(BranchedDetector(old, pyramid_width(old), n_new=1))
    (found,) = detector.detect(images, threshold=0.02)
    n = len(alone.scores)
    assert n > 0 and torch.equal(found.boxes[:n], alone.boxes) and torch.equal(found.scores[:n], alone.scores)


def test_a_copy_begins_with_the_old_boxes_and_features(old: Detector) -> None:
    images = torch.randn(1, 3, 64, 96)
    detector = CopiedBranch(old, n_new=1).eval()
    with torch.no_grad():
        raw = detector(images)
    assert raw.frozen is not None and raw.logits.shape[-1] == 1
    assert torch.equal(raw.edges, raw.frozen.edges)
    assert all(map(torch.equal, raw.features, raw.frozen.features))
    own = sum(p.numel() for p in detector.own.parameters())
    columns = sum(p.numel() for name, p in old.named_parameters() if name.split(".")[0] in ("cls", "gfl_cls"))
    trunk = sum(p.numel() for part in old.trunk for p in part.parameters())
    assert own == sum(p.numel() for p in old.parameters()) - trunk - columns // 2  # of two classes


def test_copies_on_copies_and_beside_new_heads(old: Detector, tmp_path: Path) -> None:
    images = torch.randn(1, 3, 64, 64)
    first = trained(CopiedBranch(old, n_new=1))
    second = trained(CopiedBranch(first, n_new=2))
    third = trained(BranchedDetector(second, pyramid_width(second), n_new=1, channels=8))
    for i, (detector, before) in enumerate(((second, first), (third, second))):
        file = tmp_path / f"{i}.safetensors"
        save_detector(file, detector, spec(detector.n_classes))
        loaded, about = load_detector(str(file))
        assert type(loaded) is type(detector) and len(about.classes) == loaded.n_classes == 5 + i
        (expected,) = before.detect(images, threshold=LOW)
        for one in (detector, loaded):
            (found,) = one.detect(images, threshold=LOW)
            n = len(expected.scores)
            assert torch.equal(found.boxes[:n], expected.boxes)
            assert torch.equal(found.scores[:n], expected.scores)
            assert set(found.labels[n:].tolist()) <= set(range(before.n_classes, detector.n_classes))


def test_a_branch_on_a_branch(old: Detector, tmp_path: Path) -> None:
    images = torch.randn(1, 3, 64, 64)
    first = trained(BranchedDetector(old, pyramid_width(old), n_new=1, channels=16))
    (before,) = first.detect(images, threshold=LOW)
    second = trained(BranchedDetector(first, pyramid_width(first), n_new=2, channels=8, n_convs=1))
    assert second.n_classes == 5
    save_detector(tmp_path / "d.safetensors", second, spec(5))
    loaded, about = load_detector(str(tmp_path / "d.safetensors"))
    assert len(about.classes) == loaded.n_classes == 5
    for detector in (second, loaded):
        (found,) = detector.detect(images, threshold=LOW)
        n = len(before.scores)
        assert torch.equal(found.boxes[:n], before.boxes) and torch.equal(found.scores[:n], before.scores)
        assert set(found.labels[n:].tolist()) <= {3, 4}


def test_it_learns_its_object() -> None:
    torch.manual_seed(0)
    old = Gfl(tiny_config(1)).eval()
    detector = BranchedDetector(old, pyramid_width(old), n_new=1, channels=16)
    image = torch.zeros(1, 3, 64, 64)
    image[..., 16:48, 16:48] = 2.0
    wanted = Targets(torch.tensor([[[16.0, 16, 48, 48]]]), torch.tensor([[0]]), torch.tensor([[True]]))
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], 0.01)
    losses = []
    for _ in range(15):
        loss = detector.detection_loss(detector(image), wanted).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_its_old_network_learns_no_classes(old: Detector) -> None:
    detector = BranchedDetector(old, pyramid_width(old), n_new=1, channels=8).train()
    assert not detector.old.training and not any(p.requires_grad for p in detector.old.parameters())
    with pytest.raises(UsageError, match="cannot learn classes in its old network"):
        detector.grow(1)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["new", "copy"])
def test_on_torchvisions_detector(start: str) -> None:
    net = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    old = from_state_dict(net.state_dict(), "fcos").eval()
    detector = BranchedDetector(old, 256, n_new=1, channels=8) if start == "new" else CopiedBranch(old, 1)
    loaded = _built(_config_of(detector), detector.state_dict(), "file")
    assert loaded.n_classes == 3
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.scores(loaded(images)), detector.eval().scores(detector(images)))
    assert torch.equal(
        loaded.state_dict()["old.net.head.classification_head.cls_logits.weight"],
        net.state_dict()["head.classification_head.cls_logits.weight"],
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("channels", 7, r"config\.channels"),
        ("n_new", 0, r"config\.n_new"),
        ("width", 2**20, "larger than its|shape"),
        ("old", {"kind": "gfl"}, r"config\.backbone"),
        ("old", 3, "unknown kind of detector 'branched'"),
    ],
)
def test_damaged_metadata_are_named(key: str, value: object, message: str, tmp_path: Path) -> None:
    old = NanoDetM(2)
    file = tmp_path / "d.safetensors"
    save_detector(file, BranchedDetector(old, pyramid_width(old), n_new=1, channels=8), spec(3))
    metadata, tensors = read_tensors(file, str(file))
    metadata["config"] = json.dumps({**json.loads(metadata["config"]), key: value})
    save_tensors(file, tensors, metadata)
    with pytest.raises(InputError, match=message):
        load_detector(str(file))


def test_the_heads_of_a_frozen_resnet_learn() -> None:
    old = Gfl(resnet50_config(1, frozen_stages=1))
    own = heads_of(old, 2).train()
    assert own.n_classes == 2 and all(p.requires_grad for p in own.parameters())
    assert not any(name.startswith(("backbone", "fpn")) for name in own.state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [({"n_new": 0}, r"config\.n_new"), ({"n_new": 2}, "shape"), ({"channels": 8}, r"config\.channels")],
)
def test_damaged_metadata_of_a_copy_are_named(
    content: dict[str, object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "d.safetensors"
    save_detector(file, CopiedBranch(NanoDetM(2), 1), spec(3))
    metadata, tensors = read_tensors(file, str(file))
    metadata["config"] = json.dumps({**json.loads(metadata["config"]), **content})
    save_tensors(file, tensors, metadata)
    with pytest.raises(InputError, match=message):
        load_detector(str(file))
