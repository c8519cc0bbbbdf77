"""Detectors as ONNX files: writing them, what their metadata say, and running them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.continual.egor.detecting.exported_network import INPUT, OUTPUTS, THRESHOLD, graph_of
from effcli.continual.egor.detectors.detector import NMS_IOU, PER_IMAGE, SCORE_THRESHOLD, Detections, Detector
from effcli.continual.egor.detectors.torchvision_detectors import TorchvisionDetector
from effcli.continual.egor.weights import DetectorSpec
from effcli.core.errors import InputError, UsageError
from effcli.nn.onnx_file import open_onnx, save_model

FORMAT = "effcli-detector"

_USAGE = (
    "image: uint8 RGB, upright, [1, 3, height, width], any size; scale it first as preprocessing says. boxes: "
    "left, top, right, bottom in pixels of it, labels: numbers of classes. Normalisation, padding to multiples of 32 "
    "and NMS within classes are inside. score_threshold: least score of a box; it may be left out."
)


@dataclass(frozen=True)
class OnnxDetector:
    """An ONNX file of ours, open.

    Attributes:
        detect: finds objects in an image as the file takes it, uint8 ``[3, H, W]``, with a score of at least the
            second argument.
        classes: names, by label.
        longest, shortest: pixels that an image's sides are scaled to; None for any.
    """

    detect: Callable[[Tensor, float], Detections]
    classes: tuple[str, ...]
    longest: int | None
    shortest: int | None


def export_detector(file: Path, detector: Detector, about: DetectorSpec) -> None:
    """Write an ONNX file: one image of any size to boxes, scores and labels, with NMS inside.

    Its metadata have the names of the classes and the pixels that an image's sides are scaled to.

    Raises:
        UsageError: the packages for it are not installed, or the detector is one of torchvision's.
        RunError: the file cannot be written.
    """
    if any(isinstance(one, TorchvisionDetector) for one in detector.modules()):
        raise UsageError(
            "detectors of torchvision are not exported to ONNX",
            place=str(file),
            hint="export to .safetensors; torchvision's own models can be exported with torch.onnx",
        )
    model = graph_of(detector.eval(), file)
    preprocessing = {
        "resize": {
            "longest_side": about.longest,
            "shortest_side": about.shortest,
            "enlarge": True,
            "filter": "bilinear",
            "antialias": True,
            "round": True,
        },
        "channels": "RGB",
        "range": [0, 255],
        "mean": list(detector.mean),
        "std": list(detector.std),
        "normalised_inside": True,
    }
    nms = {"iou": NMS_IOU, "score": SCORE_THRESHOLD, "per_image": PER_IMAGE, "by_class": True}
    metadata = {
        "format": FORMAT,
        "classes": json.dumps(about.classes),
        "preprocessing": json.dumps(preprocessing),
        "nms": json.dumps(nms),
        "usage": _USAGE,
    }
    save_model(model, file, metadata)


def load_onnx_detector(place: str) -> OnnxDetector:
    """Open an ONNX file that :func:`export_detector` wrote; it runs on the CPU.

    Raises:
        InputError: it is missing, damaged, or not one of ours.
        UsageError: ONNX Runtime is not installed.
    """
    session = open_onnx(Path(place))
    return _described(session, session.get_modelmeta().custom_metadata_map, place)


def _described(session: Any, metadata: Mapping[str, str], place: str) -> OnnxDetector:
    try:
        classes = tuple(map(str, json.loads(metadata["classes"])))
        resize = json.loads(metadata["preprocessing"])["resize"]
        sides = [resize["longest_side"], resize["shortest_side"]]
        is_ours = metadata.get("format") == FORMAT and all(
            s is None or (type(s) is int and s > 0) for s in sides
        )
        is_ours &= tuple(one.name for one in session.get_outputs()) == OUTPUTS
        is_ours &= {one.name for one in session.get_inputs()} <= {INPUT, THRESHOLD}
    except (KeyError, TypeError, ValueError):
        is_ours = False
    if not is_ours:
        raise InputError(
            "is not a detector exported by effcli",
            place=place,
            hint="effcli continual export RUN -o FILE.onnx",
        )

    def detect(image: Tensor, threshold: float) -> Detections:
        given = {INPUT: image[None].numpy(), THRESHOLD: np.array([threshold], np.float32)}
        boxes, scores, labels = map(torch.from_numpy, session.run(list(OUTPUTS), given))
        return Detections(boxes, scores, labels)

    return OnnxDetector(detect, classes, *sides)
