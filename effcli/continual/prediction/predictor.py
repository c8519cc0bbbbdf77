"""The library form of `effcli continual predict`: one object that says what pictures show.

import effcli.continual
answers = effcli.continual.load("run/").predict(["photo.jpg", "other.jpg"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.continual.network import Calibration
from effcli.continual.prediction.onnx_classifier import load_onnx
from effcli.continual.weights import load_classifier
from effcli.core.errors import InputError
from effcli.core.runtime import Runtime, create_runtime
from effcli.core.tensor_file import require_finite_output
from effcli.data.image_sets import square
from effcli.data.images import read_image

BATCH = 64
"""Images that are computed at a time."""


@dataclass(frozen=True)
class Answer:
    """What one image shows.

    Attributes:
        label: the class; None where the best score is below the threshold: none of the known classes.
        score: of the best class, 0..1: how often answers with this score are right, as far as the calibration holds.
        top: the best classes and their scores, the best first.
    """

    label: str | None
    score: float
    top: tuple[tuple[str, float], ...]


class Predictor:
    """A trained classifier with its preprocessing.

    Args:
        logits: of uint8 images ``[B, C, S, S]`` on the runtime's device.
        classes: the name of each logit.
        side: S, of the images.
        channels: C.
        calibration: of the scores; None: softmax of the logits as they are.
        runtime: where it is computed.

    Attributes:
        unknown_below: scores below it mean none of the known classes; 0 where it is not calibrated.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        classes: tuple[str, ...],
        side: int,
        channels: int,
        calibration: Calibration | None,
        runtime: Runtime,
    ) -> None:
        self.logits, self.classes = logits, classes
        self.side, self.channels = side, channels
        self.temperature = 1.0 if calibration is None else calibration.temperature
        self.unknown_below = 0.0 if calibration is None else calibration.unknown_below
        self.runtime = runtime

    def predict(
        self, images: Any, k: int = 5, *, unknown_below: float | None = None, batch_size: int = BATCH
    ) -> list[Answer]:
        """Say what images show.

        Args:
            images: one image or several: paths, PIL images, arrays [H, W], [H, W, 1] or [H, W, 3] of uint8, or tensors
                [1, H, W] or [3, H, W] of uint8; of any size.
            k: how many classes of each answer are named, 1 or more.
            unknown_below: another threshold than the calibrated one, 0..1; 0: a known class in any case.
            batch_size: images that are computed at a time.

        Returns:
            One answer per image, in order.

        Raises:
            InputError: an image cannot be read, or is none.
        """
        several = [images] if _is_one(images) else list(images)
        answers = []
        for first in range(0, len(several), batch_size):
            batch = [self.prepared(image) for image in several[first : first + batch_size]]
            answers += self.answers(torch.stack(batch), k, unknown_below)
        return answers

    def prepared(self, image: Any) -> Tensor:
        """An image as the classifier takes it, uint8 ``[C, S, S]``: resized to the shorter side, and cropped."""
        return square(_pixels(image)[None], self.side, self.channels)[0]

    @torch.inference_mode()
    def answers(self, images: Tensor, k: int, unknown_below: float | None = None) -> list[Answer]:
        """The answers for prepared images, uint8 ``[B, C, S, S]``."""
        threshold = self.unknown_below if unknown_below is None else unknown_below
        with self.runtime.tuner("predict").step(len(images)), self.runtime.autocast():
            logits = self.logits(images.to(self.runtime.device)).float().cpu()
        scores = torch.softmax(
            require_finite_output(logits, "the scores of images").double() / self.temperature, 1
        )
        best, numbers = scores.topk(min(k, len(self.classes)), 1)
        found = []
        for row, names in zip(best.tolist(), numbers.tolist(), strict=True):
            top = tuple((self.classes[number], score) for number, score in zip(names, row, strict=True))
            found.append(Answer(top[0][0] if row[0] >= threshold else None, row[0], top))
        return found


def load(
    place: str | Path, *, device: str = "auto", precision: str = "fp32", runtime: Runtime | None = None
) -> Predictor:
    """Read a classifier to predict with.

    Args:
        place: a run directory, a classifier's ``.safetensors`` file, or an exported ``.onnx`` file.
        device: as the option of the command line; ignored when ``runtime`` is given.
        precision: the same.
        runtime: where it is computed.

    Raises:
        InputError: there is none, or it is damaged.
        UsageError: the device or precision is not available, or a package for ONNX files is missing.
    """
    runtime = runtime or create_runtime(device=device, precision=precision)
    if Path(place).suffix == ".onnx":
        about = load_onnx(Path(place))
        return Predictor(about.logits, about.classes, about.side, about.channels, about.calibration, runtime)
    classifier = load_classifier(place).to(runtime.device)
    spec = classifier.about
    return Predictor(
        classifier.scores, spec.classes, spec.side, spec.channels, classifier.calibration, runtime
    )


def _is_one(images: Any) -> bool:
    if isinstance(images, Tensor | np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | Path) or not isinstance(images, Iterable)


def _pixels(image: Any) -> Tensor:
    """uint8 ``[1, H, W]`` or ``[3, H, W]``."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Tensor):
        found = image.cpu()
    elif isinstance(image, np.ndarray):
        found = torch.from_numpy(image)
        found = found[None] if found.ndim == 2 else found.movedim(-1, 0)
    elif hasattr(image, "convert"):
        found = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)
    else:
        raise InputError(
            f"cannot predict a {type(image).__name__}",
            hint="pass a path, a PIL image, a NumPy array or a tensor",
        )
    if found.ndim != 3 or len(found) not in {1, 3} or found.dtype != torch.uint8 or not found.numel():
        raise InputError(
            f"{tuple(image.shape)} of {image.dtype} is not a picture",
            hint="uint8: arrays [H, W], [H, W, 1] or [H, W, 3], tensors [1, H, W] or [3, H, W]",
        )
    return found
