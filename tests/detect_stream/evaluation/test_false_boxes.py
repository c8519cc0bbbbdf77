"""Which boxes stand on nothing: the two rules of benchmarks/false_boxes.py."""

from __future__ import annotations

import numpy as np

from benchmarks.false_boxes import counted, on_nothing
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of


def test_a_box_stands_on_what_overlaps_it_in_the_picture_and_is_near_it_from_above() -> None:
    true = _objects(
        ("Van", (10, 0), (100, 100, 200, 200)),
        ("DontCare", (-1000, -1000), (500, 100, 600, 200)),
    )
    found = _objects(
        ("Car", (11, 1), (150, 150, 250, 250)),  # on the van
        ("Car", (30, 0), (150, 150, 250, 250)),  # behind it
        ("Car", (20, 5), (590, 150, 650, 250)),  # where labels say nothing
        ("Car", (20, 9), (200, 100, 300, 200)),  # touches the van's edge, no more
        ("Car", (10, 1.5), (300, 100, 400, 200)),  # beside the van, but not in the picture
    )
    in_picture, from_above = on_nothing(found, true)
    assert in_picture.tolist() == [False, False, False, True, True]
    assert from_above.tolist() == [False, True, False, True, False]


def test_all_boxes_of_a_frame_without_labels_stand_on_nothing() -> None:
    found = _objects(("Car", (11, 1), (150, 150, 250, 250)), ("Cyclist", (9, 1), (0, 0, 9, 9)))
    rows = {row["class"]: row for row in counted([(found, no_objects()), (no_objects(), found)])}
    assert rows["all"] == {
        "class": "all",
        "boxes per frame": 1.0,
        "on nothing in the picture": 1.0,
        "on nothing from above": 1.0,
    }
    assert rows["Cyclist"]["boxes per frame"] == 0.5
    assert rows["Pedestrian"]["boxes per frame"] == 0


def _objects(*found: tuple[str, tuple[float, float], tuple[float, ...]]) -> FrameObjects:
    """Of kind, place on the ground and box in the picture."""
    boxes = np.array([[*place, 0, 4, 1.6, 1.5, 0] for _, place, _ in found])
    return objects_of([kind for kind, _, _ in found], boxes, image_boxes=np.array([box for *_, box in found]))
