"""Exported detectors find what the detectors find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from effcli.continual.egor.data.detection_sets import single_image
from effcli.continual.egor.detecting.detection import ObjectFinder
from effcli.continual.egor.detecting.onnx_detector import export_detector, load_onnx_detector
from effcli.continual.egor.detectors.branched import BranchedDetector
from effcli.continual.egor.detectors.copied import CopiedBranch
from effcli.continual.egor.detectors.detector import Detections, Detector
from effcli.continual.egor.detectors.gfl import Gfl, GflConfig
from effcli.continual.egor.detectors.torchvision_detectors import new_torchvision_detector
from effcli.continual.egor.evaluation import find
from effcli.continual.egor.weights import BUILTIN, UNKNOWN_RATIOS, DetectorSpec, load_detector
from effcli.core.errors import InputError, UsageError
from effcli.core.runtime import create_runtime
from effcli.data.images import read_image
from effcli.nn.onnx_file import open_onnx

LONGEST, LONGEST_OF_NANODET = 100, 320
EXAMPLES = Path(__file__).resolve().parents[4] / "examples"


def small(n_classes: int) -> Gfl:
    """A GFL whose scores are spread between 0 and 1."""
    config = GflConfig("tiny", n_classes, channels=16, n_convs=1, reg_max=4, n_levels=2, anchor_scale=4)
    detector = Gfl(config).eval()
    spread(detector.gfl_cls)
    return detector


def spread(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    nn.init.normal_(conv.weight, std=0.15)
    nn.init.constant_(conv.bias, -1.0)


def about(n_classes: int) -> DetectorSpec:
    names = tuple(f"kind {i}" for i in range(n_classes))
    return DetectorSpec(names, (UNKNOWN_RATIOS,) * n_classes, LONGEST, None)


def rows(found: Detections) -> Tensor:
    """Boxes, scores and labels, such that small distances mean the same; equal scores may come in any order."""
    return torch.cat([found.boxes, 100 * found.scores[:, None], 1000 * found.labels[:, None]], 1)


def check_same(detector: Detector, spec: DetectorSpec, file: Path) -> None:
    """Both find the same in images of several sizes, at two thresholds."""
    export_detector(file, detector, spec)
    exported = load_onnx_detector(str(file))
    assert (exported.classes, exported.longest, exported.shortest) == (spec.classes, LONGEST, None)
    runtime = create_runtime(device="cpu", precision="fp32", seed=0)
    for height, width in ((75, 100), (200, 120), (32, 32)):
        torch.manual_seed(height)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        images = single_image(image, LONGEST, None)
        for threshold in (0.05, 0.4):
            (expected,) = find(detector, images, runtime, threshold=threshold)
            scaled, _, scale = images[0]
            found = exported.detect(scaled, threshold)
            assert len(found.scores) == len(expected.scores) and (threshold > 0.05 or len(found.scores))
            torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
            if not len(found.scores):
                continue
            ours, theirs = rows(expected), rows(replace(found, boxes=found.boxes / scale))
            nearest = torch.cdist(ours, theirs, p=1).amin
            assert max(nearest(0).tolist() + nearest(1).tolist()) < 0.05


@pytest.mark.slow
def test_an_exported_detector_finds_the_same_and_its_branch_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_same(small(3), about(3), tmp_path / "plain.onnx")
    branched = BranchedDetector(small(3), 16, 2, channels=8, n_convs=1).eval()
    spread(branched.cls)
    check_same(branched, about(5), tmp_path / "branched.onnx")
    copied = CopiedBranch(small(3), 2).eval()
    spread(copied.own.gfl_cls)  # type: ignore[arg-type]
    check_same(copied, about(5), tmp_path / "copied.onnx")


@pytest.mark.slow
def test_the_detector_in_the_package_finds_the_same_in_photographs_when_exported(tmp_path: Path) -> None:
    export_detector(tmp_path / "nanodet.onnx", *load_detector(BUILTIN))
    runtime = create_runtime(device="cpu", precision="fp32", seed=0, threads=1)
    ours, exported = (ObjectFinder(p, 0.05, runtime) for p in (BUILTIN, str(tmp_path / "nanodet.onnx")))
    assert exported.classes == ours.classes
    metadata = open_onnx(tmp_path / "nanodet.onnx").get_modelmeta().custom_metadata_map
    resize = json.loads(metadata["preprocessing"])["resize"]
    assert (resize["longest_side"], resize["enlarge"]) == (LONGEST_OF_NANODET, True)
    n = 0
    for photo in sorted(EXAMPLES.glob("*.jpg")):
        whole = read_image(photo)
        height, width = whole.shape[1:]
        for image in (whole, whole.flip(-1), whole[:, : height // 2 + 7, : width // 3]):
            expected, found = (finder(image)[0] for finder in (ours, exported))
            assert torch.equal(found.labels, expected.labels)
            torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
            sides = torch.tensor([image.shape[2], image.shape[1]] * 2)
            torch.testing.assert_close(found.boxes / sides, expected.boxes / sides, atol=1e-5, rtol=0)
            n += len(found.labels)
    assert n > 500


@pytest.mark.slow
def test_what_is_no_exported_detector_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], [])
    for name in ("a", "b"):
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
        (graph.input if name == "a" else graph.output).append(value)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="is not a detector exported by effcli"):
        load_onnx_detector(str(tmp_path / "other.onnx"))
    with pytest.raises(UsageError, match="detectors of torchvision are not exported to ONNX"):
        retina = new_torchvision_detector("fcos", 2, frozen=True)
        export_detector(tmp_path / "x.onnx", retina, about(2))
