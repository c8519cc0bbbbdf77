"""Speed of `effcli detect-stream`: parts against their naive forms, whole frames, and a drive in real time.

    python benchmarks/detect_stream.py [--json FILE] [--threads 2] [--full] [--only PART]

The peer has the same weights: 3D convolutions as torch computes them, one plane after another, batch norms apart,
``grid_sample``. Medians, taking turns. Frames of the exported file are counted in processor time, which other work on
the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.core.evidence.records import write_record
from effcli.core.memory import keep_freed_memory
from effcli.core.runtime import DTYPES, create_runtime
from effcli.detect_stream.data.drive_sets import drawn_sequences, drive_of
from effcli.detect_stream.data.synthetic_drives import Drive, Preset
from effcli.detect_stream.evaluation.stream_summary import percentiles
from effcli.detect_stream.network.config import FULL, TINY, NetworkConfig
from effcli.detect_stream.network.convolution_3d import Conv3d
from effcli.detect_stream.network.cost_volume import cost_volume, plane_depths
from effcli.detect_stream.network.ego_motion import bev_motion
from effcli.detect_stream.network.inference_network import fast_network
from effcli.detect_stream.network.space_volume import seen_from_above
from effcli.detect_stream.network.streamdsgn import CameraView, StreamDsgn
from effcli.detect_stream.onnx_export import export_onnx
from effcli.detect_stream.sources.frame_source import Arrival, SequenceSource
from effcli.detect_stream.stream.clocks import run_wall, warm_up
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.weights import load_detector


def medians(
    forms: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Milliseconds of each form by a clock, taking turns, after one turn that does not count."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name, form in forms.items():
            started = clock()
            form()
            if turn:
                times[name].append(1000 * (clock() - started))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def plane_by_plane(left: Tensor, right: Tensor, focal_baseline: float, config: NetworkConfig) -> Tensor:
    """The plain plane sweep with a ``grid_sample`` a plane."""
    height, width = left.shape[2:]
    planes = []
    for depth in plane_depths(config):
        columns = 4 * torch.arange(width) - focal_baseline / depth
        grid_x = (2 * columns / (right.shape[3] - 1) - 1).float().expand(height, width)
        grid_y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
        swept = F.grid_sample(right, torch.stack([grid_x, grid_y], -1)[None], align_corners=True)
        planes.append(torch.cat([left, swept], 1)[0])
    return torch.stack(planes)[None]


class Naive:
    """A frame the plain way."""

    def __init__(self, network: StreamDsgn) -> None:
        self.network = network.eval()
        for module in network.modules():
            if isinstance(module, Conv3d):
                module.folded = False

    def frame(self, left: Tensor, right: Tensor, view: CameraView, before: Tensor) -> Tensor:
        """The scores of a frame, with every feature computed and every plane swept by itself."""
        network = self.network
        of_left = network.image_network(left)[:, :, ::4, ::4]
        of_right = network.image_network(right)[:, :, ::4]
        if network.config.window is None:
            planes = plane_by_plane(of_left, of_right, float(view.focal_baseline[0]), network.config)
        else:
            planes = cost_volume(of_left, of_right, view.focal_baseline, network.config)
        planes = F.relu(network.match1(planes))
        planes = planes + network.match2(planes)
        cells = F.grid_sample(planes.transpose(1, 2), view.cells.where, align_corners=True)
        if view.cells.seen is not None:
            cells = cells * view.cells.seen[:, None]
        space = network.space
        volume = space.hourglass(F.relu(space.enter(cells.transpose(1, 2))))
        return network.detect(seen_from_above(volume), before).scores


def frames(config: NetworkConfig, repeats: int, precisions: tuple[str, ...]) -> dict[str, float]:
    """A streamed frame: the naive form, and ours in each precision."""
    torch.manual_seed(0)
    network = StreamDsgn(config).eval()
    keep_freed_memory()
    fast = {precision: fast_network(network, DTYPES[precision]) for precision in precisions}
    calibration = Drive(0, 3).calibration.scaled(config.width / 416)
    matrices = torch.from_numpy(np.stack([calibration.left, calibration.right])).float()[None]
    view = network.view(matrices, torch.tensor([[config.height, config.width]]))
    left, right = (torch.randn(1, 3, config.height, config.width) for _ in range(2))
    fast_left, fast_right = (x.contiguous(memory_format=torch.channels_last) for x in (left, right))
    before = torch.randn(1, network.bev_channels, *config.grid.cells[1:])
    naive = Naive(network)
    forms: dict[str, Callable[[], Any]] = {"naive": lambda: naive.frame(left, right, view, before)}
    for precision in precisions:

        def ours(precision: str = precision) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                fast[precision](fast_left, fast_right, view, before)

        forms[precision] = ours
    with torch.inference_mode():
        return medians(forms, repeats)


def convolutions(repeats: int) -> dict[str, float]:
    """One 3x3x3 convolution of the tiny size: as torch has it, and folded."""
    conv = Conv3d(16, 16)
    layers = torch.randn(1, 16, 16, 32, 104)

    def run(folded: bool) -> None:
        conv.folded = folded
        conv(layers)

    with torch.inference_mode():
        return medians({"conv3d": lambda: run(False), "folded": lambda: run(True)}, repeats)


def streaming(weights: str, fps: float, threads: int, precision: str) -> dict[str, Any]:
    """A drive in real time."""
    runtime = create_runtime(device="cpu", precision=precision, seed=0, threads=threads)
    source = SequenceSource(drawn_sequences([lambda: Drive(2_000_000, 60)], threads)[0], fps)
    detector = StreamDetector(
        load_detector(weights), source.calibration, (128, 416), runtime, fps, limits_of(0.1)
    )
    warm_up(detector, next(source.frames()))
    stream = run_wall(source, detector, source.frames(), lambda output: None)
    counted = list(stream.outputs)[5:]
    stages = {
        name: round(statistics.median(one.detected.stages_ms[name] for one in counted), 1)
        for name in counted[0].detected.stages_ms
    }
    return {
        "fps": fps,
        "dropped": stream.mailbox_drops,
        "latency_ms": percentiles([one.latency_ms for one in counted]),
        "age_ms": percentiles([one.age_ms for one in counted]),
        "stages_ms": stages,
        "peak_memory_mb": runtime.peak_memory_mb(),
    }


def odometry(preset: Preset, n_drives: int = 3, n_frames: int = 12) -> dict[str, float]:
    """The cameras' motion from the pictures against that of the drives, and what it takes."""
    errors, times = [], []
    for drive in (Drive(3_000_000 + i, n_frames, preset) for i in range(n_drives)):
        machine = StreamDetector(
            load_detector("builtin:street-tiny"),
            drive.calibration,
            (128, 416),
            create_runtime(device="cpu"),
            drive.fps,
            limits_of(0.1),
            ego_motion="pictures",
        )
        poses = []
        for i in range(n_frames):
            arrival = Arrival(i, drive.frame(i))
            started = time.perf_counter()
            poses.append(machine.prepare(arrival).pose)
            times.append(1000 * (time.perf_counter() - started))
        for i in range(1, n_frames):
            true = bev_motion(drive.pose(i - 1), drive.pose(i))
            errors.append(np.abs(bev_motion(poses[i - 1], poses[i]) - true))  # type: ignore[arg-type]
    turn, *shift = np.mean(errors, 0)
    return {
        "turn_error_mrad": round(1000 * float(turn), 3),
        "shift_error_m": round(float(np.hypot(*shift)), 4),
        "prepare_ms": round(statistics.median(times), 1),
    }


