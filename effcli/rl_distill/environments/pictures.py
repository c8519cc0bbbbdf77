"""What an environment shows, as a picture: its frames or grid, or drawn by the environment."""

from __future__ import annotations

import numpy as np

from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.environments.observations import Part


def picture_of(env: Environments, observations: np.ndarray) -> np.ndarray:
    """The first copy as a picture, uint8 ``[H, W, 3]``.

    Args:
        env: made with ``render`` where its observations are not a picture.
        observations: ``[E, ...]``.
    """
    part = env.observed.parts[0]
    if env.observed.is_single and part.kind == "picture":
        return _frame(observations[0], part, is_stack=env.observed.stacked)
    if env.observed.is_single and part.kind == "planes":
        return _coloured(observations[0])
    drawn = _channels_last(env.rendered())
    is_unit = drawn.dtype.kind in "fb" and drawn.max(initial=0) <= 1
    return _as_bytes(drawn, 1.0 if is_unit else 255.0)


def _channels_last(drawn: np.ndarray) -> np.ndarray:
    """What an environment drew as ``[H, W]`` or ``[H, W, C]``.

    Raises:
        ValueError: it is not a picture.
    """
    if drawn.dtype == object:
        raise ValueError("it renders nothing")
    if drawn.ndim == 3 and drawn.shape[2] not in (1, 3, 4) and drawn.shape[0] in (1, 3, 4):
        return np.moveaxis(drawn, 0, -1)
    if drawn.dtype.kind not in "buif" or not (
        drawn.ndim == 2 or (drawn.ndim == 3 and drawn.shape[2] in (1, 3, 4))
    ):
        raise ValueError(f"it renders {drawn.dtype} of shape {list(drawn.shape)}, which is not a picture")
    return drawn


def _frame(seen: np.ndarray, part: Part, *, is_stack: bool) -> np.ndarray:
    """The newest frame of an observation; of three frames ``[3, H, W]`` over time the last, not a colour picture."""
    if part.layout == "shwc":
        seen = seen[-1]
    if part.layout == "chw":
        is_colour = seen.shape[0] == 3 and not is_stack
        seen = np.moveaxis(seen, 0, -1) if is_colour else seen[-1][:, :, None]
    if part.layout == "hw":
        seen = seen[:, :, None]
    if seen.shape[-1] not in (1, 3):
        seen = seen[..., :3] if seen.shape[-1] == 4 and part.layout in ("hwc", "shwc") else seen[..., -1:]
    return _as_bytes(seen, part.scale)


def _as_bytes(picture: np.ndarray, largest: float) -> np.ndarray:
    """Values in 0..largest, ``[H, W]`` or ``[H, W, C]``, as bytes ``[H, W, 3]``."""
    picture = picture[:, :, None] if picture.ndim == 2 else picture[..., :3]
    if picture.dtype != np.uint8:
        values = np.nan_to_num(picture.astype(np.float32))
        picture = np.clip(values * (255.0 / largest) + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(picture, 3, 2) if picture.shape[2] == 1 else picture


def _coloured(grid: np.ndarray) -> np.ndarray:
    """Planes ``[H, W, C]`` as colours, later planes over earlier ones, eight pixels per cell."""
    hues = np.linspace(0, 2 * np.pi, grid.shape[-1], endpoint=False)
    palette = 128 + 127 * np.stack([np.cos(hues), np.cos(hues - 2.1), np.cos(hues + 2.1)], 1)
    picture = np.zeros((*grid.shape[:2], 3), np.uint8)
    for plane, colour in enumerate(palette.astype(np.uint8)):
        picture[grid[..., plane] > 0] = colour
    return picture.repeat(8, 0).repeat(8, 1)
