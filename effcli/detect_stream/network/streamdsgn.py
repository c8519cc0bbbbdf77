"""StreamDSGN: the boxes of the next frame from a stereo pair and the map of the last one.

See docs/methods/streamdsgn.md, Network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.detect_stream.network.anchors import CODE_SIZE, PER_CELL
from effcli.detect_stream.network.bev_network import bev_network
from effcli.detect_stream.network.config import CLASSES, NetworkConfig
from effcli.detect_stream.network.convolution_3d import Conv3d, ConvBn3d
from effcli.detect_stream.network.cost_volume import cost_volume, matched_planes
from effcli.detect_stream.network.ego_motion import ego_flow, moved_map
from effcli.detect_stream.network.feature_flow import ConcatFusion, FlowFusion, feature_flow
from effcli.detect_stream.network.image_network import ROW_STEP, ImageNetwork, conv_bn
from effcli.detect_stream.network.space_volume import (
    Cells,
    SpaceVolume,
    cell_centres,
    sampling_grid,
    seen_from_above,
)

STEREO_PARTS = ("image_network", "match1", "match2", "space")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class CameraView:
    """The cameras of a batch, for the pixels that the network sees.

    Attributes:
        cells: where all cells are in the volume of planes, of B samples.
        focal_baseline: pixels metres, ``[B]``.
    """

    cells: Cells
    focal_baseline: Tensor


@dataclass(frozen=True)
class HeadOutputs:
    """What the head says, for all anchors in their order.

    Attributes:
        scores: logits, ``[B, A, 3]``.
        codes: boxes relative to anchors, ``[B, A, 7]``.
        directions: logits of the two half turns, ``[B, A, 2]``.
    """

    scores: Tensor
    codes: Tensor
    directions: Tensor


class Head(nn.Module):
    """Two towers, one for scores and directions and one for boxes."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        self.score_tower = nn.Sequential(*_tower(c_in, channels))
        self.box_tower = nn.Sequential(*_tower(c_in, channels))
        self.scores = nn.Conv2d(channels, PER_CELL * len(CLASSES), 3, padding=1)
        self.codes = nn.Conv2d(channels, PER_CELL * CODE_SIZE, 3, padding=1)
        self.directions = nn.Conv2d(channels, PER_CELL * 2, 1)

    def forward(self, x: Tensor) -> HeadOutputs:
        """From ``[B, C, Y, X]``."""
        tower = self.score_tower(x)
        found = (
            (self.scores(tower), len(CLASSES)),
            (self.codes(self.box_tower(x)), CODE_SIZE),
            (self.directions(tower), 2),
        )
        return HeadOutputs(*(_by_anchor(y, size) for y, size in found))


def _by_anchor(x: Tensor, size: int) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, size).float()


