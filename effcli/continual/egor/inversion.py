"""Images that a detector is sure of, synthesised by gradient descent on pixels.

docs/methods/egor.md, Sampled boxes and labels, and docs/methods/egor.md, Inversion losses:
I_inv = argmin_I L_detect(Phi_ori(I), Y_inv) + R(I), with R = R_TV + R_BN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from effcli.continual.egor.detectors.assignment import pairwise_iou
from effcli.continual.egor.detectors.detector import Detector, Targets
from effcli.continual.egor.detectors.feature_statistics import (
    FeatureStatistics,
    channel_moments,
    watched_layers,
    watching,
)
from effcli.continual.egor.recipe import InversionSection
from effcli.core.run import Run
from effcli.nn.schedules import cosine, set_rate

N_BINS, TAIL = 50, 0.05
FOUND_IOU = 0.5


@dataclass(frozen=True)
class AspectHistogram:
    """How long or wide the boxes of a class are: all that is kept of the old data.

    Attributes:
        ratios: signed: w / h where w >= h, else -h / w; so never between -1 and 1.
        counts: of boxes.
    """

    ratios: Annotated[tuple[float, ...], Field(min_length=1)]
    counts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def aspect_histogram(boxes: Tensor) -> AspectHistogram:
    """Of boxes ``[G, 4]`` without the lowest and the highest twentieth, in 50 bins given by their left edges.

    Edges between -1 and 1 are no ratios; their counts go to the nearest bin that is one. Without boxes: squares.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).double().clamp_min(1e-6)
    width, height = sides[:, 0], sides[:, 1]
    signed = torch.where(width >= height, width / height, -height / width).sort().values.numpy()
    cut = int(len(signed) * TAIL)
    signed = signed[cut : len(signed) - cut] if len(signed) > 2 * cut else signed
    if not len(signed):
        return AspectHistogram((1.0,), (1,))
    counts, edges = np.histogram(signed, N_BINS)
    merged: dict[float, int] = {}
    for left, right, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        middle = left if not -1 < left < 1 else (-1.0 if left + right < 0 else 1.0)
        if n:
            merged[middle] = merged.get(middle, 0) + n
    return AspectHistogram(tuple(merged), tuple(merged.values()))


def sample_boxes(
    histograms: Sequence[AspectHistogram], n_each: int, sides: tuple[float, float], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One box an image, ``n_each`` of each class, in turns so that every batch has all classes.

    Args:
        histograms: of the classes.
        n_each: images a class.
        sides: least and most length of the longer side, as a share of the image's.
        rng: where chance comes from.

    Returns:
        Boxes ``[N, 4]`` as shares of the side, inside the image; labels ``[N]``.
    """
    boxes, labels = [], []
    for _ in range(n_each):
        for label, histogram in enumerate(histograms):
            counts = np.array(histogram.counts, float)
            ratio = float(rng.choice(histogram.ratios, p=counts / counts.sum()))
            longer = rng.uniform(*sides)
            width, height = (longer, longer / ratio) if ratio > 0 else (longer / -ratio, longer)
            x = 0.5 + rng.choice((-1, 1)) * rng.uniform(0, 0.5 - width / 2)
            y = 0.5 + rng.choice((-1, 1)) * rng.uniform(0, 0.5 - height / 2)
            boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
            labels.append(label)
    return torch.tensor(boxes, dtype=torch.float32).clamp(0, 1), torch.tensor(labels)


def total_variation(images: Tensor) -> Tensor:
    """R_TV: mean absolute differences of neighbours along x, y and both diagonals, summed."""
    x = images[..., :, 1:] - images[..., :, :-1]
    y = images[..., 1:, :] - images[..., :-1, :]
    diagonal = images[..., 1:, 1:] - images[..., :-1, :-1]
    antidiagonal = images[..., 1:, :-1] - images[..., :-1, 1:]
    return x.abs().mean() + y.abs().mean() + diagonal.abs().mean() + antidiagonal.abs().mean()


class StatisticsPrior:
    """R_BN: how far the statistics of features are from those that are known of them.

    Attributes:
        n_layers: how many are watched; 0 without statistics.

    Args:
        network: is watched.
        statistics: of its layers; None for none.
    """

    def __init__(self, network: nn.Module, statistics: FeatureStatistics | None) -> None:
        layers = {} if statistics is None else watched_layers(network)
        known = statistics or FeatureStatistics((), (), ())
        self._layers = {name: layers[name] for name in known.layers}
        self._known = dict(zip(known.layers, zip(known.means, known.variances, strict=True), strict=True))
        self._distances: list[Tensor] = []
        self.n_layers = len(self._layers)

    def watching(self) -> AbstractContextManager[None]:
        """Watch until the end of the context; nothing stays on the network."""
        return watching(self._layers, self._look)

    def _look(self, name: str, features: Tensor) -> None:
        mean, variance = channel_moments(features.float())
        known_mean, known_variance = self._known[name]
        self._distances.append((known_mean - mean).norm() + (known_variance - variance).norm())

    def value(self, weight: float, first_weight: float) -> Tensor:
        """``weight`` times the sum over layers and ``first_weight`` times the first layer's, since the last call."""
        distances = torch.stack(self._distances)
        self._distances.clear()
        return weight * distances.sum() + first_weight * distances[0]


def augment(images: Tensor, boxes: Tensor, settings: InversionSection) -> tuple[Tensor, Tensor]:
    """Shifted round the edges, mirrored together, each brightened and with a patch missing.

    Args:
        images: ``[B, 3, S, S]``.
        boxes: one each, in pixels, ``[B, 4]``.
        settings: how much.

    Returns:
        New images, and the boxes moved along and clipped; one of which less than a pixel is left stays as it was.
    """
    side = images.shape[-1]
    reach = round(settings.shift * side)
    dy, dx = (int(v) for v in torch.randint(-reach, reach + 1, (2,)))
    images = images.roll((dy, dx), (2, 3))
    moved = (boxes + boxes.new_tensor([dx, dy, dx, dy])).clamp(0, side)
    is_there = (moved[:, 2:] - moved[:, :2]).prod(1) >= 1
    boxes = torch.where(is_there[:, None], moved, boxes)
    if torch.rand(()) < settings.flip:
        images = images.flip(-1)
        boxes = torch.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], 1)
    brighter = settings.brightness * torch.randn(len(images), 1, 1, 1)
    return (images + brighter.to(images.device)) * _with_patches_missing(images, settings.erase), boxes


