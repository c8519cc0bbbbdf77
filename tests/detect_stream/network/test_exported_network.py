"""The network as an ONNX file: ONNX Runtime gives what PyTorch gives, frame after frame."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from effcli.core.errors import UsageError
from effcli.detect_stream.data.boxes3d import to_camera
from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.box_decoding import Limits, boxes_of
from effcli.detect_stream.network.config import BASE, CLASSES, FULL, TINY, NetworkConfig
from effcli.detect_stream.network.cost_volume import channels_of_planes, plane_depths, window_starts
from effcli.detect_stream.network.exported_network import (
    INPUTS,
    NMS_ROUNDS,
    _kept,
    _overlaps,
)
from effcli.detect_stream.network.frame_fitting import fit_of, fitted_pair
from effcli.detect_stream.network.streamdsgn import StreamDsgn
from effcli.detect_stream.onnx_export import export_onnx
from effcli.detect_stream.weights import TrainedDetector
from effcli.nn.rotated_boxes import rotated_nms

SMALL = TINY.model_copy(
    update={
        "height": 64,
        "width": 160,
        "n_planes": 8,
        "grid": TINY.grid.model_copy(update={"cells": (12, 16, 16)}),
    }
)
CONFIGS = {
    "small": SMALL,
    "windowed, as released": SMALL.model_copy(update={"window": 8, "compat": True}),
    "one frame alone": SMALL.model_copy(update={"fusion": "none", "bev": "hourglass"}),
}


def network_of(config: NetworkConfig) -> StreamDsgn:
    """Random, and sure enough of itself to give boxes."""
    torch.manual_seed(0)
    network = StreamDsgn(config).eval()
    with torch.no_grad():
        network.head.scores.bias.fill_(-3)
        network.head.scores.weight.normal_(0.0, 0.1 if config.fusion == "flow" else 0.02)
    return network


class Frames:
    """A drive as inputs of the file, and what PyTorch makes of it."""

    def __init__(self, network: StreamDsgn) -> None:
        self.network, self.drive = network, Drive(4, 4)
        self.fit = fit_of((128, 416), self.drive.calibration, network.config)
        self.size = torch.tensor([self.fit.height, self.fit.width])
        self.matrices = self.fit.matrices()[None]
        self.view = network.view(self.matrices, self.size[None])

    def inputs(self, i: int, last: Tensor, frames_apart: int) -> tuple[Tensor, ...]:
        left, right = fitted_pair(self.drive.frame(i), self.fit, self.network.config)
        apart = torch.tensor([float(frames_apart)])
        return left[None], right[None], self.size, self.matrices, last, apart

    @torch.no_grad()
    def expected(self, i: int, last: Tensor, frames_apart: int) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
        network = self.network
        left, right = (network.normalise(x, self.size[None]) for x in self.inputs(i, last, frames_apart)[:2])
        now = network.bev_map(left, right, self.view)
        before = last if frames_apart and network.fusion is not None else None
        flow = None if before is None else network.flow(now, before) / frames_apart
        boxes, scores, labels = boxes_of(network.detect(now, before, flow), network.config, Limits())
        xyz, hwl, rotation_y = to_camera(boxes.numpy())
        return np.concatenate([xyz, hwl, rotation_y[:, None]], 1), scores, labels, now


def compare(found: list[np.ndarray], expected: tuple[np.ndarray, Tensor, Tensor, Tensor]) -> int:
    """Maps agree to 1e-4 of their size, scores to 1e-4, boxes to a millimetre; the number of boxes is returned.

    Of two overlapping boxes whose scores differ by rounding alone either may be kept: so one in fifty may differ.
    """
    boxes, scores, classes, bev = found
    true_boxes, true_scores, true_classes, true_map = expected
    np.testing.assert_allclose(bev, true_map.numpy(), atol=1e-4 * float(true_map.abs().max()))
    n, n_found = int((scores > 0).sum()), 0
    assert abs(n - len(true_scores)) <= 0.02 * n and not scores[n:].any()
    for box, score, kind in zip(true_boxes, true_scores.tolist(), true_classes.tolist(), strict=True):
        near = np.nonzero((np.abs(scores[:n] - score) < 1e-4) & (classes[:n] == kind))[0]
        delta = boxes[near] - box
        delta[:, 6] = np.sin(delta[:, 6])
        n_found += bool(len(near)) and bool(np.abs(delta).max(1).min() < 1e-3)
    assert n_found >= 0.98 * len(true_scores)
    return n


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_onnx_runtime_gives_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = network_of(CONFIGS[name])
    file = tmp_path / "detector.onnx"
    export_onnx(file, TrainedDetector(network, "next"))
    session = onnxruntime.InferenceSession(str(file))
    frames = Frames(network)
    last = torch.zeros(1, network.bev_channels, *network.config.grid.cells[1:])
    n_boxes = 0
    for i, frames_apart in ((0, 0), (1, 1), (3, 2)):
        inputs = frames.inputs(i, last, frames_apart)
        names = {one.name for one in session.get_inputs()}
        given = {key: value.numpy() for key, value in zip(INPUTS, inputs, strict=True) if key in names}
        found = session.run(None, given)
        n_boxes += compare(found, frames.expected(i, last, frames_apart))
        last = torch.from_numpy(found[3])
    assert n_boxes > 30
    about = session.get_modelmeta().custom_metadata_map
    assert (about["target"], json.loads(about["classes"])) == ("next", list(CLASSES))
    assert f"min(1, {network.config.width} / width)" in about["preprocessing"]
    shapes = json.loads(about["shapes"])
    assert shapes["left"] == ["uint8", [1, 3, 64, 160]]
    assert shapes["map"] == ["float32", list(last.shape)]


@pytest.mark.parametrize("config", [FULL, BASE])
def test_windows_of_channels_are_the_same_for_all_cameras(config: NetworkConfig) -> None:
    assert config.window is not None
    seen = channels_of_planes(config)
    for focal_baseline in (30.0, 128.1, 384.38, 1700.0):
        starts = window_starts(focal_baseline / plane_depths(config), config.stereo_channels, config.window)
        assert np.array_equal(seen.min(1), starts)
    assert np.array_equal(seen % config.window, np.tile(np.arange(config.window), (config.n_planes, 1)))


def test_suppression_by_repetition_is_greedy() -> None:
    torch.manual_seed(3)
    boxes = torch.cat(
        [12 * torch.rand(3, 200, 3), 1 + 4 * torch.rand(3, 200, 3), 7 * torch.rand(3, 200, 1)], 2
    )
    there = torch.arange(200) < 190
    kept = _kept(_overlaps(boxes, there.expand(3, 200), 0.25))
    scores = torch.linspace(1, 0.1, 200)
    for own, flags in zip(boxes, kept, strict=True):
        expected = torch.zeros(200)
        expected[rotated_nms(own[:190], scores[:190], 0.25)] = 1
        assert torch.equal(flags[:190], expected[:190])
    row = torch.zeros(1, 90, 90)
    row[0, torch.arange(89), torch.arange(1, 90)] = 1  # each hangs on the one before
    alternating = (torch.arange(90) % 2 == 0).float()
    assert torch.equal(_kept(row)[0, :NMS_ROUNDS], alternating[:NMS_ROUNDS])


def test_a_detector_that_needs_the_cameras_motion_is_refused(tmp_path: Path) -> None:
    network = StreamDsgn(SMALL.model_copy(update={"ego_motion": True})).eval()
    with pytest.raises(UsageError, match="needs the cameras' motion"):
        export_onnx(tmp_path / "x.onnx", TrainedDetector(network, "next"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(375, 1242), (480, 640), (128, 416), (96, 320)])
def test_the_page_prepares_pictures_as_streams_do(size: tuple[int, int]) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/tasks/detect-stream.md").read_text(encoding="utf-8")
    shown = re.search(r"^def prepared.*?\n\n", page, re.DOTALL | re.MULTILINE)
    assert shown is not None
    known: dict[str, Any] = {"np": np, "Image": Image, "height": TINY.height, "width": TINY.width}
    exec(shown[0], known)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    calibration = Drive(1, 3).calibration.scaled(size[1] / 416)
    found, seen, cameras = known["prepared"](picture, calibration.left, calibration.right)
    fit = fit_of(size, calibration, TINY)
    expected = fitted_pair(StereoFrame(picture, picture), fit, TINY)[0].numpy()
    assert np.abs(found[0].astype(int) - expected).max() <= 1
    assert tuple(seen) == (fit.height, fit.width)
    np.testing.assert_allclose(cameras[0], fit.matrices().numpy(), rtol=1e-6)
