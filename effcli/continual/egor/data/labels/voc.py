"""Pascal VOC: one XML file per image."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from xml.etree import ElementTree

from effcli.continual.egor.data.labels.file_tree import FileTree, part_of_path
from effcli.continual.egor.data.labels.labelled_images import LabelledBox, LabelledImage, Labels
from effcli.continual.egor.data.labels.left_out import named, shared_with_others
from effcli.continual.egor.data.labels.yolo import WHOLE
from effcli.core.errors import InputError
from effcli.data.picture_folders import PART_NAMES, is_picture_name, part_of

_DIFFICULT, _PLAIN = ("1", "true", "yes"), ("", "0", "false", "no", "none", "unspecified")
_FROM_ONE = "The VOC"
"""Databases whose pixels are counted from 1: PASCAL's own."""


@dataclass(frozen=True)
class VocSet:
    """Where the labels of each part are.

    Attributes:
        tree: the files.
        parts: part -> paths of XML files; :data:`~effcli.continual.egor.data.labels.yolo.WHOLE` where there are none.
        is_listed: the parts are lists of images, not folders.
    """

    tree: FileTree
    parts: Mapping[str, Sequence[str]]
    is_listed: bool = False


def find_voc(tree: FileTree) -> VocSet | None:
    """The set that a folder with XML files is; its parts are lists in ``ImageSets/Main``, or folders.

    ``trainval`` is learned from where there is no ``train``.

    Raises:
        InputError: the XML files are of another kind.
    """
    files = tree.ending(".xml")
    if not files:
        return None
    root = _parsed(tree, files[0])
    if root is not None and root.tag != "annotation":
        tool = "labels of CVAT in its own format" if root.tag == "annotations" else f"<{root.tag}>"
        raise InputError(
            f"not a Pascal VOC file but {tool}",
            place=tree.files[files[0]].place,
            hint="export the labels as COCO, YOLO or Pascal VOC",
        )
    lists = {
        PurePosixPath(name).stem: name
        for name in tree.ending(".txt")
        if _is_listing(name) and part_of(PurePosixPath(name).stem)
    }
    whole = next((name for name in tree.ending("trainval.txt") if _is_listing(name, "trainval")), None)
    if whole is not None and not any(part.lower() in PART_NAMES["train"] for part in lists):
        lists["train"] = whole
    if lists:
        return VocSet(tree, {part: _listed(tree, name, files) for part, name in lists.items()}, True)
    parts = defaultdict(list)
    for name in files:
        parts[part_of_path(f"{name.rpartition('/')[0]}/") or WHOLE].append(name)
    return VocSet(tree, dict(parts))


def _is_listing(name: str, stem: str | None = None) -> bool:
    """Whether a path is one of a list in ``ImageSets``, of this name."""
    path = PurePosixPath(name.lower())
    return "imagesets" in path.parts[:-1] and stem in (None, path.stem)


def read_voc(found: VocSet, part: str) -> Labels:
    """The labels of a part; ``difficult`` objects are not counted in measurements, as PASCAL has it.

    Raises:
        InputError: none of the files can be read.
    """
    tree, place = found.tree, found.tree.place if part == WHOLE else f"{found.tree.place}, {part}"
    by_stem = defaultdict(list)
    for name in tree.pictures:
        by_stem[PurePosixPath(name).stem].append(name)
    read = [(name, _parsed(tree, name)) for name in dict.fromkeys(found.parts[part])]
    images, mistakes, other_names = (
        [],
        [f"{name} is not valid XML" for name, root in read if root is None],
        [],
    )
    n = len(mistakes)
    for name, root in read:
        if root is None:
            continue
        first = 1.0 if root.findtext("source/database", "").startswith(_FROM_ONE) else 0.0
        boxes = []
        for number, one in enumerate(root.iter("object"), 1):
            n += 1
            try:
                boxes.append(_box(one, first))
            except ValueError as error:
                mistakes.append(f"{name}, object {number} {error}")
        shown, file = _image(tree, root, name, by_stem)
        images.append(LabelledImage(shown, None if file is None else tree.files[file], _size(root), boxes))
        if PurePosixPath(name).stem != _stem(shown) in by_stem and PurePosixPath(name).stem in by_stem:
            other_names.append(f"{name} ({shown})")
    if not images and mistakes:
        raise InputError(f"none of {len(mistakes)} XML files can be read: {mistakes[0]}", place=place)
    notes = [*shared_with_others(found.parts, part), *_without_labels(found, images)]
    taken = "with the filename of another image, taken for the image that is called as they are"
    notes += named(other_names, "XML file", "XML files", taken)
    classes = tuple(sorted({box.name for image in images for box in image.boxes}))
    return Labels(place, "Pascal VOC", "corners", _joined(images, notes), classes, mistakes, n, notes)


def _joined(images: Sequence[LabelledImage], notes: list[str]) -> list[LabelledImage]:
    """Images that several XML files are of once, with the boxes of all."""
    n_files = Counter(image.file for image in images if image.file is not None)
    again = [image.name for image in images if image.file is not None and n_files[image.file] > 1]
    joined: dict[object, LabelledImage] = {}
    for number, image in enumerate(images):
        key = number if image.file is None else image.file
        before = joined.get(key)
        joined[key] = image if before is None else replace(before, boxes=[*before.boxes, *image.boxes])
    notes += named(list(dict.fromkeys(again)), "image", "images", "with several XML files, all of them taken")
    return list(joined.values())


