"""COCO's JSON, as it is published and as annotation tools export it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effcli.continual.egor.data.labels.file_tree import FindFile
from effcli.continual.egor.data.labels.labelled_images import LabelledBox, LabelledImage, Labels
from effcli.core.errors import InputError

_EXPORT = "export the labels as COCO, YOLO or Pascal VOC"


def read_coco(data: bytes, place: str, find: FindFile) -> Labels:
    """The labels of a file.

    Numbers may be texts, boxes may be missing where there is a polygon or an uncompressed mask, ``width`` and
    ``height`` may be missing or 0.

    Args:
        data: its content.
        place: its name in messages.
        find: the images.

    Raises:
        InputError: the file is not COCO's; if it is in another tool's own format, that tool is named.
    """
    content = _parsed(data, place)
    names = _categories(content["categories"], place)
    boxes: dict[str, list[LabelledBox]] = {}
    named: dict[str, str] = {}
    entries, n_again = [], 0
    for number, one in enumerate(_list(content, "images", place)):
        if not isinstance(one, Mapping) or "id" not in one or not isinstance(one.get("file_name"), str):
            raise InputError(f"image {number} has no id or no file_name", place=place)
        if _key(one["id"]) in boxes:
            raise InputError(f"there are two images with the id {one['id']}", place=place)
        if (first := named.setdefault(one["file_name"], _key(one["id"]))) in boxes:
            n_again += 1
            boxes[_key(one["id"])] = boxes[first]
            continue
        boxes[_key(one["id"])] = []
        entries.append(one)
    annotations = _list(content, "annotations", place)
    mistakes = []
    for number, one in enumerate(annotations):
        try:
            image, box = _annotation(one, names)
            if image not in boxes:
                raise _UnusableError(f"is of image {one['image_id']}, which is not listed")
            boxes[image].append(box)
        except _UnusableError as error:
            mistakes.append(
                f"annotation {one.get('id', number) if isinstance(one, Mapping) else number} {error}"
            )
    images = [
        LabelledImage(one["file_name"], find(one["file_name"]), _size(one), boxes[_key(one["id"])])
        for one in entries
    ]
    classes = tuple(dict.fromkeys(names.values()))
    notes = _repeated_names(names, annotations)
    if n_again:
        notes.append(f"{n_again} images are listed again under another id: their boxes are taken together")
    return Labels(place, "COCO", "sizes", images, classes, mistakes, len(annotations), notes)


def tool_of(data: bytes) -> str | None:
    """What a JSON file of another tool's own format is; None for COCO's and for what is not known."""
    try:
        return _other_format(json.loads(data))
    except (ValueError, RecursionError):
        return None


class _UnusableError(Exception):
    """An annotation cannot be used; the message goes on after its number."""


def _parsed(data: bytes, place: str) -> dict[str, Any]:
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}", place=place) from None
    if (tool := _other_format(content)) is not None:
        raise InputError(f"not a COCO file but {tool}", place=place, hint=_EXPORT)
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or key not in content
    ]
    if missing:
        raise InputError(f"not a COCO file: it has no {missing[0]!r}", place=place)
    found: dict[str, Any] = content
    return found


def _other_format(content: Any) -> str | None:
    """What a file of another kind is."""
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        if "data" in content[0] and ("annotations" in content[0] or "completions" in content[0]):
            return "tasks of Label Studio in its own format"
        if "image" in content[0] and "annotations" in content[0]:
            return "labels in the format of CreateML"
    if not isinstance(content, Mapping):
        return None
    if "_via_img_metadata" in content or any(
        isinstance(one, Mapping) and "regions" in one and "filename" in one for one in content.values()
    ):
        return "a project of the VGG Image Annotator (VIA)"
    if "shapes" in content and "imagePath" in content:
        return "a file of LabelMe"
    if "objects" in content and "size" in content:
        return "labels of Supervisely in its own format"
    first = next(iter(content["annotations"]), None) if isinstance(content.get("annotations"), list) else None
    if "categories" not in content and isinstance(first, Mapping) and "caption" in first:
        return "captions"
    return None


def _list(content: Mapping[str, Any], key: str, place: str) -> list[Any]:
    value = content[key]
    if not isinstance(value, list):
        raise InputError(f"not a COCO file: {key!r} is not a list", place=place)
    return value


def _categories(content: Any, place: str) -> dict[str, str]:
    """Name of each id, in the order of the ids where they are numbers, which may have gaps."""
    if not isinstance(content, list):
        raise InputError("not a COCO file: 'categories' is not a list", place=place)
    found: dict[str, str] = {}
    for number, one in enumerate(content):
        name = one.get("name") if isinstance(one, Mapping) else None
        if not isinstance(name, str | int) or isinstance(name, bool) or "id" not in one:
            raise InputError(f"not a COCO file: category {number} has no id or no name", place=place)
        name = str(name).strip()
        if found.setdefault(_key(one["id"]), name) != name:
            raise InputError(f"there are two categories with the id {one['id']}", place=place)
    if all(key.removeprefix("-").isdecimal() for key in found):
        return dict(sorted(found.items(), key=lambda item: int(item[0])))
    return found


def _repeated_names(names: Mapping[str, str], annotations: Sequence[Any]) -> list[str]:
    """Which categories with boxes are called as others with boxes."""
    used = {_key(one.get("category_id")) for one in annotations if isinstance(one, Mapping)}
    n_ids = Counter(name for key, name in names.items() if key in used)
    return [f"{n} categories called {name!r} are taken as one class" for name, n in n_ids.items() if n > 1]


def _key(value: Any) -> str:
    """Ids that are the same number are the same, also where one is a text."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _annotation(one: Any, names: Mapping[str, str]) -> tuple[str, LabelledBox]:
    """The image's id and the box."""
    if not isinstance(one, Mapping):
        raise _UnusableError("is not an object of JSON")
    for key in ("image_id", "category_id"):
        if one.get(key) is None:
            raise _UnusableError(f"has no {key}")
    if _key(one["category_id"]) not in names:
        raise _UnusableError(f"is of category {one['category_id']}, which is not listed")
    numbers = _box(one)
    return _key(one["image_id"]), LabelledBox(
        names[_key(one["category_id"])], numbers, one.get("iscrowd") in (1, True, "1")
    )