def _with_patches_missing(images: Tensor, share: float) -> Tensor:
    """A mask ``[B, 1, S, S]``: in a share of the images a rectangle of 2 to 20 % of it is 0, ratio 0.3 to 3.3."""
    n, side = len(images), images.shape[-1]
    area = torch.empty(n).uniform_(0.02, 0.2) * side**2
    ratio = torch.empty(n).uniform_(np.log(0.3), np.log(3.3)).exp()
    height = (area * ratio).sqrt().clamp(1, side - 1).round()
    width = (area / ratio).sqrt().clamp(1, side - 1).round()
    top, left = torch.rand(n) * (side - height), torch.rand(n) * (side - width)
    at = torch.arange(side)
    rows = (at >= top.floor()[:, None]) & (at < (top.floor() + height)[:, None])
    columns = (at >= left.floor()[:, None]) & (at < (left.floor() + width)[:, None])
    is_erased = (torch.rand(n) < share)[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return (~is_erased)[:, None].to(images.device, images.dtype)


class Pixels(nn.Module):
    """What is optimised: images in the range that the detector takes.

    Args:
        n: images.
        side: pixels.
    """

    def __init__(self, n: int, side: int) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.randn(n, 3, side, side).clamp(0, 1))


def new_adam(pixels: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Adam without memory, betas 0 and 0: each pixel moves by the rate against the sign of its gradient."""
    return torch.optim.Adam(pixels.parameters(), rate, betas=(0.0, 0.0))


def invert(
    detector: Detector,
    boxes: Tensor,
    labels: Tensor,
    settings: InversionSection,
    run: Run,
    stage: str,
    statistics: FeatureStatistics | None = None,
) -> Tensor:
    """Draw images out of a frozen detector; all of a batch at once.

    Args:
        detector: Phi_ori; its weights do not change, and nothing stays hooked to it.
        boxes: where the object of each image is, shares of its side, ``[N, 4]``.
        labels: of its class, ``[N]``.
        settings: the optimisation.
        run: keeps checkpoints; the loss goes to its log.
        stage: name of the stage.
        statistics: of the detector's features, which those of the images are drawn to; None for no such prior.

    Returns:
        Images in the range that the detector takes, ``[N, 3, S, S]``, on the CPU.
    """
    was_training = detector.training
    detector.eval()
    prior = StatisticsPrior(detector, statistics)
    made = []
    batches = zip(boxes.split(settings.batch_size), labels.split(settings.batch_size), strict=True)
    with without_gradients(detector), prior.watching():
        for number, (some_boxes, some_labels) in enumerate(batches):
            name = f"{stage}-{number}"
            made.append(_invert_batch(detector, prior, some_boxes, some_labels, settings, run, name))
    detector.train(was_training)
    return torch.cat(made)


def _invert_batch(
    detector: Detector,
    prior: StatisticsPrior,
    boxes: Tensor,
    labels: Tensor,
    settings: InversionSection,
    run: Run,
    stage: str,
) -> Tensor:
    runtime = run.runtime
    runtime.seed_all(stage, "begin")
    pixels = Pixels(len(boxes), settings.side).to(runtime.device)
    optimizer = new_adam(pixels, settings.learning_rate)
    in_pixels, labels = (boxes * settings.side).to(runtime.device), labels.to(runtime.device)
    valid = torch.ones(len(boxes), 1, dtype=torch.bool, device=runtime.device)
    state: dict[str, Any] = {"pixels": pixels, "optimizer": optimizer}
    for step in run.steps(stage, settings.iterations, state, unit="iterations"):
        set_rate(optimizer, cosine(step + 1, settings.iterations, settings.learning_rate, 0.0))
        images, moved = augment(pixels.images, in_pixels, settings)
        with runtime.autocast():
            raw = detector(images)
        detect = detector.detection_loss(raw, Targets(moved[:, None], labels[:, None], valid)).total
        variation = total_variation(pixels.images)
        total = settings.detect_weight * detect + settings.tv_weight * variation
        statistics = prior.value(settings.bn_weight, settings.first_bn_weight) if prior.n_layers else None
        if statistics is not None:
            total = total + statistics
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        run.log(
            stage,
            step,
            every=10,
            loss=total,
            detect=detect,
            tv=variation,
            **({} if statistics is None else {"bn": statistics}),
        )
    return pixels.images.detach().cpu()


def to_pictures(detector: Detector, images: Tensor, save: str) -> Tensor:
    """uint8 ``[N, 3, S, S]``: as the detector was shown them, or stretched one by one, as the release does."""
    if save == "denormalise":
        return detector.denormalise(images)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low).clamp_min(1e-8) * 255).round().to(torch.uint8)


@torch.no_grad()
def confidences(
    detector: Detector, pictures: Tensor, boxes: Tensor, labels: Tensor, device: torch.device
) -> Tensor:
    """The detector's best score of the right class at IoU 0.5 on each picture, 0 where it finds none, ``[N]``.

    Args:
        detector: that drew them.
        pictures: uint8 ``[N, 3, S, S]``.
        boxes: in pixels, ``[N, 4]``.
        labels: ``[N]``.
        device: where the detector is.
    """
    was_training = detector.training
    detector.eval()
    scores = []
    for i, picture in enumerate(pictures.split(64)):
        for j, found in enumerate(detector.detect(detector.normalise(picture.to(device)))):
            row = 64 * i + j
            overlap = pairwise_iou(found.boxes, boxes[row : row + 1].to(device))[:, 0]
            good = found.scores[(overlap >= FOUND_IOU) & (found.labels == labels[row].to(device))]
            scores.append(float(good.max()) if len(good) else 0.0)
    detector.train(was_training)
    return torch.tensor(scores)


@contextmanager
def without_gradients(network: nn.Module) -> Iterator[None]:
    """No parameter gets a gradient until the end of the context."""
    wanted = [p for p in network.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class Crop:
    """One generated object, cut out.

    Attributes:
        pixels: uint8 ``[3, h, w]``.
        label: of its class.
    """

    pixels: Tensor
    label: int


def cut_out(pictures: Tensor, boxes: Tensor, labels: Tensor) -> list[Crop]:
    """The objects, without what is around their boxes (in pixels)."""
    crops = []
    for picture, box, label in zip(pictures, boxes.round().int().tolist(), labels.tolist(), strict=True):
        left, top, right, bottom = box
        crops.append(Crop(picture[:, top : max(bottom, top + 1), left : max(right, left + 1)], label))
    return crops


def rates_by_class(
    scores: Tensor, labels: Tensor, classes: Sequence[str], least: float
) -> Mapping[str, dict[str, float]]:
    """Share of each class's images that the detector finds with ``least`` or more, and its mean score."""
    report = {}
    for number, name in enumerate(classes):
        own = scores[labels == number]
        report[name] = {
            "found": round(float((own >= least).float().mean()), 4),
            "mean_score": round(float(own.mean()), 4),
        }
    return report