def drawing(n_drives: int = 6, n_frames: int = 4) -> dict[str, float]:
    """Milliseconds of processor time per frame that is generated, taking turns: the old presets, and the town."""
    forms = {
        name: [drive_of(5_000_000 + i, name, n_frames + 1) for i in range(n_drives)]
        for name in ("street", "crowded", "town")
    }
    for drives in forms.values():
        for drive in drives:
            drive.frame(0)  # compiles, and builds what stands still
    spent = dict.fromkeys(forms, 0.0)
    for number in range(n_drives):
        for name, drives in forms.items():
            started = time.thread_time()
            for i in range(1, n_frames + 1):
                drives[number].frame(i)
            spent[name] += 1000 * (time.thread_time() - started)
    return {name: round(total / n_drives / n_frames, 1) for name, total in spent.items()}


def exported(weights: str, repeats: int, threads: int) -> dict[str, float]:
    """Processor time of a frame and its boxes, float32: in PyTorch, and in ONNX Runtime where that is installed."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        return {}
    detector = load_detector(weights)
    drive, runtime = (
        Drive(6_000_000, 3),
        create_runtime(device="cpu", precision="fp32", seed=0, threads=threads),
    )
    stream = StreamDetector(detector, drive.calibration, (128, 416), runtime, drive.fps, limits_of(0.1))
    first, second = (stream.prepare(Arrival(i, drive.frame(i))) for i in range(2))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with TemporaryDirectory() as folder:
        file = Path(folder) / "detector.onnx"
        export_onnx(file, detector)
        session = onnxruntime.InferenceSession(str(file), options)
    last = np.zeros([int(side) for side in session.get_inputs()[4].shape], np.float32)
    given = [
        {
            "left": one.left[None].numpy(),
            "right": one.right[None].numpy(),
            "picture_size": np.array([stream.fit.height, stream.fit.width]),
            "calibration": stream.fit.matrices()[None].numpy(),
            "last_map": last,
            "frames_apart": np.ones(1, np.float32),
        }
        for one in (first, second)
    ]

    def pytorch() -> None:
        stream.reset()
        stream.detect(first)
        stream.detect(second)

    found = medians(
        {"pytorch": pytorch, "onnxruntime": lambda: [session.run(None, one) for one in given]},
        repeats,
        time.process_time,
    )
    return {name: round(both / 2, 2) for name, both in found.items()}


def limits_of(score: float) -> Any:
    """Boxes of at least a score."""
    from effcli.detect_stream.network.box_decoding import Limits

    return Limits(score=score)


def parts_of(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    weights, repeats, threads = arguments.weights, arguments.repeats, arguments.threads
    parts: dict[str, Callable[[], Any]] = {
        "convolution_ms": partial(convolutions, repeats),
        "tiny_frame_ms": partial(frames, TINY, repeats, ("fp32", "bf16")),
    }
    if arguments.full:
        parts["full_frame_ms"] = partial(frames, FULL, 1, ("fp32", "bf16"))
    parts["exported_frame_cpu_ms"] = partial(exported, weights, repeats, threads)
    parts["drawing_cpu_ms"] = drawing
    presets: tuple[Preset, ...] = ("street", "turn", "fast-ego")
    for preset in presets:
        parts[f"odometry_{preset}"] = partial(odometry, preset)
    for fps in (10.0, 20.0):
        for precision in ("fp32", "bf16"):
            parts[f"streaming_{fps:g}_{precision}"] = partial(streaming, weights, fps, threads, precision)
    return parts


def main() -> None:
    """Measure everything, print it, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--weights", default="builtin:street-tiny")
    parser.add_argument("--full", action="store_true", help="also one frame of the published size")
    parser.add_argument("--only", metavar="PART", help="one part, by its name in the output")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = parts_of(arguments)
    if arguments.only is not None and arguments.only not in parts:
        parser.error(f"--only {arguments.only}: available: {', '.join(parts)}")
    result = {name: part() for name, part in parts.items() if arguments.only in (None, name)}
    print(json.dumps(result, indent=2))
    write_record(arguments.json, result, sys.argv)


if __name__ == "__main__":
    main()
