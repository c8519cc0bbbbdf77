"""What decides the shape of a StreamDSGN network; no torch here, so that recipes and help pages stay light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from effcli.core.recipe import Section

CLASSES = ("Car", "Pedestrian", "Cyclist")
"""What a detector tells apart, in the order of its scores."""


Channels = Annotated[int, Field(ge=1, le=2**16)]
"""Number of channels of a layer."""

_Blocks = Annotated[int, Field(ge=0, le=64)]
FARTHEST_HORIZON = 10
"""Frames after this one beyond which nothing is predicted."""

_MOST_CELLS = 2**27
_POOLED_STEP = 4
LAYERS_PER_CHANNEL = 4
"""Layers of the volume that are averaged into one channel of the bird's-eye-view map."""


class GridConfig(Section):
    """The volume in front of the cameras, in their ground frame (X forward, Y left, Z up), metres."""

    x: tuple[float, float] = Field(description="Nearest and farthest.")
    y: tuple[float, float] = Field(description="From right to left.")
    z: tuple[float, float] = Field(description="From below to above the cameras' height.")
    cells: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(description="Layers Z, rows Y, columns X.")

    @model_validator(mode="after")
    def _can_be_computed(self) -> GridConfig:
        if math.prod(self.cells) > _MOST_CELLS:
            raise ValueError(f"a volume has at most {_MOST_CELLS:,} cells")
        for low, high in (self.x, self.y, self.z):
            if not low < high:
                raise ValueError(f"a range goes up, not from {low} to {high}")
        return self


class NetworkConfig(Section):
    """The architecture (docs/methods/streamdsgn.md, Network and Network sizes)."""

    height: int = Field(
        gt=0, le=2**14, multiple_of=32, description="Rows of the images that the network sees."
    )
    width: int = Field(gt=0, le=2**14, multiple_of=32, description="Columns of these images.")
    stem_kernel: int = Field(ge=1, le=31, description="Kernel size of the first convolution.")
    widths: tuple[Channels, Channels, Channels, Channels] = Field(
        description="Channels of the stages of the image network."
    )
    blocks: PositiveInt = Field(le=64, description="Residual blocks per stage.")
    pool_sides: tuple[PositiveInt, ...] = Field(description="Sides of the squares that are pooled (SPP).")
    pool_channels: Channels = Field(description="Channels of each pooled map.")
    up_channels: tuple[Channels, Channels] = Field(description="Channels on the way to full resolution.")
    neck_channels: Channels = Field(description="Channels of the 3x3 convolution there.")
    stereo_channels: Channels = Field(description="Channels of the features that are matched.")
    window: Channels | None = Field(
        description="How many of the stereo channels each plane sees (depth-wise plane sweep); null: all."
    )
    n_planes: int = Field(ge=2, le=2**12, description="Depths at which left and right are matched.")
    depth: tuple[float, float] = Field(description="Nearest and farthest depth, metres.")
    grid: GridConfig = Field(description="The volume.")
    volume_channels: Channels = Field(description="Channels of the volume.")
    bev_stem: Channels = Field(description="Channels of the first convolution on the bird's-eye-view map.")
    bev_widths: tuple[Channels, Channels] = Field(
        description="Channels at a half and a quarter of the cells."
    )
    bev_blocks: tuple[_Blocks, _Blocks] = Field(description="Large-kernel blocks at each.")
    bev_up: tuple[Channels, Channels] = Field(description="Channels on the way up again.")
    bev: Literal["large-kernel", "hourglass"] = Field(
        "large-kernel", description="LKBB, or the 3x3 hourglass of the paper's baseline."
    )
    fusion: Literal["flow", "concat", "none"] = Field(
        "flow",
        description="FFF; features of two frames side by side; or one frame alone.",
    )
    fusion_channels: Channels = Field(description="Channels of each of the three parts of FFF.")
    fusion_reach: int = Field(3, ge=0, le=64, description="Largest shift that is searched, in pooled cells.")
    head_channels: Channels = Field(description="Channels of the detection head.")
    horizons: tuple[PositiveInt, ...] = Field(
        (1,),
        min_length=1,
        description="Frames after this one whose boxes a detector of the next frame gives, from 1 up (ours).",
    )
    ego_motion: bool = Field(
        False,
        description="Whether the cameras' own motion is removed before FFF estimates motion, and added again (ours).",
    )
    compat: bool = Field(
        False,
        description="The released code's quirks: a constant 1 instead of the hourglass's skips, depth off by half a "
        "plane, a drifting warp, the first shift among equals, anchors from edge to edge.",
    )

    @model_validator(mode="after")
    def _can_be_computed(self) -> NetworkConfig:
        near, far = self.depth
        if not 0 < near < far:
            raise ValueError(f"depths go from near to far, not from {near} to {far}")
        if self.window is not None and self.window > self.stereo_channels:
            raise ValueError(
                f"a plane sees at most the {self.stereo_channels} channels there are, not {self.window}"
            )
        if max(self.pool_sides, default=1) > min(self.height, self.width) // _POOLED_STEP:
            raise ValueError(f"squares of {max(self.pool_sides)} are larger than the map that is pooled")
        if not are_horizons(self.horizons):
            raise ValueError(
                f"horizons increase from 1 to {FARTHEST_HORIZON} at most, not {list(self.horizons)}"
            )
        if not folds_into_map(self):
            raise ValueError(
                f"{self.grid.cells[0]} layers are not a multiple of 4, as they are without compat"
            )
        return self

    @property
    def depth_step(self) -> float:
        """Metres between two planes."""
        return (self.depth[1] - self.depth[0]) / self.n_planes

    @property
    def cell(self) -> tuple[float, float]:
        """Length along X and along Y of a cell, metres."""
        _, rows, columns = self.grid.cells
        x, y = self.grid.x, self.grid.y
        return (x[1] - x[0]) / columns, (y[1] - y[0]) / rows


