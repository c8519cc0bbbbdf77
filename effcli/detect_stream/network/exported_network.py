"""The network as one graph of tensors, for ONNX: from two pictures, the cameras and the last map to boxes and a map.

The same numbers as :class:`~effcli.detect_stream.network.streamdsgn.StreamDsgn` and
:func:`~effcli.detect_stream.network.box_decoding.boxes_of` up to rounding; only what these decide in Python or in
compiled loops (the disparities of the planes, where cells are, which boxes overlap) is computed by tensors here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.detect_stream.network.anchors import anchors_of, decode, with_direction
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.config import CLASSES
from effcli.detect_stream.network.cost_volume import channels_of_planes, plane_depths
from effcli.detect_stream.network.image_network import ROW_STEP
from effcli.detect_stream.network.inference_network import fast_network
from effcli.detect_stream.network.space_volume import cell_centres, sampling_grid, seen_from_above
from effcli.detect_stream.network.streamdsgn import HeadOutputs, StreamDsgn
from effcli.nn.rotated_boxes import bev_iou
from effcli.nn.weighted_rows import corners_of

INPUTS = ("left", "right", "picture_size", "calibration", "last_map", "frames_apart")
OUTPUTS = ("boxes", "scores", "classes", "map")
NMS_ROUNDS = 64
"""Rounds of suppression; two more settle one more box of a row in which each hangs on the one before."""


class ExportedOutputs(NamedTuple):
    """What comes out, best boxes first.

    Attributes:
        boxes: x, y, z of the middle of the bottom face in the rectified camera frame, height, width, length in metres
            and rotation_y in radians, as in KITTI's labels, ``[N, 7]``.
        scores: 0 where there is no box, ``[N]``.
        classes: numbers in ``CLASSES``, ``[N]``.
        map: the bird's-eye-view map of this frame, ``[1, C, Y, X]``.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    map: Tensor


