"""The library form of `effcli enhance`: one object that brightens pictures.

from effcli.enhance import Enhancer
bright = Enhancer().enhance(image)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.runtime import Runtime, create_runtime
from effcli.core.tensor_file import require_finite_output
from effcli.enhance.brightness import Brightness, parse_brightness
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.enhance.walmafa import Brightener
from effcli.enhance.weights import load_weights

if TYPE_CHECKING:
    from effcli.data.images import Picture

DEFAULT_WEIGHTS = "builtin:walmafa"

_ROWS_AT_ONCE = 256

Brighten = Callable[[Tensor], Tensor]
"""What a method provides: one picture ``[1, 3, H, W]``, float32 in 0..1 on the CPU -> the same, brightened."""


def _brightness(text: str | float) -> Brightness:
    try:
        return parse_brightness(text)
    except ValueError as error:
        raise InputError(str(error), place="brightness") from None


def _as_samples(bright: Tensor, dtype: np.dtype[Any], top: int) -> np.ndarray:
    """A picture [H, W, C] in 0..1 as numbers up to ``top``, some rows at a time."""
    if top == 1:
        return bright.numpy().astype(dtype, copy=False)
    out = np.empty(bright.shape, dtype)
    for first in range(0, len(out), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        out[rows] = bright[rows].mul(top).round_().numpy()
    return out


class Enhancer:
    """Brightens pictures of any size and type.

    Args:
        weights: a weight file of WalMaFa (ours or a released checkpoint), ``builtin:NAME``, a network, or any function
            that brightens a tensor.
        device: as the option of the command line; ignored when ``runtime`` is given.
        precision: the same.
        brightness: the level to reach: ``auto``, a mean grey level, or stops such as ``+1EV``; of weights with an
            exposure head alone.
        strength: blend of the result with the input, 0..1: 0 is the input, 1 the result alone.
        max_memory_mb: memory of WalMaFa for one picture in MB; None takes up to half of what is free, and
            on a CPU computes what needs more than 1 GB in strips. Larger pictures are
            computed in overlapping strips with the same result up to rounding.

    Raises:
        InputError: the weights cannot be read.
        UsageError: the device or precision is not available.
    """

    def __init__(
        self,
        weights: str | Path | WalMaFa | Brighten = DEFAULT_WEIGHTS,
        *,
        device: str = "auto",
        precision: str = "auto",
        brightness: str | float = "auto",
        strength: float = 1.0,
        max_memory_mb: int | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        if not 0 <= strength <= 1:
            raise InputError(f"must be in 0..1, not {strength}", place="strength")
        self.runtime = runtime or create_runtime(device=device, precision=precision)
        self.strength = strength
        if isinstance(weights, str | Path):
            weights = load_weights(weights)
        if isinstance(weights, WalMaFa):
            weights = Brightener(weights, self.runtime, max_memory_mb, _brightness(brightness))
        self.brighten: Brighten = weights

    def enhance(self, image: Any) -> Any:
        """Brighten one picture; the result has the type, shape and dtype of ``image``.

        Args:
            image: a PIL image; an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16, or float in 0..1
                (the fourth channel, alpha, is kept); or a tensor [3, H, W] or [B, 3, H, W] of floats in 0..1.

        Raises:
            InputError: any other type or shape.
        """
        if isinstance(image, Tensor):
            return self.enhance_tensor(image)
        if isinstance(image, np.ndarray):
            return self.enhance_array(image)
        from PIL import Image

        if isinstance(image, Image.Image):
            mode = image.mode if image.mode in {"L", "RGB", "RGBA"} else "RGB"
            result = Image.fromarray(self.enhance_array(np.asarray(image.convert(mode))))
            result.info.update(image.info)
            return result
        raise InputError(
            f"cannot enhance a {type(image).__name__}", hint="pass a PIL image, a NumPy array or a tensor"
        )

    def enhance_picture(self, picture: Picture) -> Picture:
        """Brighten a decoded file; metadata and alpha stay."""
        from dataclasses import replace

        return replace(picture, pixels=self.enhance_array(picture.pixels))

    def enhance_array(self, image: np.ndarray) -> np.ndarray:
        """Brighten an array as described in :meth:`enhance`."""
        if (
            image.ndim not in {2, 3}
            or (image.ndim == 3 and image.shape[2] not in {1, 3, 4})
            or 0 in image.shape
        ):
            raise InputError(
                f"an array of shape {image.shape} is not a picture",
                hint="[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]",
            )
        top = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(image.dtype, 1)
        if top == 1 and not np.issubdtype(image.dtype, np.floating):
            raise InputError(
                f"arrays of {image.dtype} are not supported", hint="uint8, uint16 or float in 0..1"
            )
        pixels = image[..., None] if image.ndim == 2 else image
        colour = torch.from_numpy(np.require(pixels[..., :3], requirements=["C", "W"])).to(torch.float32)
        colour = (colour if top == 1 else colour.div_(top)).permute(2, 0, 1)
        grey = colour.shape[0] == 1
        bright = self.enhance_tensor(colour.expand(3, -1, -1) if grey else colour)
        if grey:
            bright = bright.mean(0, keepdim=True)
        bright = bright.permute(1, 2, 0)
        out = _as_samples(bright, image.dtype, top)
        if pixels.shape[2] == 4:
            out = np.concatenate([out, pixels[..., 3:]], axis=2)
        return out.reshape(image.shape)

    @torch.inference_mode()
    def enhance_tensor(self, x: Tensor) -> Tensor:
        """Brighten [3, H, W] or [B, 3, H, W] in 0..1; returns float32 in 0..1 of the same shape on the CPU."""
        if x.ndim not in {3, 4} or x.shape[-3] != 3 or 0 in x.shape:
            raise InputError(
                f"a tensor of shape {tuple(x.shape)} is not a picture", hint="[3, H, W] or [B, 3, H, W]"
            )
        if self.strength == 0:
            return x.float().clone()
        batch = x.float().reshape(-1, *x.shape[-3:])
        with self.runtime.tuner("enhance").step(batch.numel()):
            results = [self.brighten(picture[None]) for picture in batch]
        bright = results[0] if len(results) == 1 else torch.cat(results)
        for rows in bright.split(_ROWS_AT_ONCE, dim=-2):
            require_finite_output(rows, "the brightened pixels")
        if self.strength == 1 and bright.data_ptr() != batch.data_ptr():
            return bright.reshape(x.shape)
        return torch.lerp(batch, bright, self.strength).reshape(x.shape)