def _without_labels(found: VocSet, images: Sequence[LabelledImage]) -> list[str]:
    """What is to be said of pictures that lie beside those of a part and that no XML file is of."""
    tree = found.tree
    if found.is_listed:
        return []
    own = {id(image.file) for image in images}
    folders = {name.rpartition("/")[0] for name, file in tree.files.items() if id(file) in own}
    labelled = {PurePosixPath(name).stem for name in tree.ending(".xml")}
    alone = [
        name
        for name in tree.pictures
        if name.rpartition("/")[0] in folders
        and id(tree.files[name]) not in own
        and PurePosixPath(name).stem not in labelled
    ]
    return named(alone, "image", "images", "without an XML file, left out")


def _parsed(tree: FileTree, name: str) -> ElementTree.Element | None:
    data = tree.files[name].read()
    if b"<!ENTITY" in data:  # nothing that grows while it is read
        return None
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError):
        return _in_its_encoding(data)


def _in_its_encoding(data: bytes) -> ElementTree.Element | None:
    """A file in an encoding that the parser does not know, as that of LabelImg on some computers: GBK, Shift JIS."""
    said = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([\w.-]+)[^>]*\?>", data)
    try:
        return None if said is None else ElementTree.fromstring(data[said.end() :].decode(said[1].decode()))
    except (LookupError, UnicodeDecodeError, ElementTree.ParseError, ValueError):
        return None


def _listed(tree: FileTree, listing: str, files: Sequence[str]) -> list[str]:
    """The XML files of the images in a list, whose lines begin with their names."""
    by_stem = {PurePosixPath(name).stem: name for name in files}
    lines = tree.files[listing].read().decode("utf-8", "replace").split("\n")
    stems = [PurePosixPath(line.split()[0]).name for line in lines if line.strip()]
    found = [by_stem.get(stem, by_stem.get(PurePosixPath(stem).stem)) for stem in stems]
    missing = [stem for stem, file in zip(stems, found, strict=True) if file is None]
    if missing:
        raise InputError(
            f"lists {len(missing)} images without labels, the first is {missing[0]}",
            place=tree.files[listing].place,
        )
    return [file for file in found if file is not None]


def _image(
    tree: FileTree, root: ElementTree.Element, name: str, by_stem: Mapping[str, Sequence[str]]
) -> tuple[str, str | None]:
    """Its name, and its path: named as the XML file, or as ``filename`` in it says."""
    shown = (root.findtext("filename") or "").strip() or PurePosixPath(name).stem
    for stem in dict.fromkeys((PurePosixPath(name).stem, _stem(shown))):
        candidates = by_stem.get(stem, ())
        named = [path for path in candidates if path.rpartition("/")[2] == shown]
        if (file := tree.nearest(named or candidates, name)) is not None:
            return shown, file
    return shown, None


def _stem(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return PurePosixPath(last).stem if is_picture_name(last) else last


def _box(one: ElementTree.Element, first: float) -> LabelledBox:
    """An object.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    name = (one.findtext("name") or "").strip()
    if not name:
        raise ValueError("has no name")
    boxes = one.findall("bndbox")
    if len(boxes) > 1:
        raise ValueError(f"has {len(boxes)} boxes")
    if one.find("robndbox") is not None:
        raise ValueError("is a turned box of roLabelImg (robndbox)")
    if boxes:
        (box,) = boxes
        left, top, right, bottom = (_number(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    else:
        x, y = _polygon(one)
        left, top, right, bottom = min(x), min(y), max(x), max(y)
    return LabelledBox(name, (left - first, top - first, right, bottom), _is_difficult(one))


def _is_difficult(one: ElementTree.Element) -> bool:
    word = (one.findtext("difficult") or "").strip().lower()
    if word not in (*_DIFFICULT, *_PLAIN):
        raise ValueError(f"is difficult: {word[:40]}, neither 0 nor 1")
    return word in _DIFFICULT


def _polygon(one: ElementTree.Element) -> tuple[list[float], list[float]]:
    """Of ``x1``, ``y1``, ``x2``, ... or of points ``x``, ``y``."""
    polygon = one.find("polygon")
    inside = [] if polygon is None else [part for part in polygon.iter() if part is not polygon]
    x = [_number(part.text) for part in inside if part.tag.rstrip("0123456789") == "x"]
    y = [_number(part.text) for part in inside if part.tag.rstrip("0123456789") == "y"]
    if len(x) < 2 or len(x) != len(y):
        raise ValueError("has neither a bndbox nor a polygon")
    return x, y


def _number(text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise ValueError(f"has a coordinate that is not a number: {text}") from None
    if not math.isfinite(value):
        raise ValueError("has a coordinate that is not finite")
    return value


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        height, width = (round(float(root.findtext(f"size/{key}") or 0)) for key in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None
