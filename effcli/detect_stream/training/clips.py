"""Training samples: a frame, the one before, and the objects around them in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.frame_times import frame_counts
from effcli.detect_stream.data.kitti_labels import grade
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.losses import ObjectTensors
from effcli.detect_stream.network.config import CLASSES, NetworkConfig
from effcli.detect_stream.network.ego_motion import bev_motion
from effcli.detect_stream.network.frame_fitting import FrameFit, fit_of, fitted_depth, fitted_pair
from effcli.detect_stream.recipe import Truncation

MERGED = {"Van": "Car", "Person": "Pedestrian"}
LEARNED = frozenset({*CLASSES, *MERGED})
"""Kinds of labelled objects that are learned."""

MOMENTS = (1, 0, -1, -2)
"""Frames after this one whose objects every sample has; those of further horizons follow."""


@dataclass(frozen=True)
class Sample:
    """One frame to learn from.

    Attributes:
        frames: this frame and the one before.
        depth: of this frame's left picture, metres, 0 where unknown; None without any.
        objects: at t+1, t, t-1 and t-2, then at further horizons; each in the camera frame of its own moment.
        fit: how the pictures become the network's.
        motion: turn and shift of the ground since the frame before, ``[3]``, as of
            :func:`~effcli.detect_stream.network.ego_motion.bev_motion`; None where poses are unknown.
    """

    frames: tuple[StereoFrame, StereoFrame]
    depth: np.ndarray | None
    objects: tuple[FrameObjects, ...]
    fit: FrameFit
    motion: np.ndarray | None = None


class Clips:
    """All frames of some sequences that have the frame before and those of every horizon, by their numbers or times.

    Attributes:
        index: sequence and place in it of each sample.
        n_beside_gaps: frames that are left out because one of these frames is missing inside their sequence.

    Args:
        sequences: with labels.
        config: of the network; its horizons are those that are learned.
        truncation: how KITTI Tracking's truncation is read; objects with 0.98 or more are not learned.
    """

    def __init__(
        self, sequences: Sequence[StereoSequence], config: NetworkConfig, truncation: Truncation = "graded"
    ) -> None:
        self.sequences, self.config, self.truncation = sequences, config, truncation
        self.moments = (*MOMENTS, *config.horizons[1:])
        self._fits: dict[int, FrameFit] = {}
        self._counts = [frame_counts(sequence) for sequence in sequences]
        last, steps = config.horizons[-1], (-1, *config.horizons)
        between = [(k, i) for k, sequence in enumerate(sequences) for i in range(1, len(sequence) - last)]
        whole = [(k, i) for k, i in between if all(self._has(k, i, step) for step in steps)]
        self.n_beside_gaps = len(between) - len(whole)
        self.index = [
            (k, i) for k, i in whole if any(kind in LEARNED for kind in sequences[k].objects(i + 1).kinds)
        ]

    def _has(self, k: int, i: int, step: int) -> bool:
        """Whether the frame ``step`` frames after the ``i``-th of a sequence is that many places after it."""
        counts, place = self._counts[k], i + step
        return 0 <= place < len(counts) and counts[place] - counts[i] == step

    def __len__(self) -> int:
        return len(self.index)

    def calibration(self, item: int) -> StereoCalibration:
        """The cameras of a sample, for its pictures in their own size."""
        return self.sequences[self.index[item][0]].calibration

    def sample(self, item: int) -> Sample:
        """The sample with a number."""
        k, i = self.index[item]
        sequence = self.sequences[k]
        frames = (sequence.frame(i), sequence.frame(i - 1))
        size = frames[0].left.shape[:2]
        if k not in self._fits:
            self._fits[k] = fit_of((size[0], size[1]), sequence.calibration, self.config)
        none = sequence.objects(i).pick([])
        objects = tuple(
            learnable(sequence.objects(i + step), self.config, self.truncation)
            if self._has(k, i, step)
            else none
            for step in self.moments
        )
        before, now = sequence.pose(i - 1), sequence.pose(i)
        return Sample(
            frames,
            sequence.depth(i),
            objects,
            self._fits[k],
            None if before is None or now is None else bev_motion(before, now),
        )


def learnable(objects: FrameObjects, config: NetworkConfig, truncation: Truncation) -> FrameObjects:
    """The objects that are learned: of the three classes, in the volume, not nearly outside the picture."""
    kinds = tuple(MERGED.get(kind, kind) for kind in objects.kinds)
    share = objects.truncated
    if truncation == "graded":
        share = grade(share)
    x, y = objects.boxes[:, 0], objects.boxes[:, 1]
    reach = np.hypot(objects.boxes[:, 3], objects.boxes[:, 4]) / 2
    grid = config.grid
    inside = (
        (x + reach > grid.x[0]) & (x - reach < grid.x[1]) & (y + reach > grid.y[0]) & (y - reach < grid.y[1])
    )
    known = np.array([kind in CLASSES for kind in kinds], bool)
    chosen = objects.pick(known & (share < 0.98) & inside)
    return replace(chosen, kinds=tuple(MERGED.get(kind, kind) for kind in chosen.kinds))


def object_tensors(objects: FrameObjects) -> ObjectTensors:
    """Objects as tensors."""
    labels = [CLASSES.index(kind) for kind in objects.kinds]
    return ObjectTensors(
        torch.from_numpy(objects.boxes).float().reshape(-1, 7),
        torch.tensor(labels, dtype=torch.long),
        torch.from_numpy(objects.track_ids).long(),
    )


@dataclass(frozen=True)
class ClipBatch:
    """Samples for the network.

    Attributes:
        left, right: uint8 ``[2 B, 3, H, W]``: this frame of all samples, then the one before.
        sizes: height and width of what is picture, ``[B, 2]``.
        calibrations: ``[B, 2, 3, 4]``.
        depth: metres, 0 where unknown, ``[B, H, W]``.
        objects: for each sample at t+1, t, t-1 and t-2, then at further horizons.
        turns: 3x3 matrices from the ground frame to that in which boxes are learned, ``[B, 3, 3]``.
        motions: of the ground since the frame before, in that frame, ``[B, 3]``; None where one is unknown.
    """

    left: Tensor
    right: Tensor
    sizes: Tensor
    calibrations: Tensor
    depth: Tensor
    objects: tuple[tuple[ObjectTensors, ...], ...]
    turns: Tensor
    motions: Tensor | None


def collate(samples: Sequence[Sample], turns: Sequence[np.ndarray], config: NetworkConfig) -> ClipBatch:
    """A batch of samples; ``turns`` are applied to the objects here."""
    pairs = [[fitted_pair(frame, s.fit, config) for frame in s.frames] for s in samples]
    lefts, rights = (torch.stack([pair[when][eye] for when in (0, 1) for pair in pairs]) for eye in (0, 1))
    nothing = torch.zeros(config.height, config.width)
    depths = [nothing if s.depth is None else fitted_depth(s.depth, s.fit, config) for s in samples]
    objects = tuple(
        tuple(object_tensors(turned(one, turn)) for one in s.objects)
        for s, turn in zip(samples, turns, strict=True)
    )
    return ClipBatch(
        lefts,
        rights,
        torch.tensor([[s.fit.height, s.fit.width] for s in samples]),
        torch.stack([s.fit.matrices() for s in samples]),
        torch.stack(depths),
        objects,
        torch.stack([torch.from_numpy(turn).float() for turn in turns]),
        _motions(samples, turns),
    )


def _motions(samples: Sequence[Sample], turns: Sequence[np.ndarray]) -> Tensor | None:
    found = []
    for sample, turn in zip(samples, turns, strict=True):
        if sample.motion is None:
            return None
        found.append(np.concatenate([sample.motion[:1], turn[:2, :2] @ sample.motion[1:]]))
    return torch.from_numpy(np.stack(found)).float()


def turned(objects: FrameObjects, turn: np.ndarray) -> FrameObjects:
    """Objects after a rotation about the vertical axis and a scaling, a 3x3 matrix."""
    scale = float(np.cbrt(np.linalg.det(turn)))
    angle = float(np.arctan2(turn[1, 0], turn[0, 0]))
    boxes = objects.boxes.copy()
    boxes[:, :3] = boxes[:, :3] @ turn.T
    boxes[:, 3:6] *= scale
    boxes[:, 6] += angle
    return replace(objects, boxes=boxes)
