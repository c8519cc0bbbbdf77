"""Batches of images with boxes, and the loop that trains a detector on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.egor.composition import Composer
from effcli.continual.egor.data.detection_sets import ScaledImages
from effcli.continual.egor.detectors.detector import Detector, Targets
from effcli.continual.egor.inversion import without_gradients
from effcli.continual.egor.recipe import DetectorTrainSection
from effcli.core.errors import UsageError
from effcli.core.run import Run
from effcli.data.epochs import batches_per_epoch, draws_of, item_of
from effcli.nn.schedules import set_rate

PAD_TO = 32
_STREAM, _FLIP_STREAM = 17, 19
_DROPS = (8 / 12, 11 / 12)


@dataclass(frozen=True)
class DetectionBatch:
    """Images as a detector takes them.

    Attributes:
        images: uint8 ``[B, 3, H, W]``; what is added at the right and below is ``sizes`` away.
        sizes: height and width of each image without that.
        targets: the objects that are learned.
        pasted: boxes of pasted objects, pixels, ``[P, 4]`` an image.
        pasted_labels: their labels.
    """

    images: Tensor
    sizes: tuple[tuple[int, int], ...]
    targets: Targets
    pasted: tuple[Tensor, ...]
    pasted_labels: tuple[Tensor, ...]


def n_steps_of(settings: DetectorTrainSection, n_images: int) -> int:
    """Optimiser steps of a training."""
    return settings.epochs * batches_per_epoch(n_images, settings.batch_size)


def batch_of_step(
    images: ScaledImages,
    step: int,
    settings: DetectorTrainSection,
    flip: float,
    seed: int,
    composer: Composer | None = None,
) -> DetectionBatch:
    """The images of a step, with pastes and mirrored by chance; all of it follows from the seed and the step."""
    pictures, boxes, labels, pasted, pasted_labels = [], [], [], [], []
    for draw in draws_of(step, settings.batch_size):
        epoch, item = item_of(draw, len(images), _STREAM, seed)
        image, found, _ = images[item]
        own_boxes, own_labels = found.boxes[~found.crowd], found.labels[~found.crowd]
        new_boxes, new_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
        if composer is not None:
            image, new = composer(image, found.boxes, item, epoch)
            new_boxes, new_labels = new.boxes, new.labels
        if flip and np.random.default_rng((_FLIP_STREAM, seed, draw)).random() < flip:
            width = image.shape[2]
            image, own_boxes, new_boxes = (
                image.flip(-1),
                _mirrored(own_boxes, width),
                _mirrored(new_boxes, width),
            )
        pictures.append(image)
        boxes.append(own_boxes)
        labels.append(own_labels)
        pasted.append(new_boxes)
        pasted_labels.append(new_labels)
    stacked, sizes = stack(pictures)
    return DetectionBatch(stacked, sizes, targets_of(boxes, labels), tuple(pasted), tuple(pasted_labels))


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


def stack(pictures: Sequence[Tensor]) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """Images of any size as one batch with sides that are multiples of 32; and their own heights and widths."""
    sizes = tuple((p.shape[1], p.shape[2]) for p in pictures)
    height, width = (-(-max(side) // PAD_TO) * PAD_TO for side in zip(*sizes, strict=True))
    padded = [F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in pictures]
    return torch.stack(padded), sizes


def targets_of(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
    """ObjectBoxes of several images as one batch."""
    most = max(1, max(len(one) for one in boxes))
    padded = torch.stack([F.pad(one, (0, 0, 0, most - len(one))) for one in boxes])
    numbers = torch.stack([F.pad(one, (0, most - len(one))) for one in labels])
    valid = torch.stack([torch.arange(most) < len(one) for one in boxes])
    return Targets(padded, numbers, valid)


def rate_of(settings: DetectorTrainSection, step: int, n_steps: int) -> float:
    """The learning rate of a step: warm-up, then a tenth after 8 of 12 parts and again after 11."""
    warmup_steps = min(settings.warmup_steps, n_steps // 4)
    warm = 1.0 if step >= warmup_steps else 0.001 + 0.999 * step / warmup_steps
    drops = sum(step >= round(share * n_steps) for share in _DROPS)
    return settings.learning_rate * warm * 0.1**drops


def fit(
    detector: Detector,
    images: ScaledImages,
    settings: DetectorTrainSection,
    flip: float,
    run: Run,
    stage: str,
    loss_of: Callable[[DetectionBatch, Tensor], dict[str, Tensor]],
    composer: Composer | None = None,
    frozen: Sequence[nn.Module] = (),
) -> None:
    """Train a detector in place.

    Args:
        detector: what learns.
        images: to learn from.
        settings: the optimisation.
        flip: share of the samples that are mirrored, 0..1.
        run: keeps checkpoints; losses go to its log.
        stage: name of the loop.
        loss_of: the terms of the loss of a batch, whose normalised images are the second argument.
        composer: pastes objects; None for none.
        frozen: parts of the detector that stay as they are, running statistics included.
    """
    if not len(images):
        raise UsageError("there are no training images", place="data")
    trunk, device = nn.ModuleList(frozen), run.runtime.device
    n_steps = n_steps_of(settings, len(images))
    with without_gradients(trunk):
        optimizer = torch.optim.SGD(
            [parameter for parameter in detector.parameters() if parameter.requires_grad],
            settings.learning_rate,
            settings.momentum,
            weight_decay=settings.weight_decay,
        )
        detector.train()
        trunk.eval()
        for step in run.steps(stage, n_steps, {"detector": detector, "optimizer": optimizer}):
            set_rate(optimizer, rate_of(settings, step, n_steps))
            batch = batch_of_step(images, step, settings, flip, run.runtime.seed, composer)
            terms = loss_of(batch, detector.normalise(batch.images.to(device)))
            total = torch.stack(list(terms.values())).sum()
            _descend(optimizer, total, settings.grad_clip)
            run.log(stage, step, every=20, loss=total, **terms)
    detector.eval()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, grad_clip: float | None) -> None:
    """One step down the gradient of a loss, whose length is at most ``grad_clip``."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if grad_clip is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], grad_clip)
    optimizer.step()
