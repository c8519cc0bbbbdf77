"""From planes of depth to cells of space (docs/methods/streamdsgn.md, Voxel sampling and 3D hourglass)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.convolution_3d import ConvBn3d
from effcli.detect_stream.network.image_network import ROW_STEP
from effcli.nn.weighted_rows import WeightedRows, corners_of, samples


def cell_centres(config: NetworkConfig) -> Tensor:
    """Centres of all cells in the ground frame, metres ``[Z, Y, X, 3]``."""
    grid = config.grid
    n_z, n_y, n_x = grid.cells
    axes = [
        low + (high - low) * (torch.arange(n) + 0.5) / n
        for (low, high), n in ((grid.z, n_z), (grid.y, n_y), (grid.x, n_x))
    ]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z], -1)


def sampling_grid(
    points: Tensor, projection: Tensor, image_size: Tensor, config: NetworkConfig
) -> tuple[Tensor, Tensor]:
    """Where points are in the volume of planes.

    Args:
        points: in the ground frame, metres ``[..., 3]``.
        projection: 3x4 matrix of the left camera, for the pixels that the network sees.
        image_size: height and width of what is picture in there.

    Returns:
        Coordinates -1..1 (column, row, plane) for ``grid_sample`` with ``align_corners=True``, ``[..., 3]``, and
        whether the point is seen, ``[...]``.
    """
    camera = torch.stack([-points[..., 1], -points[..., 2], points[..., 0]], -1)
    pixels = camera @ projection[:, :3].T + projection[:, 3]
    depth = pixels[..., 2]
    u, v = (pixels[..., i] / depth.clamp(min=1e-3) for i in (0, 1))
    near, far = config.depth
    if config.compat:  # the nearest depth is at the middle of the first plane
        plane = 2 * (depth - near) / (far - near) - 1
    else:
        plane = 2 * ((depth - near) / config.depth_step - 0.5) / (config.n_planes - 1) - 1
    where = torch.stack([2 * u / (config.width - 1) - 1, 2 * v / (config.height - 1) - 1, plane], -1)
    height, width = image_size[0], image_size[1]
    inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    return where, inside & (depth >= near) & (depth <= far)


class Cells:
    """Points whose values are looked up in a volume, for each sample of a batch.

    Args:
        where: column, row and layer, -1..1, ``[B, Z, Y, X, 3]``.
        seen: whether a point has a value; else it is 0; ``[B, Z, Y, X]``.
        size: layers, rows and columns of the volume.
        align_corners: as of ``grid_sample``.
    """

    def __init__(
        self, where: Tensor, seen: Tensor | None, size: tuple[int, int, int], *, align_corners: bool
    ) -> None:
        self.where, self.seen, self.align_corners = where, seen, align_corners
        self._corners: list[WeightedRows] = []
        if where.device.type == "cpu":
            self._corners = [
                corners_of(one, size, align_corners=align_corners, seen=None if seen is None else seen[i])
                for i, one in enumerate(where)
            ]

    def sample(self, layers: Tensor) -> Tensor:
        """Values ``[B, Z, C, Y, X]`` of layers ``[B, D, C, H, W]``; fewer points than samples are repeated."""
        shape = self.where.shape[1:4]
        times = len(layers) // len(self.where)
        if self._corners:
            tables = layers.permute(0, 1, 3, 4, 2).flatten(1, 3)
            found: Tensor = samples(tables, self._corners * times).unflatten(1, shape)
            return found.permute(0, 1, 4, 2, 3)
        where = self.where.repeat(times, 1, 1, 1, 1).to(layers.dtype)
        values = F.grid_sample(layers.transpose(1, 2), where, align_corners=self.align_corners)
        if self.seen is not None:
            values = values * self.seen.repeat(times, 1, 1, 1)[:, None].to(values.dtype)
        return values.transpose(1, 2)


def _frustum_grid(config: NetworkConfig, projection: Tensor, turn: Tensor) -> Tensor:
    """Where the middles of the planes' pixels are in the volume, for ``grid_sample`` with ``align_corners=False``.

    Args:
        config: of the network.
        projection: 3x4 matrix of the left camera.
        turn: 3x3 matrix from the ground frame to that of the volume.

    Returns:
        Coordinates -1..1 (X, Y, Z), ``[K, h, w, 3]``.
    """
    rows, columns = config.height // ROW_STEP, config.width // ROW_STEP
    depth = config.depth[0] + config.depth_step * (torch.arange(config.n_planes) + 0.5)
    middle = (ROW_STEP - 1) / 2
    v, u = (torch.arange(n) * ROW_STEP + middle for n in (rows, columns))
    d, v, u = (x.to(projection) for x in torch.meshgrid(depth, v, u, indexing="ij"))
    scale = d + projection[2, 3]
    x = (u * scale - projection[0, 3] - projection[0, 2] * d) / projection[0, 0]
    y = (v * scale - projection[1, 3] - projection[1, 2] * d) / projection[1, 1]
    points = torch.stack([d, -x, -y], -1) @ turn.T
    grid = config.grid
    low = points.new_tensor([grid.x[0], grid.y[0], grid.z[0]])
    high = points.new_tensor([grid.x[1], grid.y[1], grid.z[1]])
    where: Tensor = 2 * (points - low) / (high - low) - 1
    return where


def frustum_cells(config: NetworkConfig, projections: Tensor, turns: Tensor) -> Cells:
    """The middles of the planes' pixels as points of the volume: matrices ``[B, 3, 4]`` and ``[B, 3, 3]``."""
    where = torch.stack([_frustum_grid(config, p, turn) for p, turn in zip(projections, turns, strict=True)])
    n_z, n_y, n_x = config.grid.cells
    layers = 4 * -(-n_z // 4)
    return Cells(where, None, (layers, n_y, n_x), align_corners=False)


class Hourglass(nn.Module):
    """Half and a quarter of the size and back, with skips; with compat a constant 1 is added instead."""

    def __init__(self, channels: int, compat: bool) -> None:
        super().__init__()
        wide = 2 * channels
        self.compat = compat
        self.down1 = ConvBn3d(channels, wide, stride=2)
        self.same1 = ConvBn3d(wide, wide)
        self.down2 = ConvBn3d(wide, wide, stride=2)
        self.same2 = ConvBn3d(wide, wide)
        self.up1 = ConvBn3d(wide, wide, transposed=True)
        self.up2 = ConvBn3d(wide, channels, transposed=True)

    def forward(self, x: Tensor) -> Tensor:
        """Layers ``[B, D, C, H, W]`` to as many, or with compat to ``D`` rounded up to a multiple of 4."""
        half = self.same1(F.relu(self.down1(x)))
        before = F.relu(half + 1 if self.compat else half)
        quarter = F.relu(self.same2(F.relu(self.down2(before))))
        up = self.up1(quarter)
        after = F.relu(up + 1 if self.compat else up + before)
        y: Tensor = self.up2(after)
        return y if self.compat else y + x


class SpaceVolume(nn.Module):
    """3D convolutions in the volume, whose layers :func:`seen_from_above` folds into channels."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.volume_channels
        self.enter = ConvBn3d(channels, channels, 1)
        self.hourglass = Hourglass(channels, config.compat)

    def forward(self, planes: Tensor, cells: Cells) -> Tensor:
        """Layers ``[B, Z, C, Y, X]`` of the volume, from those of the planes ``[B, K, C, h, w]``."""
        volume: Tensor = self.hourglass(F.relu(self.enter(cells.sample(planes))))
        return volume


def seen_from_above(volume: Tensor) -> Tensor:
    """Layers in fours averaged, then folded into the channels: ``[B, Z, C, Y, X]`` to ``[B, C Z / 4, Y, X]``."""
    pooled: Tensor = volume.unflatten(1, (-1, 4)).mean(2)
    if pooled.stride(2) == 1:
        return pooled.permute(0, 3, 4, 2, 1).flatten(3).permute(0, 3, 1, 2)
    return pooled.transpose(1, 2).flatten(1, 2)
