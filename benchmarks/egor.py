"""Speed of `effcli continual --method egor`: ratios inside one run. Nothing else should be running.

    python benchmarks/egor.py [--json FILE] [--iterations 12] [--images 50] [--side 64] [--repeats 3] [--processor-time]
    python benchmarks/egor.py --detect [--onnx nanodet.onnx] [--openvino nanodet_m.xml]

Milliseconds an image and iteration of the inversion, with a tiny GFL of five classes. Peers: the same one written
image by image, as it is in the release (augmentation, assignment and losses in loops, one forward pass for all;
variances of features by torch.var); and
one image at a time. The first must give the same losses from the same seed, which is checked; the second cannot, as the
statistics of BatchNorm are then those of one image. Then milliseconds of a training step of 16 images: of a first
detector, of fine-tuning, of distillation, and of EGOR with pastes, and what pasting alone takes. With --processor-time
one thread's processor seconds count, which other work disturbs less.

With --detect instead: processor milliseconds per image of 320x320 with builtin:nanodet-m: `effcli continual detect`
after reading, its network and its NMS alone, and beside them an exported file in ONNX Runtime
(`effcli continual export builtin:nanodet-m -o nanodet.onnx`) and the network alone in the package openvino, with the
OpenVINO IR that the weights came from. One thread each. Processor seconds count on a machine that does other work, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.continual.egor import inversion
from effcli.continual.egor.composition import Composer
from effcli.continual.egor.data.detection_sets import ScaledImages
from effcli.continual.egor.data.sources import load_detection
from effcli.continual.egor.detecting.detection import ObjectFinder
from effcli.continual.egor.detectors.detector import DetectionLoss, Raw, Targets
from effcli.continual.egor.detectors.feature_statistics import own_statistics
from effcli.continual.egor.detectors.gfl import Gfl, tiny_config
from effcli.continual.egor.inversion import Crop, invert
from effcli.continual.egor.losses import distillation
from effcli.continual.egor.recipe import (
    CompositionSection,
    DetectorTrainSection,
    DistillationSection,
    InversionSection,
)
from effcli.continual.egor.training import batch_of_step
from effcli.continual.egor.weights import BUILTIN, load_detector
from effcli.core.evidence.records import write_record
from effcli.core.registry import find_recipe
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.data.images import read_image

N_CLASSES = 5
SIDE, SCORE = 320, 0.3
PHOTO = Path(__file__).resolve().parents[1] / "examples" / "boats.jpg"


class ByPlainVariance(inversion.StatisticsPrior):
    """R_BN with means and variances taken as in the release."""

    def _look(self, name: str, features: Tensor) -> None:
        channels = features.transpose(0, 1).flatten(1)
        known_mean, known_variance = self._known[name]
        mean, variance = channels.mean(1), channels.var(1, unbiased=False)
        self._distances.append((known_mean - mean).norm() + (known_variance - variance).norm())


class ByImage(Gfl):
    """GFL whose loss looks at one image after another, as mmdetection's does; the sums are the same."""

    def detection_loss(self, raw: Raw, targets: Targets, first: int = 0) -> DetectionLoss:
        losses: list[Any] = []
        counts: list[int] = []
        for i in range(len(raw.logits)):
            one = Raw(raw.logits[i : i + 1], raw.edges[i : i + 1], raw.features)
            own = Targets(targets.boxes[i : i + 1], targets.labels[i : i + 1], targets.valid[i : i + 1])
            parts = _parts(self, one, own, first)
            losses.append(parts)
            counts.append(parts[3])
        quality, weighted, weights = (torch.stack([part[k] for part in losses]).sum() for k in range(3))
        n = sum(counts)
        return DetectionLoss(quality / max(1, n) + weighted / weights, weights.detach(), n)


