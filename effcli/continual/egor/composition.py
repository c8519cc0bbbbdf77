"""Synthesised objects pasted into images of new classes (docs/methods/egor.md, Composition)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.continual.egor.inversion import Crop
from effcli.continual.egor.recipe import CompositionSection

MOST_PASTES, TRIES = 6, 40
MOST_OF_OTHER, MOST_OF_OWN = 0.3, 0.1
FULL = 0.75
_ORDER_STREAM = 13


@dataclass(frozen=True)
class Pasted:
    """What was pasted into an image.

    Attributes:
        boxes: clipped to it, pixels, float32 ``[P, 4]``.
        labels: int64 ``[P]``.
    """

    boxes: Tensor
    labels: Tensor


class Composer:
    """Pastes objects into images; what goes where depends on the seed and a draw's number alone.

    Args:
        crops: objects of old classes.
        settings: how.
        seed: where chance comes from.
    """

    def __init__(self, crops: Sequence[Crop], settings: CompositionSection, seed: int) -> None:
        self._crops = crops
        self._settings = settings
        self._seed = seed
        self._scaled: dict[tuple[int, tuple[int, int]], Tensor] = {}

    def __call__(self, image: Tensor, boxes: Tensor, item: int, epoch: int) -> tuple[Tensor, Pasted]:
        """Paste up to six objects, each blended with what is under it: lambda I + (1 - lambda) b, lambda ~ Beta(2, 2).

        Args:
            image: uint8 ``[3, H, W]``; it is not changed.
            boxes: of what is in it, pixels, ``[G, 4]``.
            item: number of the image in its set.
            epoch: of the training; with ``composition.online`` off it makes no difference.

        Returns:
            A new image, and what was pasted. An image that one of its own objects fills stays as it is.
        """
        height, width = image.shape[1:]
        sides = boxes[:, 2:] - boxes[:, :2]
        is_full = bool(((sides[:, 0] > FULL * width) & (sides[:, 1] > FULL * height)).any())
        if is_full or not self._crops:
            return image, Pasted(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
        online = self._settings.online
        rng = np.random.default_rng((_ORDER_STREAM, self._seed, item, epoch if online else 0))
        blend = float(rng.beta(2, 2)) if self._settings.blend is None else self._settings.blend
        n, taken = len(boxes), np.empty((len(boxes) + MOST_PASTES, 4))
        taken[:n] = boxes.numpy()
        image = image.clone()
        pasted, labels = [], []
        for _ in range(MOST_PASTES):
            number = int(rng.integers(len(self._crops)))
            size, mirrored = self._variant(number, rng)
            place = free_place(size, (width, height), taken[:n], rng)
            if place is None:
                continue
            pasted.append(paste(image, self._varied(number, size, mirrored), place, blend))
            labels.append(self._crops[number].label)
            taken[n] = *place, place[0] + size[0], place[1] + size[1]
            n += 1
        return image, Pasted(
            torch.tensor(pasted, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.long)
        )

    def _variant(self, number: int, rng: np.random.Generator) -> tuple[tuple[int, int], bool]:
        """Width and height of an object, and whether it is mirrored: by chance, where the recipe says so."""
        scale = rng.uniform(*self._settings.scale)
        height, width = (max(2, round(side * scale)) for side in self._crops[number].pixels.shape[1:])
        return (width, height), bool(self._settings.flip) and rng.random() < self._settings.flip

    def _varied(self, number: int, size: tuple[int, int], mirrored: bool) -> Tensor:
        """An object of this size; each is made once."""
        key = (number, size)
        if key not in self._scaled:
            pixels = self._crops[number].pixels
            if (pixels.shape[2], pixels.shape[1]) != size:
                small = F.interpolate(pixels[None].float(), size[::-1], mode="bilinear", antialias=True)
                pixels = small[0].round_().clamp_(0, 255).to(torch.uint8)
            self._scaled[key] = pixels
        pixels = self._scaled[key]
        return pixels.flip(-1) if mirrored else pixels


def free_place(
    size: tuple[int, int], canvas: tuple[int, int], taken: np.ndarray, rng: np.random.Generator
) -> tuple[int, int] | None:
    """The first of 40 random places that leaves the others visible.

    For 20 tries the left top corner is in the left 60 % and the upper 40 %, for 20 the right bottom one in the right
    60 % and the lower 40 %. A place is refused where it covers more than 0.3 of another box, or another covers more
    than 0.1 of it; sides count both end pixels.

    Args:
        size: width and height of what is pasted.
        canvas: width and height of the image.
        taken: boxes ``[G, 4]``.
        rng: where chance comes from.

    Returns:
        Left and top, which may be outside the image; None where no try fits.
    """
    place = np.empty(2)
    _first_free()(rng.random((2, TRIES)), *size, *canvas, taken, MOST_OF_OTHER, MOST_OF_OWN, place)
    left, top = place.tolist()
    return None if math.isnan(left) else (int(left), int(top))


def paste(
    image: Tensor, crop: Tensor, place: tuple[int, int], blend: float
) -> tuple[float, float, float, float]:
    """Blend a crop into an image, in place: blend * image + (1 - blend) * crop, inside the clipped box; which is it.

    Both are uint8 ``[3, h, w]`` on the CPU, and ``blend`` from 0 to 1.
    """
    height, width = image.shape[1:]
    x, y = place
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + crop.shape[2], width), min(y + crop.shape[1], height)
    under = image[:, top:bottom, left:right].numpy()
    over = crop[:, top - y : bottom - y, left - x : right - x].numpy()
    _blend()(under, over, blend)
    return float(left), float(top), float(right), float(bottom)


@cache
def _first_free() -> Callable[..., None]:
    from numba import types

    from effcli.continual.egor.composition_cpu import first_free
    from effcli.nn.compiled.numba_threads import compile_cached

    number, table = types.float64, types.float64[:, ::1]
    signature = types.void(table, *[number] * 4, table, number, number, number[::1])
    return compile_cached(first_free, signature, parallel=False)


@cache
def _blend() -> Callable[..., None]:
    from numba import types

    from effcli.continual.egor.composition_cpu import blend
    from effcli.nn.compiled.numba_threads import compile_cached

    pixels = types.Array(types.uint8, 3, "A")
    return compile_cached(blend, types.void(pixels, pixels, types.float64), parallel=False)
