"""What a label file says, as it says it: boxes are neither checked nor compared with pixels here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from effcli.data.stored_files import StoredFile

BoxForm: TypeAlias = Literal["sizes", "corners", "centres"]
"""How four numbers are a box: left, top, width, height in pixels (COCO); left, top, right, bottom in pixels (VOC);
centre, width, height as shares of the sides of the image (YOLO)."""


@dataclass(frozen=True)
class LabelledBox:
    """One annotation.

    Attributes:
        name: of its class.
        numbers: four, finite, in the form of the file.
        crowd: it stands for many objects, or is not to be counted.
    """

    name: str
    numbers: tuple[float, float, float, float]
    crowd: bool = False


@dataclass(frozen=True)
class LabelledImage:
    """An image that is named in labels.

    Attributes:
        name: as the labels name it.
        file: None where it is not there.
        size: height and width that the labels give, pixels; None where they give none.
        boxes: in the order of the labels.
    """

    name: str
    file: StoredFile | None
    size: tuple[int, int] | None
    boxes: Sequence[LabelledBox]


@dataclass(frozen=True)
class Labels:
    """The labels of one part of a set.

    Attributes:
        place: of messages.
        kind: COCO, YOLO or Pascal VOC.
        form: of all boxes.
        images: in the order of the labels.
        classes: names in the order of their numbers; there may be some without any box.
        mistakes: one line for each annotation that cannot be used.
        n_annotations: of all, also those that cannot be used.
        notes: what else is worth saying, one line each.
    """

    place: str
    kind: str
    form: BoxForm
    images: Sequence[LabelledImage]
    classes: tuple[str, ...]
    mistakes: Sequence[str] = ()
    n_annotations: int = 0
    notes: Sequence[str] = field(default=())