def _parts(detector: Gfl, raw: Raw, targets: Targets, first: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Of one image: the sum of QFL, the weighted sum of the box losses, the sum of their weights, the positives."""
    from effcli.continual.egor.detectors import edge_distributions as gfl
    from effcli.continual.egor.detectors import losses
    from effcli.continual.egor.detectors.assignment import assign, pairwise_iou

    centres, strides = detector._places(raw)
    assigned = assign(centres, strides * detector.anchor_scale, detector.level_sizes(raw), targets)[0]
    places = torch.nonzero(assigned >= 0)[:, 0]
    logits = raw.logits[0, :, first:]
    y = torch.zeros_like(logits)
    weighted, weights = raw.edges.sum() * 0, raw.edges.sum() * 0
    if len(places):
        chosen = assigned[places]
        stride, edges = strides[places][:, None], raw.edges[0, places]
        true = targets.boxes[0, chosen] / stride
        found = gfl._from_edges(centres[places] / stride, detector._distances(edges))
        quality = pairwise_iou(found.detach()[:, None], true[:, None])[:, 0, 0]
        y[places, targets.labels[0, chosen] - first] = quality
        weight = logits.detach()[places].sigmoid().amax(-1)
        distances = gfl._to_edges(centres[places] / stride, true).clamp(0, detector.reg_max - 0.1)
        dfl = losses.distribution_focal(edges.unflatten(-1, (4, -1)), distances).mean(-1)
        giou = gfl.generalized_box_iou_loss(found, true)  # type: ignore[attr-defined]
        weighted = (weight * (gfl.BOX_WEIGHT * giou + gfl.EDGE_WEIGHT * dfl)).sum()
        weights = weight.sum()
    return losses.quality_focal(logits, y), weighted, weights, len(places)


def augment_by_image(images: Tensor, boxes: Tensor, settings: InversionSection) -> tuple[Tensor, Tensor]:
    """The same augmentation, from the same random numbers, image after image."""
    side, n = images.shape[-1], len(images)
    reach = round(settings.shift * side)
    dy, dx = (int(v) for v in torch.randint(-reach, reach + 1, (2,)))
    flip = bool(torch.rand(()) < settings.flip)
    brighter = settings.brightness * torch.randn(n, 1, 1, 1)
    mask = inversion._with_patches_missing(images, settings.erase)
    new_images, new_boxes = [], []
    for i in range(n):
        image = images[i].roll((dy, dx), (1, 2))
        box = (boxes[i] + boxes.new_tensor([dx, dy, dx, dy])).clamp(0, side)
        if float((box[2:] - box[:2]).prod()) < 1:
            box = boxes[i]
        if flip:
            image = image.flip(-1)
            box = torch.stack([side - box[2], box[1], side - box[0], box[3]])
        new_images.append((image + brighter[i]) * mask[i])
        new_boxes.append(box)
    return torch.stack(new_images), torch.stack(new_boxes)


def inverted(
    detector: Gfl, settings: InversionSection, n: int, augment: Callable[..., Any], clock: Callable[[], float]
) -> tuple[float, list[float]]:
    """Seconds, and the losses that were logged."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = create_runtime(device="cpu", precision="fp32", seed=0)
        run = open_run(
            Path(folder) / "run", find_recipe("continual", "egor"), runtime, verb="run", recipe_name="egor"
        )
        labels = torch.arange(n) % N_CLASSES
        corner = torch.full((n, 2), 0.15)
        original = {"augment": inversion.augment, "StatisticsPrior": inversion.StatisticsPrior}
        inversion.augment = augment
        if augment is augment_by_image:
            vars(inversion)["StatisticsPrior"] = ByPlainVariance
        try:
            with run:
                started = clock()
                boxes, known = torch.cat([corner, corner + 0.7], 1), own_statistics(detector)
                invert(detector, boxes, labels, settings, run, "invert", known)
                seconds = clock() - started
        finally:
            vars(inversion).update(original)
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return seconds, [json.loads(line)["loss"] for line in lines]


def inversions(options: argparse.Namespace) -> dict[str, Any]:
    """The three ways, in turns."""
    torch.manual_seed(0)
    batched = Gfl(tiny_config(N_CLASSES))
    by_image = ByImage(tiny_config(N_CLASSES))
    by_image.load_state_dict(batched.state_dict())
    n, iterations = options.images, options.iterations
    settings = InversionSection(iterations=iterations, side=options.side, batch_size=n)
    single = settings.model_copy(update={"batch_size": 1})
    few = max(1, n // 10)  # of the slowest way
    ways: dict[str, Callable[[], tuple[float, list[float]]]] = {
        "batched": lambda: inverted(batched, settings, n, inversion.augment, options.clock),
        "image by image": lambda: inverted(by_image, settings, n, augment_by_image, options.clock),
        "one image at a time": lambda: inverted(batched, single, few, inversion.augment, options.clock),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for name, way in ways.items():
            took, losses[name] = way()
            images = few if name == "one image at a time" else n
            seconds[name].append(1000 * took / images / iterations)
    np.testing.assert_allclose(losses["image by image"], losses["batched"], rtol=1e-3)
    made = {name: statistics.median(times) for name, times in seconds.items()}
    for name, ms in made.items():
        print(f"inversion, {name:22s} {ms:8.3f} ms an image and iteration  {ms / made['batched']:6.2f}x")
    return made


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Training steps, in turns."""
    data = load_detection("builtin:garment-scenes", "train")
    groups = ScaledImages(data.of_classes(data.classes[5:], without=data.classes[:5]), None, None)
    numbered = groups.with_objects(
        [type(one)(one.boxes, one.labels + N_CLASSES, one.crowd) for one in groups.set.objects]
    )
    torch.manual_seed(0)
    teacher = Gfl(tiny_config(N_CLASSES)).eval().requires_grad_(False)
    student = Gfl(tiny_config(2 * N_CLASSES)).train()
    crops = [Crop(torch.randint(0, 256, (3, 44, 30), dtype=torch.uint8), k % N_CLASSES) for k in range(50)]
    composer = Composer(crops, CompositionSection(), 0)
    settings = DetectorTrainSection()
    optimizer = torch.optim.SGD(student.parameters(), 0.001)

    def step(number: int, distil: bool, paste: Composer | None) -> None:
        batch = batch_of_step(numbered, number, settings, 0.5, 0, paste)
        x = student.normalise(batch.images)
        new = student(x)
        loss = student.detection_loss(new, batch.targets, N_CLASSES if distil else 0)
        total = loss.total
        if distil:
            with torch.no_grad():
                old = teacher(x)
            terms = distillation(
                student, new, old, batch.pasted, N_CLASSES, loss.balance, DistillationSection()
            )
            total = total + torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    ways: dict[str, Callable[[int], Any]] = {
        "fine-tuning": lambda i: step(i, False, None),
        "distillation": lambda i: step(i, True, None),
        "distillation and pastes (EGOR)": lambda i: step(i, True, composer),
        "a batch": lambda i: batch_of_step(numbered, i, settings, 0.5, 0, None),
        "a batch with pastes": lambda i: batch_of_step(numbered, i, settings, 0.5, 0, composer),
    }
    for number in range(100):  # three epochs, after which most sizes of the objects have been made
        batch_of_step(numbered, number, settings, 0.5, 0, composer)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(8 * options.repeats):
        for name, way in ways.items():
            started = options.clock()
            way(number)
            times[name].append(1000 * (options.clock() - started))
    made = {name: statistics.median(some) for name, some in times.items()}
    for name, ms in made.items():
        print(f"step of 16 images, {name:31s} {ms:8.2f} ms  {ms / made['fine-tuning']:6.2f}x")
    return made


def detections(options: argparse.Namespace) -> dict[str, Any]:
    """Ways to find objects in one image, in turns."""
    torch.set_num_threads(1)
    runtime = create_runtime(device="cpu", precision="fp32", seed=0, threads=1)
    photo = read_image(PHOTO)
    image = F.interpolate(photo[None].float(), (SIDE, SIDE), mode="area")[0].to(torch.uint8)
    finder = ObjectFinder(BUILTIN, SCORE, runtime)
    detector = load_detector(BUILTIN)[0].eval()
    x = detector.normalise(image[None])
    with torch.no_grad():
        raw = detector(x)
    ways: dict[str, Callable[[], Any]] = {
        "detect": lambda: finder(image),
        "network alone": lambda: detector(x),
        "decoding and NMS alone": lambda: detector.detections(raw, [(SIDE, SIDE)], SCORE),
    }
    if options.onnx:
        exported = ObjectFinder(str(options.onnx), SCORE, runtime)
        ways["detect, ONNX Runtime"] = lambda: exported(image)
    if options.openvino:
        openvino = import_module("openvino")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
        compiled = openvino.Core().compile_model(str(options.openvino), "CPU", settings)
        given = image[None].flip(1).float().numpy()
        ways["network alone, openvino"] = lambda: compiled(given)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(10 * options.repeats):
        for name, way in ways.items():
            started = time.process_time()
            with torch.inference_mode():
                way()
            if number >= options.repeats:  # the first are slower
                times[name].append(1000 * (time.process_time() - started))
    made = {name: statistics.median(some) for name, some in times.items()}
    for name, ms in made.items():
        print(f"{name:25s} {ms:8.2f} processor ms an image  {ms / made['detect']:6.2f}x")
    return made


def rows(what: str, ms: dict[str, float], against: str) -> dict[str, dict[str, str]]:
    """A row of the results for each time."""
    return {
        f"{what}, {name}": {"ms": f"{one:.2f}", "ratio": f"{one / ms[against]:.2f}x"}
        for name, one in ms.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--detect", action="store_true")
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--openvino", type=Path)
    options = parser.parse_args()
    if options.detect:
        write_record(options.json, {"detect_processor_ms": detections(options)}, sys.argv)
        return
    options.clock = time.process_time if options.processor_time else time.perf_counter
    if options.processor_time:
        torch.set_num_threads(1)
    print(f"{torch.get_num_threads()} threads")
    made = rows("inversion", inversions(options), "batched") | rows("step", steps(options), "distillation")
    write_record(options.json, made, sys.argv)


if __name__ == "__main__":
    main()
