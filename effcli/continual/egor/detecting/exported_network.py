"""A detector as an ONNX graph: from an image of any size to boxes, with padding and NMS inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effcli.continual.egor.detectors.branched import BranchedDetector
from effcli.continual.egor.detectors.copied import CopiedBranch
from effcli.continual.egor.detectors.detector import (
    NMS_IOU,
    PER_IMAGE,
    PER_LEVEL,
    SCORE_THRESHOLD,
    Detector,
    Raw,
)
from effcli.continual.egor.training import PAD_TO
from effcli.nn.onnx_file import model_of

INPUT, THRESHOLD, OUTPUTS = "image", "score_threshold", ("boxes", "scores", "labels")
_MOST_STEPS = 1024
_PADDED = "padded_image"


class Candidates(nn.Module):
    """All boxes and scores that NMS chooses from: those of the frozen detector first, then those of its branch.

    Args:
        detector: on the CPU.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.parts = parts_of(detector)

    def forward(self, padded: Tensor) -> tuple[Tensor, ...]:
        """uint8 ``[1, 3, H, W]``, sides multiples of 32, to boxes ``[1, N, 4]`` and scores ``[1, C, N]`` of each part.

        Scores below the 1000 best of a level are 0.
        """
        raw: Raw | None = self.detector(self.detector.normalise(padded))
        outputs: list[Tensor] = []
        for part in reversed(self.parts):
            assert raw is not None
            scores = _best_of_levels(part.scores(raw), part.level_sizes(raw))
            outputs = [part.boxes(raw), scores.transpose(1, 2), *outputs]
            raw = raw.frozen
        return tuple(outputs)


def parts_of(detector: Detector) -> list[Detector]:
    """The detector below all branches, then these in the order in which they were learned."""
    if isinstance(detector, BranchedDetector | CopiedBranch):
        return [*parts_of(detector.old), detector]
    return [detector]


def _best_of_levels(scores: Tensor, levels: Sequence[int]) -> Tensor:
    """Scores ``[1, N, C]``, with 0 for those that are not among the 1000 best of their level."""
    kept = []
    for level in scores.split(list(levels), 1):
        flat = torch.cat([level.flatten(), level.new_zeros(PER_LEVEL)])
        least = flat.topk(PER_LEVEL).values[-1]
        kept.append(torch.where(level >= least, level, torch.zeros_like(level)))
    return torch.cat(kept, 1)


def graph_of(detector: Detector, file: Path) -> Any:
    """The detector as an ONNX model: ``image`` uint8 ``[1, 3, height, width]`` to ``boxes``, ``scores``, ``labels``.

    The second input, ``score_threshold``, may be left out.

    Args:
        detector: on the CPU, in evaluation mode.
        file: where it will be written, for messages.

    Raises:
        UsageError: the packages for it are not installed.
    """
    network = Candidates(detector).eval()
    names = [f"{name}_{i}" for i in range(len(network.parts)) for name in ("candidates", "their_scores")]
    size = {
        axis: PAD_TO * torch.export.Dim(name, min=1, max=_MOST_STEPS) for axis, name in ((2, "h"), (3, "w"))
    }
    example = torch.zeros(1, 3, 4 * PAD_TO, 3 * PAD_TO, dtype=torch.uint8)
    model = model_of(network, (example,), file, [_PADDED], names, size)
    graph = model.graph
    del graph.input[:], graph.output[:]
    _Nodes(graph).around(network.parts)
    return model


class _Nodes:
    """What is put around the network: padding before it, clipping and NMS after it."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto, helper

        self._helper, self._types, self._graph = helper, TensorProto, graph
        self._n = 0

    def around(self, parts: Sequence[Detector]) -> None:
        """Add all nodes, inputs and outputs."""
        helper, types, graph = self._helper, self._types, self._graph
        graph.input.append(helper.make_tensor_value_info(INPUT, types.UINT8, [1, 3, "height", "width"]))
        graph.input.append(helper.make_tensor_value_info(THRESHOLD, types.FLOAT, [1]))
        graph.initializer.append(helper.make_tensor(THRESHOLD, types.FLOAT, [1], [SCORE_THRESHOLD]))
        first = len(graph.node)
        height_width = self._padded()
        before = list(graph.node[first:])
        del graph.node[first:]
        network = list(graph.node)
        del graph.node[:]
        graph.node.extend([*before, *network])
        limits = self._limits(height_width)
        firsts = [0, *(part.n_classes for part in parts[:-1])]
        found = [
            self._best(f"candidates_{i}", f"their_scores_{i}", limits, first)
            for i, first in enumerate(firsts)
        ]
        for name, values in zip(OUTPUTS, zip(*found, strict=True), strict=True):
            self._add("Concat", values, name=name, axis=0)
        sides = {
            "boxes": [types.FLOAT, ["found", 4]],
            "scores": [types.FLOAT, ["found"]],
            "labels": [types.INT64, ["found"]],
        }
        for name, (kind, shape) in sides.items():
            graph.output.append(helper.make_tensor_value_info(name, kind, shape))

    def _padded(self) -> str:
        """Fill up with 0 at the right and below to multiples of 32; gives height and width before that."""
        shape = self._add("Shape", [INPUT])
        sides = self._add("Slice", [shape, self._int([2]), self._int([4])])
        step = self._int([PAD_TO])
        steps = self._add("Div", [self._add("Add", [sides, self._int([PAD_TO - 1])]), step])
        missing = self._add("Sub", [self._add("Mul", [steps, step]), sides])
        pads = self._add("Concat", [self._int([0] * 6), missing], axis=0)
        self._add("Pad", [INPUT, pads], name=_PADDED)
        return sides

    def _limits(self, height_width: str) -> str:
        """Width, height, width, height of the image as float."""
        turned = self._add("Gather", [height_width, self._int([1, 0, 1, 0])])
        return self._add("Cast", [turned], to=self._types.FLOAT)

    def _best(self, boxes: str, scores: str, limits: str, first_label: int) -> tuple[str, str, str]:
        """Clipped boxes, scores and labels of one part, the best first."""
        inside = self._add("Min", [self._add("Max", [boxes, self._float([0.0])]), limits])
        iou, most = self._float([NMS_IOU]), self._int([PER_IMAGE])
        kept = self._add("NonMaxSuppression", [inside, scores, most, iou, THRESHOLD])
        score = self._add("GatherND", [scores, kept])  # image, class and place of each
        n = self._add("Min", [self._add("Shape", [score]), self._int([PER_IMAGE])])
        best, order = self._name(), self._name()
        node = self._helper.make_node("TopK", [score, n], [best, order], largest=1, sorted=1)
        self._graph.node.append(node)
        label, place = (self._add("Gather", [self._column(kept, k), order]) for k in (1, 2))
        chosen = self._add("Gather", [self._add("Squeeze", [inside, self._int([0])]), place], axis=0)
        return chosen, best, self._add("Add", [label, self._int([first_label])])

    def _column(self, rows: str, k: int) -> str:
        return self._add("Squeeze", [self._add("Gather", [rows, self._int([k])], axis=1), self._int([1])])

    def _add(self, kind: str, inputs: Sequence[str], *, name: str | None = None, **settings: Any) -> str:
        output = name or self._name()
        self._graph.node.append(self._helper.make_node(kind, list(inputs), [output], **settings))
        return output

    def _int(self, values: list[int]) -> str:
        return self._constant(self._types.INT64, values)

    def _float(self, values: list[float]) -> str:
        return self._constant(self._types.FLOAT, values)

    def _constant(self, kind: int, values: Sequence[float]) -> str:
        name = self._name()
        self._graph.initializer.append(self._helper.make_tensor(name, kind, [len(values)], list(values)))
        return name

    def _name(self) -> str:
        self._n += 1
        return f"around_{self._n}"
