"""What `Enhancer` copies and what it does not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from effcli.enhance.enhancer import Enhancer


def pixels(dtype: str = "float32", channels: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).random((300, 20, channels)) * 0.3
    top = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    return (values * top).astype(dtype)


def scaled(factor: int, x: torch.Tensor) -> torch.Tensor:
    return x if factor == 1 else x * factor


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_picture_handed_in_is_neither_changed_nor_shared(dtype: str, channels: int) -> None:
    image = pixels(dtype, channels)
    before = image.copy()
    for factor in (1, 2):
        enhancer = Enhancer(partial(scaled, factor), device="cpu")
        result = enhancer.enhance_array(image)
        assert result.dtype == image.dtype and result.shape == image.shape
        assert not np.shares_memory(result, image)
        np.testing.assert_allclose(result[..., :3], before[..., :3] * factor, rtol=1e-6)
    np.testing.assert_array_equal(image, before)


def test_read_only_and_mirrored_arrays() -> None:
    image = pixels("uint8")
    image.setflags(write=False)
    np.testing.assert_array_equal(
        Enhancer(lambda x: x, device="cpu").enhance_array(image[:, ::-1]), image[:, ::-1]
    )


def test_full_strength_gives_the_result_itself_and_less_the_blend() -> None:
    x, bright = torch.rand(3, 8, 8), torch.rand(1, 3, 8, 8)
    assert torch.equal(Enhancer(lambda _: bright, device="cpu").enhance_tensor(x), bright[0])
    half = Enhancer(lambda _: bright, device="cpu", strength=0.5).enhance_tensor(x)
    assert torch.equal(half, torch.lerp(x, bright[0], 0.5))
