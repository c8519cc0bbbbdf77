"""Classifiers as ONNX files: what their metadata say, and running them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from effcli.continual.network import Calibration, ImageClassifier
from effcli.core.errors import InputError
from effcli.nn.onnx_file import open_onnx, save_onnx

INPUT, OUTPUT = "images", "logits"


@dataclass(frozen=True)
class OnnxClassifier:
    """An ONNX file of ours, open.

    Attributes:
        logits: of uint8 images ``[B, C, S, S]``.
        classes: the name of each logit.
        side: S.
        channels: C.
        calibration: of the scores.
    """

    logits: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    side: int
    channels: int
    calibration: Calibration | None


def export_onnx(file: Path, classifier: ImageClassifier) -> None:
    """Write an ONNX file: ``images`` in 0..1 to ``logits``, any batch size, normalisation inside.

    Its metadata have the names of the classes, how a picture becomes an input (resize, crop, range, and the mean and
    deviation that are inside), and the calibration of the scores.

    Raises:
        UsageError: the packages for it are not installed.
    """
    about = classifier.about
    example = torch.zeros(2, about.channels, about.side, about.side)
    save_onnx(
        classifier, example, file, input_name=INPUT, output_name=OUTPUT, metadata=metadata_of(classifier)
    )


def metadata_of(classifier: ImageClassifier) -> dict[str, str]:
    """What users of the file need to know."""
    about = classifier.about
    mean, std = (tensor.flatten().tolist() for tensor in (classifier.mean, classifier.std))
    preprocessing = {
        "resize": {"shorter_side": about.side, "filter": "bilinear", "antialias": True},
        "crop": {"kind": "center", "size": [about.side, about.side]},
        "channels": "RGB" if about.channels == 3 else "grey, 0.299 R + 0.587 G + 0.114 B",
        "range": [0, 1],
        "mean": mean,
        "std": std,
        "normalised_inside": True,
    }
    found = {
        "classes": json.dumps(about.classes),
        "tasks": json.dumps(about.tasks),
        "method": about.method,
        "input": f"{INPUT}, float32, 0..1, [batch, {about.channels}, {about.side}, {about.side}]",
        "preprocessing": json.dumps(preprocessing),
    }
    if classifier.calibration is not None:
        found["calibration"] = json.dumps(asdict(classifier.calibration))
    return found


def load_onnx(file: Path) -> OnnxClassifier:
    """Open an ONNX file that :func:`export_onnx` wrote; it runs on the CPU.

    Raises:
        InputError: it is missing, damaged, or not one of ours.
        UsageError: ONNX Runtime is not installed.
    """
    session = open_onnx(file)
    return _described(session, session.get_modelmeta().custom_metadata_map, file)


def _described(session: Any, metadata: Mapping[str, str], file: Path) -> OnnxClassifier:
    try:
        classes = tuple(map(str, json.loads(metadata["classes"])))
        (given,), (found,) = session.get_inputs(), session.get_outputs()
        _, channels, side, width = given.shape
        scores = metadata.get("calibration")
        calibration = None if scores is None else TypeAdapter(Calibration).validate_json(scores)
        is_ours = (given.name, found.name) == (INPUT, OUTPUT) and side == width and channels in (1, 3)
    except (KeyError, TypeError, ValueError):
        is_ours = False
    if not is_ours:
        raise InputError(
            "is not a classifier exported by effcli",
            place=str(file),
            hint="effcli continual export RUN -o FILE.onnx",
        )

    def logits(images: Tensor) -> Tensor:
        values = images.cpu().numpy().astype(np.float32) / np.float32(255)
        return torch.from_numpy(session.run([OUTPUT], {INPUT: values})[0])

    return OnnxClassifier(logits, classes, side, channels, calibration)