def are_horizons(horizons: Sequence[int]) -> bool:
    """Whether numbers of frames begin with 1, increase, and are not beyond what is predicted."""
    increase = all(earlier < later for earlier, later in pairwise(horizons))
    return increase and horizons[0] == 1 and horizons[-1] <= FARTHEST_HORIZON


def folds_into_map(config: NetworkConfig) -> bool:
    """Whether the layers of the volume can be averaged in fours; with ``compat`` the hourglass rounds them up."""
    return config.compat or config.grid.cells[0] % LAYERS_PER_CHANNEL == 0


FULL = NetworkConfig(
    height=320,
    width=1248,
    stem_kernel=7,
    widths=(64, 128, 128, 128),
    blocks=2,
    pool_sides=(64, 32, 16, 8),
    pool_channels=32,
    up_channels=(64, 32),
    neck_channels=128,
    stereo_channels=96,
    window=32,
    n_planes=64,
    depth=(2.0, 53.2),
    grid=GridConfig(x=(2.0, 53.2), y=(-28.8, 28.8), z=(-3.0, 1.0), cells=(10, 288, 256)),
    volume_channels=32,
    bev_stem=64,
    bev_widths=(128, 128),
    bev_blocks=(2, 2),
    bev_up=(128, 64),
    fusion_channels=32,
    head_channels=64,
    compat=True,
)
"""The released model: 3,632,585 parameters, 3,604,008 without what is only trained."""

TINY = NetworkConfig(
    height=128,
    width=416,
    stem_kernel=5,
    widths=(16, 24, 32, 32),
    blocks=1,
    pool_sides=(16, 8),
    pool_channels=8,
    up_channels=(16, 8),
    neck_channels=16,
    stereo_channels=16,
    window=None,
    n_planes=16,
    depth=(2.0, 40.4),
    grid=GridConfig(x=(2.0, 40.4), y=(-19.2, 19.2), z=(-3.0, 1.0), cells=(12, 64, 64)),
    volume_channels=16,
    bev_stem=32,
    bev_widths=(48, 48),
    bev_blocks=(1, 1),
    bev_up=(48, 32),
    fusion_channels=16,
    head_channels=32,
)
"""For two CPU cores: 356,945 parameters, 349,568 without what is only trained."""

BASE = NetworkConfig(
    height=256,
    width=832,
    stem_kernel=7,
    widths=(32, 64, 64, 64),
    blocks=2,
    pool_sides=(32, 16, 8),
    pool_channels=16,
    up_channels=(32, 16),
    neck_channels=64,
    stereo_channels=48,
    window=24,
    n_planes=48,
    depth=(2.0, 50.0),
    grid=GridConfig(x=(2.0, 50.0), y=(-24.0, 24.0), z=(-3.0, 1.0), cells=(12, 160, 160)),
    volume_channels=24,
    bev_stem=48,
    bev_widths=(96, 96),
    bev_blocks=(2, 2),
    bev_up=(96, 48),
    fusion_channels=24,
    head_channels=48,
)
"""For one GPU: two thirds of KITTI's pixels, cells of 30 cm."""

NETWORKS = {"tiny": TINY, "base": BASE, "full": FULL}
