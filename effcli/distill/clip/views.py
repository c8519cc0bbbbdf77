"""From images to inputs of CLIP models: the whole image, or a crop for training.

A crop is named by numbers only, so that teacher and student get the same one, each in its own size and colour
statistics, and so that the teacher's embedding of it can be computed once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from effcli.core.runtime import derive_seed

CROP_SCALE = (0.9, 1.0)
"""Area of a crop as a share of the image's (docs/methods/clip-kd.md, Teacher and student inputs)."""

CROP_RATIO = (3 / 4, 4 / 3)

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the image."""


@dataclass(frozen=True)
class Preprocess:
    """From an image to a network's input, by the names of open_clip.

    Attributes:
        size: (height, width) in pixels.
        mean, std: of each colour, of values in 0..1.
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: of whole images: ``shortest`` side and crop the middle, ``longest`` and pad, or ``squash``.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    @classmethod
    def of(cls, network: nn.Module, settings: Mapping[str, Any]) -> Preprocess:
        """Of a network, with open_clip's ``preprocess_cfg``; CLIP's own statistics where it says nothing."""
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        visual: Any = network.visual
        size = visual.image_size
        return cls(
            size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
            mean=tuple(settings.get("mean") or OPENAI_DATASET_MEAN),
            std=tuple(settings.get("std") or OPENAI_DATASET_STD),
            interpolation=settings.get("interpolation") or "bicubic",
            resize_mode=settings.get("resize_mode") or "shortest",
        )

    def as_dict(self) -> dict[str, Any]:
        """As open_clip writes it beside a model; sizes as lists."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    def whole(self, image: Image) -> Tensor:
        """The view of an evaluation, float32 ``[3, H, W]``."""
        prepared: Tensor = self._whole(image)
        return prepared

    def crop(self, image: Image, box: Box) -> Tensor:
        """A crop, resized to the size, float32 ``[3, H, W]``."""
        filter = Resampling.BILINEAR if self.interpolation == "bilinear" else Resampling.BICUBIC
        prepared: Tensor = self._normalise(image.resize(self.size[::-1], filter, box=box))
        return prepared

    @cached_property
    def _whole(self) -> Any:
        from open_clip.transform import image_transform

        size = self.size[0] if self.size[0] == self.size[1] else self.size
        return image_transform(
            size,
            is_train=False,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
        )

    @cached_property
    def _normalise(self) -> Any:
        from torchvision.transforms import Compose, Normalize, ToTensor

        return Compose([ToTensor(), Normalize(self.mean, self.std)])


def crop_box(image: Image, *key: int | str) -> Box:
    """A random crop of an image, the same for the same key."""
    from torchvision.transforms import RandomResizedCrop

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("crop", *key))
        top, left, height, width = RandomResizedCrop.get_params(image, list(CROP_SCALE), list(CROP_RATIO))
    return left, top, left + width, top + height