def _box(one: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height: ``bbox``, or around the ``segmentation`` where there is none."""
    box = one.get("bbox")
    if box is None or box == []:
        return _around(one.get("segmentation"))
    numbers = _numbers(box)
    if numbers is None or len(numbers) != 4:
        raise _UnusableError(f"has a bbox that is not four numbers: {str(box)[:60]}")
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def _around(shape: Any) -> tuple[float, float, float, float]:
    if isinstance(shape, Mapping):
        return _around_mask(shape)
    flat = shape if isinstance(shape, list) else []
    points: list[float] = []
    for polygon in [flat] if flat and not isinstance(flat[0], list) else flat:  # VIA has one without brackets
        numbers = _numbers(polygon)
        if numbers is None or len(numbers) < 4 or len(numbers) % 2:
            raise _UnusableError("has no bbox, and a polygon that cannot be read")
        points += numbers
    if not points:
        raise _UnusableError("has neither a bbox nor a polygon")
    left, top = min(points[::2]), min(points[1::2])
    return left, top, max(points[::2]) - left, max(points[1::2]) - top


def _around_mask(shape: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Of run lengths down the columns, first of what is not in the mask."""
    counts, size = _numbers(shape.get("counts")), _numbers(shape.get("size"))
    if counts is None or size is None or len(size) != 2 or sum(counts) != size[0] * size[1] or min(size) < 1:
        raise _UnusableError("has no bbox, and a mask that is compressed or damaged")
    ends = np.cumsum([int(n) for n in counts])
    runs = [(first, last - 1) for first, last in zip(ends[::2], ends[1::2], strict=False) if last > first]
    if not runs:
        raise _UnusableError("has no bbox and an empty mask")
    height = int(size[0])
    columns = [edge // height for run in runs for edge in run]
    is_over = any(a // height != b // height for a, b in runs)
    rows = [0, height - 1] if is_over else [edge % height for run in runs for edge in run]
    left, top = int(min(columns)), int(min(rows))
    return left, top, int(max(columns)) - left + 1, int(max(rows)) - top + 1


def _numbers(value: Any) -> list[float] | None:
    """A list of finite numbers, or None."""
    if not isinstance(value, list):
        return None
    found = []
    for one in value:
        try:
            number = math.nan if isinstance(one, bool | None) else float(one)
        except (TypeError, ValueError, OverflowError):
            return None
        if not math.isfinite(number):
            return None
        found.append(number)
    return found


def _size(one: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = _numbers([one.get("height"), one.get("width")])
    return (int(sides[0]), int(sides[1])) if sides and min(sides) >= 1 else None
