"""What was found as COCO's JSON and as YOLO's text, which annotation tools and this project read as labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effcli.continual.egor.detectors.detector import Detections


def objects_of(found: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    """``class``, ``score`` and ``box`` (left, top, right, bottom in pixels) of each, the best first."""
    return [
        {"class": classes[label], "score": round(score, 4), "box": [round(v, 1) for v in box]}
        for box, score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


def yolo_text(found: Detections, size: tuple[int, int]) -> str:
    """A line per object: number of the class, centre, width and height as shares of the image's sides.

    Args:
        found: in an image.
        size: its height and width.
    """
    height, width = size
    lines = []
    for (left, top, right, bottom), label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
        shares = ((left + right) / 2 / width, (top + bottom) / 2 / height)
        sides = ((right - left) / width, (bottom - top) / height)
        lines.append(" ".join([str(label), *(f"{value:.6f}" for value in (*shares, *sides))]) + "\n")
    return "".join(lines)


class CocoFile:
    """Images and what was found in them.

    Args:
        classes: names of the detector's.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, name: str, found: Detections, size: tuple[int, int]) -> None:
        """One image by its name, with its height and width."""
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": name, "width": size[1], "height": size[0]})
        for (left, top, right, bottom), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            sides = [right - left, bottom - top]
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [round(value, 2) for value in (left, top, *sides)],
                    "area": round(sides[0] * sides[1], 2),
                    "iscrowd": 0,
                    "score": round(score, 4),
                }
            )

    def content(self) -> dict[str, Any]:
        """All of it, to be written as JSON."""
        return {"images": self._images, "annotations": self._annotations, "categories": self._categories}
