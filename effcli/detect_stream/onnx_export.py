"""A detector as an ONNX file, for programs without PyTorch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from effcli.core.errors import UsageError
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.config import CLASSES, NetworkConfig
from effcli.detect_stream.network.exported_network import INPUTS, OUTPUTS, ExportedNetwork
from effcli.detect_stream.network.frame_fitting import BELOW, BELOW_PER_FOCAL
from effcli.detect_stream.weights import TrainedDetector
from effcli.nn.onnx_file import save_fixed_onnx

_USAGE = (
    "boxes: x y z of the middle of the bottom face in the rectified camera frame (x right, y down, z forward), height "
    "width length, rotation_y, as in KITTI's labels, metres and radians; best first, score 0: no box. They are those "
    "of the next frame where target is next. map: give it as last_map with the next frame, and as frames_apart how "
    "many frames later that is; frames_apart 0: the start of a scene, last_map is not used (also beyond 3 frames)."
)


def export_onnx(file: Path, detector: TrainedDetector) -> None:
    """Write an ONNX file: one frame at a time, post-processing inside, what to do before in its metadata.

    Raises:
        UsageError: the packages for it are not installed, or the detector needs the cameras' motion.
        RunError: the file cannot be written.
    """
    config, limits = detector.network.config, Limits()
    if config.ego_motion:
        raise UsageError(
            "a detector that was trained with network.ego_motion needs the cameras' motion, which ONNX files here "
            "do not take",
            place=str(file),
            hint="export to .safetensors, or train without it",
        )
    network = ExportedNetwork(detector.network, limits).eval()
    examples = network.examples()
    with torch.no_grad():
        outputs = network(*examples)
    shapes = {
        name: [str(value.dtype).removeprefix("torch."), list(value.shape)]
        for name, value in zip((*INPUTS, *OUTPUTS), (*examples, *outputs), strict=True)
    }
    metadata = {
        "method": detector.method,
        "target": detector.target,
        "classes": json.dumps(CLASSES),
        "limits": json.dumps(asdict(limits)),
        "shapes": json.dumps(shapes),
        "preprocessing": _preprocessing(config),
        "usage": _USAGE,
    }
    save_fixed_onnx(network, examples, file, input_names=INPUTS, output_names=OUTPUTS, metadata=metadata)


def _preprocessing(config: NetworkConfig) -> str:
    """How pictures and cameras become inputs, as of :func:`~effcli.detect_stream.network.frame_fitting.fit_of`."""
    height, width = config.height, config.width
    least, most = (f"{share * height:g}" for share in BELOW)
    return (
        f"left and right are RGB, 0 to 255, of a rectified pair. Scale both by s = min(1, {width} / width), bilinear "
        "with antialiasing, to round(s height) rows, and multiply P2 and P3 by [[s, 0, (s - 1) / 2], "
        f"[0, s, (s - 1) / 2], [0, 0, 1]]. Cut off the upper t = round(cy - {height} + min(max({BELOW_PER_FOCAL} f, "
        f"{least}), {most})) rows, at least 0 and at most rows - {height}, and what is below {height} rows; f and cy "
        "are those of the scaled P2 (its second row). Subtract t times the third row of P2 and P3 from their second. "
        "Fill up at the right and below with 0; picture_size is what is picture; calibration holds P2 and P3."
    )