def _tower(c_in: int, channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(2):
        layers += [*conv_bn(channels if i else c_in, channels, 3), nn.ReLU()]
    return layers


class DepthHead(nn.Module):
    """Depth of the left picture from the volume, in training alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBn3d(channels, channels)
        self.last = Conv3d(channels, 1, bias=True)

    def forward(self, frustum: Tensor) -> Tensor:
        """Logits ``[B, K, h, w]`` of volume samples ``[B, K, C, h, w]``; the loss interpolates them."""
        x: Tensor = self.last(F.relu(self.first(frustum)))
        return x[:, :, 0]


class StreamDsgn(nn.Module):
    """The network.

    Attributes:
        config: its architecture.
        bev_channels: channels of the bird's-eye-view map.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.volume_channels
        n_matched = 2 * (config.window or config.stereo_channels)
        layers = 4 * math.ceil(config.grid.cells[0] / 4)
        self.bev_channels = channels * layers // 4
        self.image_network = ImageNetwork(config)
        self.match1 = ConvBn3d(n_matched, channels, 1)
        self.match2 = ConvBn3d(channels, channels)
        self.space = SpaceVolume(config)
        self.fusion: nn.Module | None = None
        if config.fusion != "none":
            kind = FlowFusion if config.fusion == "flow" else ConcatFusion
            self.fusion = kind(config, self.bev_channels)
        self.bev = bev_network(config, self.bev_channels)
        self.head = Head(config.bev_up[1], config.head_channels)
        self.later_heads = nn.ModuleList(
            Head(config.bev_up[1], config.head_channels) for _ in config.horizons[1:]
        )
        self.depth_head: DepthHead | None = DepthHead(channels)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None] * 255, persistent=False)
        self._start()

    def _start(self) -> None:
        """Random weights (docs/methods/streamdsgn.md, Network)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                out = module.weight.shape[0] if isinstance(module, nn.Conv2d) else module.weight.shape[1]
                fan = math.prod(module.weight.shape[2:]) * out
                if ".blocks" in name:
                    fan //= module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for head in self.heads:
            nn.init.normal_(head.scores.weight, 0.0, 0.1 if self.config.compat else 0.01)
            nn.init.constant_(head.scores.bias, -math.log(99))  # type: ignore[arg-type]
            nn.init.normal_(head.codes.weight, 0.0, 0.02)

    @property
    def heads(self) -> list[Head]:
        """One for each horizon."""
        return [self.head, *self.later_heads]

    def stereo_parts(self) -> nn.ModuleDict:
        """The parts up to the bird's-eye-view map; they are the same whatever follows it."""
        return nn.ModuleDict({name: getattr(self, name) for name in STEREO_PARTS})

    def view(self, calibrations: Tensor, sizes: Tensor, points: Tensor | None = None) -> CameraView:
        """Where the cells are seen.

        Args:
            calibrations: matrices of the left and the right camera, ``[B, 2, 3, 4]``.
            sizes: height and width of what is picture, ``[B, 2]``.
            points: centres of the cells where they are not those of the grid, ``[B, Z, Y, X, 3]``.
        """
        centres = cell_centres(self.config).to(calibrations)
        found = [
            sampling_grid(centres if points is None else points[i], calibrations[i, 0], sizes[i], self.config)
            for i in range(len(calibrations))
        ]
        where, seen = (torch.stack(part) for part in zip(*found, strict=True))
        size = (self.config.n_planes, self.config.height // ROW_STEP, self.config.width // ROW_STEP)
        return CameraView(
            Cells(where, seen, size, align_corners=True),
            (calibrations[:, 0, 0, 3] - calibrations[:, 1, 0, 3]).abs(),
        )

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Pictures uint8 ``[B, 3, H, W]`` as the network takes them; padding becomes 0."""
        x = (images.float() - self.mean) / self.std
        for i, (height, width) in enumerate(sizes.tolist()):
            x[i, :, int(height) :] = 0
            x[i, :, :, int(width) :] = 0
        # the gradient of batch norm is slow in channels-last where channels are few
        return x if self.training else x.contiguous(memory_format=torch.channels_last)

    def volume(self, left: Tensor, right: Tensor, view: CameraView) -> Tensor:
        """The volume ``[n B, Z, C, Y, X]`` of normalised pictures ``[n B, 3, H, W]``; every n-th has the same view."""
        neck = self.image_network.neck(torch.cat([left, right]))
        if self.training:  # batch norm has to see both pictures at once
            both = self.image_network.read(neck)
            of_left, of_right = both[: len(left), :, ::ROW_STEP, ::ROW_STEP], both[len(left) :, :, ::ROW_STEP]
        else:
            of_left = self.image_network.read(neck[: len(left)], (ROW_STEP, ROW_STEP))
            of_right = self.image_network.read(neck[len(left) :], (ROW_STEP, 1))
        focal_baseline = view.focal_baseline.repeat(len(left) // len(view.focal_baseline))
        planes = F.relu(self._matched(of_left, of_right, focal_baseline))
        planes = planes + self.match2(planes)
        found: Tensor = self.space(planes, view.cells)
        return found

    def _matched(self, left: Tensor, right: Tensor, focal_baseline: Tensor) -> Tensor:
        """The first convolution of the plane sweep, ``[B, K, C, h, w]``."""
        if self.config.window is not None or left.device.type != "cpu":
            found: Tensor = self.match1(cost_volume(left, right, focal_baseline, self.config))
            return found
        conv = self.match1.conv
        swept = matched_planes(left, right, focal_baseline, conv.weight, conv.bias, self.config)
        return self.match1.normed(swept)

    def flow(self, now: Tensor, before: Tensor, motion: Tensor | None = None) -> Tensor:
        """How the map moved since the frame before, cells to the right and down, ``[B, 2, Y, X]``.

        Args:
            now, before: maps ``[B, C, Y, X]``.
            motion: what the cameras' own motion did, as of :func:`~effcli.detect_stream.network.ego_motion.bev_motion`,
                ``[B, 3]``: cells are looked for after it, so however fast the cameras are.
        """
        reach, first_wins = self.config.fusion_reach, self.config.compat
        if motion is None:
            return feature_flow(now, before, reach, first_wins=first_wins)
        moved = moved_map(before, motion, self.config)
        return feature_flow(now, moved, reach, first_wins=first_wins) + ego_flow(motion, self.config)

    def fused(
        self, now: Tensor, before: Tensor | None, flow: Tensor | None = None, forget: Tensor | None = None
    ) -> Tensor:
        """What the heads see, ``[B, C', Y, X]``, of bird's-eye-view maps ``[B, C, Y, X]``.

        Args:
            now: of this frame.
            before: of the frame before; None at the start of a scene: then ``now`` stays as it is.
            flow: motion to the next frame; None continues that since ``before``.
            forget: samples that have no frame before, ``[B]``.
        """
        fused = now
        if self.fusion is not None and before is not None:
            fused = self.fusion(now, before, self.flow(now, before) if flow is None else flow)
            if forget is not None:
                fused = torch.where(forget[:, None, None, None], now, fused)
        found: Tensor = self.bev(fused)
        return found

    def detect(
        self,
        now: Tensor,
        before: Tensor | None,
        flow: Tensor | None = None,
        forget: Tensor | None = None,
        *,
        ahead: int = 1,
    ) -> HeadOutputs:
        """Boxes of one of the horizons, ``ahead`` frames after this one; else as of :meth:`fused`."""
        head = self.heads[self.config.horizons.index(ahead)]
        found: HeadOutputs = head(self.fused(now, before, flow, forget))
        return found

    def bev_map(self, left: Tensor, right: Tensor, view: CameraView) -> Tensor:
        """The bird's-eye-view map ``[B, C, Y, X]`` of normalised pictures."""
        return seen_from_above(self.volume(left, right, view))

    def forward(
        self, left: Tensor, right: Tensor, view: CameraView, before: Tensor | None = None
    ) -> tuple[HeadOutputs, Tensor]:
        """Boxes and the map to keep for the next frame."""
        now = self.bev_map(left, right, view)
        return self.detect(now, before), now


create = StreamDsgn
"""The network of the method, from its architecture."""


def n_parameters(network: StreamDsgn, *, training: bool) -> int:
    """Number of learned values; without ``training`` those that detection needs."""
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if training or not name.startswith("depth_head.")
    )