class ExportedNetwork(nn.Module):
    """A network and its post-processing, for one frame at a time.

    Args:
        network: to copy.
        limits: which boxes are kept.
    """

    def __init__(self, network: StreamDsgn, limits: Limits) -> None:
        super().__init__()
        self.network = fast_network(network)
        for parameter in self.network.parameters():
            parameter.data = parameter.data.contiguous()  # other runtimes choose their own order of channels
        self.config, self.limits = network.config, limits
        self.depths: Tensor
        self.centres: Tensor
        self.anchors: Tensor
        self.register_buffer("depths", torch.from_numpy(plane_depths(self.config)).float())
        self.register_buffer("centres", cell_centres(self.config))
        self.register_buffer("anchors", anchors_of(self.config).clone())

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs of the right shapes and kinds."""
        height, width = self.config.height, self.config.width
        picture = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        camera = torch.tensor([[0.6 * width, 0, width / 2, 0], [0, 0.6 * width, height / 2, 0], [0, 0, 1, 0]])
        calibration = torch.stack([camera, camera])[None].clone()
        calibration[0, 1, 0, 3] = -0.5 * 0.6 * width
        last = torch.zeros(1, self.network.bev_channels, *self.config.grid.cells[1:])
        size = torch.tensor([height, width])
        return picture, picture.clone(), size, calibration, last, torch.zeros(1)

    def forward(
        self,
        left: Tensor,
        right: Tensor,
        picture_size: Tensor,
        calibration: Tensor,
        last_map: Tensor,
        frames_apart: Tensor,
    ) -> ExportedOutputs:
        """Boxes and the map to keep for the next frame.

        Args:
            left, right: pictures as :func:`~effcli.detect_stream.network.frame_fitting.fitted_pair` makes them, uint8
                ``[1, 3, H, W]``.
            picture_size: height and width of what is picture in them, whole numbers ``[2]``.
            calibration: matrices of the left and the right camera for the pixels of these pictures, ``[1, 2, 3, 4]``.
            last_map: the map of the last frame, ``[1, C, Y, X]``; anything at the start of a scene.
            frames_apart: how many frames ago that was, ``[1]``; 0 at the start of a scene.
        """
        network = self.network
        pictures = self._normal(torch.cat([left, right]), picture_size)
        planes = self._planes(pictures, calibration)
        cells = self._cells(planes, calibration, picture_size)
        space = network.space
        now = seen_from_above(space.hourglass(F.relu(space.enter(cells))))
        outputs = network.detect(now, None)
        if network.fusion is not None:
            flow = network.flow(now, last_map) / frames_apart.clamp(min=1)[:, None, None, None]
            outputs = network.detect(now, last_map, flow, forget=frames_apart < 1)
        boxes, scores, classes = self._boxes(outputs)
        return ExportedOutputs(_in_camera_frame(boxes), scores, classes, now)

    def _normal(self, pictures: Tensor, size: Tensor) -> Tensor:
        """Normalised pictures, 0 beside what is picture."""
        network = self.network
        rows, columns = (torch.arange(n) for n in (self.config.height, self.config.width))
        inside = (rows < size[0])[:, None] & (columns < size[1])
        return (pictures.float() - network.mean) / network.std * inside

    def _planes(self, pictures: Tensor, calibration: Tensor) -> Tensor:
        """Matched features on every plane, ``[1, K, C, h, w]``."""
        network, images = self.network, self.network.image_network
        neck = images.neck(pictures)
        left, right = images.read(neck[:1], (ROW_STEP, ROW_STEP)), images.read(neck[1:], (ROW_STEP, 1))
        disparities = (calibration[0, 0, 0, 3] - calibration[0, 1, 0, 3]).abs() / self.depths
        conv = network.match1.conv
        if self.config.window is None:
            channels = left.shape[1]
            still = F.conv2d(left, conv.weight[:, :channels, :, :, 0], conv.bias)
            moving = F.conv2d(right, conv.weight[:, channels:, :, :, 0])
            matched = still[:, None] + torch.stack([_shifted(moving, d) for d in disparities.unbind()], 1)
        else:
            seen = channels_of_planes(self.config)
            planes = [
                torch.cat([left[:, seen[k]], _shifted(right[:, seen[k]], d)], 1)
                for k, d in enumerate(disparities.unbind())
            ]
            matched = conv(torch.stack(planes, 1))
        planes_matched = F.relu(matched)
        found: Tensor = planes_matched + network.match2(planes_matched)
        return found

    def _cells(self, planes: Tensor, calibration: Tensor, size: Tensor) -> Tensor:
        """The values of the cells, ``[1, Z, C, Y, X]``, from those of the planes."""
        where, seen = sampling_grid(self.centres, calibration[0, 0], size, self.config)
        layers = (planes.shape[1], planes.shape[3], planes.shape[4])
        chosen = corners_of(where, layers, align_corners=True, seen=seen)
        table = planes[0].permute(0, 2, 3, 1).flatten(0, 2)
        total = table[chosen.rows[:, 0]] * chosen.weights[:, :1]
        for i in range(1, 8):
            total = total + table[chosen.rows[:, i]] * chosen.weights[:, i : i + 1]
        found: Tensor = total.unflatten(0, where.shape[:3]).permute(0, 3, 1, 2).contiguous()[None]
        return found

    def _boxes(self, outputs: HeadOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """The kept boxes in the ground frame, their scores and numbers of classes, best first."""
        limits = self.limits
        n_candidates = min(limits.candidates, len(self.anchors))
        scores, rows = outputs.scores[0].sigmoid().T.topk(n_candidates, dim=1)  # [3, N]
        boxes = decode(outputs.codes[0][rows], self.anchors[rows])
        bins = outputs.directions[0][rows].argmax(-1)
        boxes = torch.cat([boxes[..., :6], with_direction(boxes[..., 6], bins)[..., None]], -1)
        scores = torch.where(scores >= limits.score, scores, torch.zeros_like(scores))
        kept = scores * _kept(_overlaps(boxes, scores > 0, limits.iou))
        classes = torch.arange(len(CLASSES))[:, None].expand_as(rows)
        best, order = kept.flatten().topk(min(limits.most, kept.numel()))
        return boxes.flatten(0, 1)[order], best, classes.flatten()[order]


def _shifted(features: Tensor, disparity: Tensor) -> Tensor:
    """Right features ``[1, C, h, 4 w]`` where the left ones ``[1, C, h, w]`` show them; 0 outside the picture."""
    n_columns = features.shape[3]
    at = torch.arange(0, n_columns, ROW_STEP) - disparity
    inside = (at >= 0) & (at <= n_columns - 1)
    first = at.floor().clamp(0, n_columns - 1)
    low = first.long()
    near, far = features[..., low], features[..., (low + 1).clamp(max=n_columns - 1)]
    return (near + (at - first) * inside * (far - near)) * inside


def _overlaps(boxes: Tensor, is_there: Tensor, most: float) -> Tensor:
    """Whether the j-th box overlaps the i-th by more than ``most``, seen from above: ``[3, N, N]``, j before i."""
    reach = boxes[..., 3:5].norm(dim=2) / 2
    apart = (boxes[:, :, None, :2] - boxes[:, None, :, :2]).norm(dim=3)
    first = torch.ones_like(apart[0], dtype=torch.bool).triu(1)
    is_near = (apart <= reach[:, :, None] + reach[:, None]) & first & is_there[:, :, None] & is_there[:, None]
    kind, j, i = is_near.nonzero().unbind(1)
    values = (bev_iou(boxes[kind, j], boxes[kind, i]) > most).to(boxes.dtype)
    return torch.zeros_like(apart).index_put((kind, j, i), values)


def _kept(overlaps: Tensor) -> Tensor:
    """1 for boxes that no kept better one overlaps, else 0: ``[3, N]`` of ``[3, N, N]``, by repetition."""
    kept = torch.ones_like(overlaps[:, :1])
    for _ in range(NMS_ROUNDS):
        kept = (kept @ overlaps < 0.5).to(overlaps.dtype)
    return kept[:, 0]


def _in_camera_frame(boxes: Tensor) -> Tensor:
    """As :func:`~effcli.detect_stream.data.boxes3d.to_camera`, in one tensor ``[N, 7]``."""
    forward, left, up, length, width, height, theta = boxes.unbind(1)
    turned = math.pi / 2 - theta
    rotation_y = turned - 2 * math.pi * (turned / (2 * math.pi)).floor() - math.pi
    return torch.stack([-left, height / 2 - up, forward, height, width, length, rotation_y], 1)
