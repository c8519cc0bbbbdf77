"""NanoDet-m: its parts against slow, obvious ones, and the weights in the package on a photograph."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from effcli.continual.egor.data.detection_sets import single_image
from effcli.continual.egor.detectors.detector import Targets
from effcli.continual.egor.detectors.nanodet import NanoDetM, ShuffleUnit
from effcli.continual.egor.evaluation import find
from effcli.continual.egor.weights import BUILTIN, UNKNOWN_RATIOS, DetectorSpec, load_detector, save_detector
from effcli.core.errors import InputError
from effcli.core.runtime import create_runtime
from effcli.core.tensor_file import read_tensors, save_tensors
from effcli.data.images import read_image

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"


@pytest.fixture(scope="module")
def network() -> NanoDetM:
    torch.manual_seed(0)
    return NanoDetM(3).eval()


def test_it_has_the_parameters_of_the_released_network() -> None:
    """0.95 million as its author counts, batch norm included; without it, and folded, as many as the IR holds."""
    assert sum(p.numel() for p in NanoDetM(80).parameters()) == 941_818


def test_places_of_320_pixels(network: NanoDetM) -> None:
    with torch.no_grad():
        raw = network(torch.zeros(1, 3, 320, 320))
    assert network.level_sizes(raw) == [1600, 400, 100]
    assert raw.logits.shape == (1, 2100, 3)
    assert raw.edges.shape == (1, 2100, 32)


def test_boxes_are_around_the_centres_of_pixels(network: NanoDetM) -> None:
    with torch.no_grad():
        raw = network(torch.zeros(1, 3, 64, 64))
    sure = torch.full_like(raw.edges, -100.0).unflatten(-1, (4, -1))
    sure[..., 2] = 100.0  # all edges two strides away
    boxes = network.boxes(type(raw)(raw.logits, sure.flatten(-2), raw.features))
    assert boxes[0, 0].tolist() == [4 - 16, 4 - 16, 4 + 16, 4 + 16]
    assert boxes[0, -1].tolist() == [48 - 64, 48 - 64, 48 + 64, 48 + 64]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_unit_interleaves_what_it_keeps_and_what_it_changes(stride: int) -> None:
    unit = ShuffleUnit(8, 8, stride).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        found = unit(x)
        kept = x[:, :4] if stride == 1 else unit.shortcut(x)
        changed = unit.convs(x[:, 4:] if stride == 1 else x)
    for channel in range(4):
        assert torch.equal(found[:, 2 * channel], kept[:, channel])
        assert torch.equal(found[:, 2 * channel + 1], changed[:, channel])


def test_the_pyramid_adds_down_and_up_again(network: NanoDetM) -> None:
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        levels = [conv(y) for conv, y in zip(network.laterals, network.backbone(x), strict=True)]
        fine, middle, coarse = network.pyramid(x)
    halved = middle.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    assert torch.allclose(coarse, levels[2] + halved, atol=1e-5)
    assert fine.shape[-2:] == (8, 12)


def test_growing_keeps_what_is_said_of_old_classes_bit_for_bit(network: NanoDetM) -> None:
    grown = copy.deepcopy(network)
    grown.grow(2)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = network(x), grown(x)
    assert grown.n_classes == 5
    assert torch.equal(after.logits[..., :3], before.logits)
    assert torch.equal(after.edges, before.edges)


def test_its_loss_reaches_every_weight(network: NanoDetM) -> None:
    trained = copy.deepcopy(network).train()
    wanted = Targets(torch.tensor([[[8.0, 8, 40, 40]]]), torch.tensor([[1]]), torch.tensor([[True]]))
    loss = trained.detection_loss(trained(torch.randn(1, 3, 64, 64)), wanted)
    loss.total.backward()
    assert loss.n_positives > 0
    assert all(p.grad is not None for p in trained.parameters())


def test_a_file_gives_the_same_network(network: NanoDetM, tmp_path: Path) -> None:
    file = tmp_path / "detector.safetensors"
    save_detector(file, network, DetectorSpec(("a", "b", "c"), (UNKNOWN_RATIOS,) * 3, 320, None))
    found, about = load_detector(str(file))
    assert isinstance(found, NanoDetM)
    assert about.classes == ("a", "b", "c")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(x).logits, network(x).logits)


@pytest.mark.parametrize("n_classes", [0, -1, "three", None, 2.5])
def test_a_file_with_a_wrong_number_of_classes_is_refused(
    network: NanoDetM, tmp_path: Path, n_classes: object
) -> None:
    file = tmp_path / "detector.safetensors"
    save_detector(file, network, DetectorSpec(("a", "b", "c"), (UNKNOWN_RATIOS,) * 3, 320, None))
    metadata, tensors = read_tensors(file, str(file))
    metadata["config"] = json.dumps({"kind": "nanodet-m", "n_classes": n_classes})
    save_tensors(file, tensors, metadata)
    with pytest.raises(InputError, match=r"config\.n_classes"):
        load_detector(str(file))


def test_the_weights_in_the_package_find_boats() -> None:
    detector, about = load_detector(BUILTIN)
    assert len(about.classes) == 80
    image = read_image(EXAMPLES / "boats.jpg")
    runtime = create_runtime(device="cpu", precision="fp32", seed=0, threads=1)
    (found,) = find(detector, single_image(image, about.longest, about.shortest), runtime, threshold=0.4)
    assert {about.classes[label] for label in found.labels.tolist()} == {"boat"}
    assert found.scores[0] > 0.6
    left, top, right, bottom = found.boxes[0].tolist()
    assert 0 < left < 60 and 440 < top < 540 and 430 < right < 530 and 850 < bottom < 960
