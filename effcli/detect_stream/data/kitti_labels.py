"""Labels and results in the text form of KITTI: 15 columns an object, frame and track before them, a score behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.boxes3d import from_camera, to_camera

UNKNOWN_2D = (-1.0, -1.0, -1.0, -1.0)


@dataclass(frozen=True)
class Objects:
    """The objects of one frame.

    Attributes:
        kinds: ``Car``, ``Pedestrian``, ``Cyclist``, ``Van``, ``DontCare`` and so on.
        boxes: in the ground frame of :mod:`effcli.detect_stream.data.boxes3d`, ``[N, 7]``.
        image_boxes: left, top, right, bottom in pixels of the left image, ``[N, 4]``.
        track_ids: the same number for the same object over time, -1 for none, ``[N]``.
        truncated: KITTI Tracking has the whole numbers 0, 1 and 2 here, KITTI Object a share, ``[N]``.
        occluded: 0 visible, 1 partly, 2 largely occluded, 3 unknown, ``[N]``.
        scores: of detections, 1 for labels, ``[N]``.
    """

    kinds: tuple[str, ...]
    boxes: np.ndarray
    image_boxes: np.ndarray
    track_ids: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    def pick(self, chosen: np.ndarray | Sequence[int]) -> Objects:
        """Some of them, by a mask or by numbers."""
        rows = np.arange(len(self))[np.asarray(chosen)] if len(chosen) else np.zeros(0, int)
        parts = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "kinds"}
        return Objects(tuple(self.kinds[i] for i in rows), **parts)


def no_objects() -> Objects:
    """An empty frame."""
    return objects_of((), np.zeros((0, 7)))


def objects_of(
    kinds: Sequence[str],
    boxes: np.ndarray,
    *,
    image_boxes: np.ndarray | None = None,
    track_ids: np.ndarray | None = None,
    truncated: np.ndarray | None = None,
    occluded: np.ndarray | None = None,
    scores: np.ndarray | None = None,
) -> Objects:
    """Objects; what is not given is unknown, or 1 for scores."""
    n = len(kinds)
    return Objects(
        tuple(kinds),
        np.asarray(boxes, float).reshape(n, 7),
        np.tile(UNKNOWN_2D, (n, 1)) if image_boxes is None else np.asarray(image_boxes, float).reshape(n, 4),
        np.full(n, -1) if track_ids is None else np.asarray(track_ids, int),
        np.zeros(n) if truncated is None else np.asarray(truncated, float),
        np.zeros(n, int) if occluded is None else np.asarray(occluded, int),
        np.ones(n) if scores is None else np.asarray(scores, float),
    )


def read_tracking_labels(path: Path) -> dict[int, Objects]:
    """Frame -> objects of a file of KITTI Tracking, ``label_02/0000.txt``; frames without a row are not there.

    Raises:
        InputError: a line has fewer than 17 columns, or something that is no number.
    """
    rows: dict[int, list[list[str]]] = {}
    for place, words in _lines(path):
        if len(words) < 17:
            raise InputError(f"has {len(words)} columns, not 17", place=place)
        frame, track = (_whole(word, place) for word in words[:2])
        rows.setdefault(frame, []).append([str(track), *words[2:], place])
    return {frame: _objects(found) for frame, found in rows.items()}


def read_object_labels(path: Path) -> Objects:
    """The objects of a file of KITTI Object, one image, with a score in a 16th column or not.

    Raises:
        InputError: a line has fewer than 15 columns, or something that is no number.
    """
    rows = []
    for place, words in _lines(path):
        if len(words) < 15:
            raise InputError(f"has {len(words)} columns, not 15", place=place)
        rows.append(["-1", *words, place])
    return _objects(rows)


def tracking_lines(frame: int, objects: Objects, *, with_scores: bool = False) -> list[str]:
    """Rows of KITTI Tracking, 17 columns, or 18 with scores."""
    return [
        f"{frame} {track} {line}"
        for track, line in zip(objects.track_ids, _rows(objects, with_scores), strict=True)
    ]


def object_lines(objects: Objects) -> list[str]:
    """Rows of KITTI Object with scores, 16 columns."""
    return list(_rows(objects, True))


def _rows(objects: Objects, with_scores: bool) -> Iterable[str]:
    xyz, hwl, rotation_y = to_camera(objects.boxes)
    alpha = rotation_y - np.arctan2(xyz[:, 0], xyz[:, 2])
    for i, kind in enumerate(objects.kinds):
        score = f" {objects.scores[i]:.6f}" if with_scores else ""
        if kind == "DontCare":
            plain = " ".join(f"{v:.6f}" for v in objects.image_boxes[i])
            yield f"DontCare -1 -1 -10 {plain} -1 -1 -1 -1000 -1000 -1000 -10{score}"
            continue
        numbers = (*objects.image_boxes[i], *hwl[i], *xyz[i], rotation_y[i])
        text = " ".join(f"{value:.6f}" for value in numbers)
        angle = (alpha[i] + np.pi) % (2 * np.pi) - np.pi
        yield f"{kind} {objects.truncated[i]:g} {objects.occluded[i]} {angle:.6f} {text}{score}"


def _lines(path: Path) -> Iterable[tuple[str, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", place=str(path)) from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line.split()


def _objects(rows: Sequence[Sequence[str]]) -> Objects:
    """Of lists (track, type, truncated, occluded, alpha, 4 of the 2D box, h w l, x y z, rotation_y[, score], place)."""
    kinds = tuple("Person" if row[1] == "Person_sitting" else row[1] for row in rows)
    numbers = np.array([_floats(row[2:-1], row[-1]) for row in rows]).reshape(len(rows), -1)
    if not len(rows):
        return no_objects()
    return objects_of(
        kinds,
        from_camera(numbers[:, 10:13], numbers[:, 7:10], numbers[:, 13]),
        image_boxes=numbers[:, 3:7],
        track_ids=np.array([int(row[0]) for row in rows]),
        truncated=numbers[:, 0],
        occluded=numbers[:, 1].astype(int),
        scores=numbers[:, 14],
    )


def _floats(words: Sequence[str], place: str) -> list[float]:
    """15 numbers; the last, the score, is 1 where it is not given."""
    try:
        found = [float(word) for word in words[:15]]
    except ValueError as error:
        raise InputError(f"something is no number: {error}", place=place) from None
    return found if len(found) == 15 else [*found, 1.0]


def _whole(word: str, place: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(f"{word!r} is not a whole number", place=place) from None
