"""Tracks as tracking is measured: HOTA, MOTA and IDF1 by TrackEval (``effcli[tracking]``), with KITTI's rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from effcli.core.errors import InputError, UsageError
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.kitti_labels import result_lines, tracking_lines

CLASSES = ("car", "pedestrian")
"""What KITTI measures as tracking."""

_KNOWN = {"car", "van", "truck", "pedestrian", "person", "cyclist", "tram", "misc", "dontcare"}
"""Classes of labels that TrackEval reads; others are neither true nor neutral to it."""

_TRACKER = "found"


@dataclass(frozen=True)
class TrackedSequence:
    """What was found in a sequence, and its truth, by the numbers of frames.

    Attributes:
        found: objects with the numbers of their tracks; frames without an output are not there.
        true: labels with track numbers.
    """

    found: Mapping[int, FrameObjects]
    true: Mapping[int, FrameObjects]

    @property
    def n_frames(self) -> int:
        """Frames from 0 on."""
        return max(self.true, default=-1) + 1


def require_trackeval() -> None:
    """Make sure, before any work, that tracking can be measured.

    Raises:
        UsageError: TrackEval is not installed.
    """
    try:
        import trackeval  # noqa: F401
    except ImportError:
        raise UsageError(
            "needs TrackEval", place="--tracking", hint="pip install 'effcli[tracking]'"
        ) from None


def tracking_metrics(sequences: Sequence[TrackedSequence]) -> dict[str, dict[str, float | int] | None]:
    """How well objects are followed, by the boxes in the picture, an overlap of 0.5 for MOTA and IDF1.

    Returns:
        For ``car`` and ``pedestrian``, per cent: ``hota`` and its parts ``deta`` (detection) and ``assa``
        (association), ``mota``, ``idf1``; and ``id_switches``; None for a class without labels.

    Raises:
        InputError: TrackEval does not take the labels, as where one frame has a track twice.
        UsageError: TrackEval is not installed.
    """
    require_trackeval()
    with TemporaryDirectory() as name, _silenced():
        from trackeval.datasets import Kitti2DBox
        from trackeval.utils import TrackEvalException

        try:
            dataset = Kitti2DBox(_written(Path(name), sequences))
            raw = {seq: dataset.get_raw_seq_data(_TRACKER, seq) for seq in dataset.seq_list}
            return {kind: _of_class(dataset, raw, kind) for kind in CLASSES}
        except TrackEvalException as error:
            raise InputError(f"cannot be measured as tracking: {error}", place="--tracking") from None


def _of_class(dataset: Any, raw: Mapping[str, Any], kind: str) -> dict[str, float | int] | None:
    from trackeval.metrics import CLEAR, HOTA, Identity

    data = {seq: dataset.get_preprocessed_seq_data(one, kind) for seq, one in raw.items()}
    if not any(one["num_gt_dets"] for one in data.values()):
        return None
    found: dict[str, Any] = {}
    for metric in (HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})):
        found |= metric.combine_sequences({seq: metric.eval_sequence(one) for seq, one in data.items()})
    names = {"hota": "HOTA", "deta": "DetA", "assa": "AssA", "mota": "MOTA", "idf1": "IDF1"}
    shares = {ours: round(100 * float(found[theirs].mean()), 3) for ours, theirs in names.items()}
    return {**shares, "id_switches": int(found["IDSW"])}


def _written(folder: Path, sequences: Sequence[TrackedSequence]) -> dict[str, Any]:
    """Labels and results in the folders that TrackEval's reader of KITTI expects; its settings."""
    labels, results = folder / "true" / "label_02", folder / "trackers" / _TRACKER / "data"
    for place in (labels, results):
        place.mkdir(parents=True)
    seqmap = []
    for number, one in enumerate(sequences):
        name = f"{number:04d}"
        seqmap.append(f"{name} empty 000000 {one.n_frames:06d}")
        true = [row for frame, objects in one.true.items() for row in tracking_lines(frame, _known(objects))]
        found = [row for frame, objects in one.found.items() for row in result_lines(frame, objects)]
        for place, rows in ((labels, true), (results, found)):
            (place / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    text = "".join(f"{row}\n" for row in seqmap)
    (folder / "true" / "evaluate_tracking.seqmap.training").write_text(text, encoding="utf-8")
    return {
        "GT_FOLDER": str(folder / "true"),
        "TRACKERS_FOLDER": str(folder / "trackers"),
        "TRACKERS_TO_EVAL": [_TRACKER],
        "PRINT_CONFIG": False,
    }


def _known(objects: FrameObjects) -> FrameObjects:
    return objects.pick([i for i, kind in enumerate(objects.kinds) if kind.lower() in _KNOWN])


@contextmanager
def _silenced() -> Iterator[None]:
    """TrackEval prints its settings and tracebacks."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield
