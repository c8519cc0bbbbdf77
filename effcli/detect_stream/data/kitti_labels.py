"""Labels and results in the text form of KITTI: 15 columns per object, frame and track before them, a score behind."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.boxes3d import from_camera, to_camera
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of

log = logging.getLogger(__name__)

_LARGEST_SIZE_M = 30.0
_LARGEST_ANGLE = 2 * np.pi + 0.01
_GRADES = (0.0, 0.3, 0.6)
_KINDS = (
    *("Car", "Van", "Truck", "Tram", "Misc", "DontCare"),
    *("Pedestrian", "Person", "Person_sitting", "Cyclist"),
)
_WITH_SIZE = ("Car", "Van", "Pedestrian", "Person", "Cyclist")
"""What is learned or measured, for which a box in 3D is needed."""


def read_tracking_labels(path: Path) -> dict[int, FrameObjects]:
    """Frame -> objects of a file of KITTI Tracking, ``label_02/0000.txt``; frames without a row are not there.

    Kinds that KITTI does not have are logged: nothing is learned from them.

    Raises:
        InputError: a line has not 17 columns, or 18 with a score, something that is not a finite number, a kind in
            other letters than KITTI's (``car``), no size of a car, van, pedestrian or cyclist, one
            above 30 m, or its angle in degrees.
    """
    rows: dict[int, list[list[str]]] = {}
    for place, words in _lines(path):
        if len(words) not in (17, 18):
            raise InputError(f"has {len(words)} columns, not 17, or 18 with a score", place=place)
        frame, track = (_whole(word, place) for word in words[:2])
        rows.setdefault(frame, []).append([str(track), *words[2:], place])
    _say_unknown_kinds(path, (row[1] for found in rows.values() for row in found))
    return {frame: _objects(found) for frame, found in rows.items()}


def read_object_labels(path: Path) -> FrameObjects:
    """The objects of a file of KITTI Object, one image, with a score in a 16th column or not.

    Raises:
        InputError: as of :func:`read_tracking_labels`, with 15 columns.
    """
    rows = []
    for place, words in _lines(path):
        if len(words) not in (15, 16):
            raise InputError(f"has {len(words)} columns, not 15, or 16 with a score", place=place)
        rows.append(["-1", *words, place])
    _say_unknown_kinds(path, (row[1] for row in rows))
    return _objects(rows)


def tracking_lines(frame: int, objects: FrameObjects) -> list[str]:
    """Labels as rows of KITTI Tracking, 17 columns."""
    rows = zip(objects.track_ids, _rows(objects, False), strict=True)
    return [f"{frame} {track} {line}" for track, line in rows]


def result_lines(frame: int, objects: FrameObjects) -> list[str]:
    """Results as rows of KITTI Tracking, 18 columns; those of no track are left out, as its tools ask for."""
    rows = zip(objects.track_ids, _rows(objects, True), strict=True)
    return [f"{frame} {track} {line}" for track, line in rows if track >= 0]


def object_lines(objects: FrameObjects) -> list[str]:
    """Rows of KITTI Object with scores, 16 columns."""
    return list(_rows(objects, True))


def _rows(objects: FrameObjects, with_scores: bool) -> Iterable[str]:
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


def _objects(rows: Sequence[Sequence[str]]) -> FrameObjects:
    """Of lists (track, type, truncated, occluded, alpha, 4 of the 2D box, h w l, x y z, rotation_y[, score], place)."""
    for row in rows:
        _check_kind(row[1], row[-1])
    kinds = tuple("Person" if row[1] == "Person_sitting" else row[1] for row in rows)
    numbers = np.array([_floats(row[2:-1], row[-1]) for row in rows]).reshape(len(rows), -1)
    if not len(rows):
        return no_objects()
    for kind, row, values in zip(kinds, rows, numbers, strict=True):
        if kind in _WITH_SIZE:
            _check_box(kind, values[7:10], float(values[13]), row[-1])
    return objects_of(
        kinds,
        from_camera(numbers[:, 10:13], numbers[:, 7:10], numbers[:, 13]),
        image_boxes=numbers[:, 3:7],
        track_ids=np.array([int(row[0]) for row in rows]),
        truncated=numbers[:, 0],
        occluded=numbers[:, 1].astype(int),
        scores=numbers[:, 14],
    )


def _check_box(kind: str, sizes: np.ndarray, rotation_y: float, place: str) -> None:
    """Refuse a box that has no size, or is in other units than metres and radians."""
    text = f"a {kind} of height, width and length {' '.join(f'{size:g}' for size in sizes)}"
    if (sizes <= 0).any():
        hint = "boxes in 3D are learned and measured; DontCare is for objects whose box is not known"
        raise InputError(text, place=place, hint=hint)
    if sizes.max() > _LARGEST_SIZE_M:
        raise InputError(text, place=place, hint="write metres")
    if abs(rotation_y) > _LARGEST_ANGLE:
        raise InputError(
            f"a {kind} with rotation_y {rotation_y:g}", place=place, hint="write radians, -pi to pi"
        )


def _check_kind(kind: str, place: str) -> None:
    """Refuse ``car``, of which nothing would be learned."""
    meant = {one.lower(): one for one in _KINDS}.get(kind.lower(), kind)
    if meant != kind:
        raise InputError(f"{kind!r} is none of KITTI's kinds", place=place, hint=f"write {meant}")


def _say_unknown_kinds(path: Path, kinds: Iterable[str]) -> None:
    unknown = Counter(kind for kind in kinds if kind.lower() not in {one.lower() for one in _KINDS})
    if unknown:
        log.warning(
            "%s: nothing is learned from %s: KITTI has no such kinds",
            path,
            ", ".join(f"{n} {kind}" for kind, n in unknown.items()),
        )


def _floats(words: Sequence[str], place: str) -> list[float]:
    """15 numbers; the last, the score, is 1 where it is not given."""
    try:
        found = [float(word) for word in words[:15]]
    except ValueError as error:
        raise InputError(f"not a number: {error}", place=place) from None
    if not np.isfinite(found).all():
        raise InputError(f"holds {next(v for v in found if not np.isfinite(v))}", place=place)
    return found if len(found) == 15 else [*found, 1.0]


def _whole(word: str, place: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(f"{word!r} is not a whole number", place=place) from None


def grade(truncated: np.ndarray) -> np.ndarray:
    """KITTI Tracking's 0, 1 and 2 as shares 0, 0.3 and 0.6; other numbers as they are."""
    found = truncated.astype(float).copy()
    for whole, share in enumerate(_GRADES):
        found[truncated == whole] = share
    return found
