"""YOLO's text files: one per image, a line per object, and the names of the classes in a file of their own."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from effcli.continual.egor.data.labels.file_tree import FileTree, cleaned, part_of_path
from effcli.continual.egor.data.labels.keypoints import keypoint_numbers, seem_keypoints
from effcli.continual.egor.data.labels.labelled_images import LabelledBox, LabelledImage, Labels
from effcli.continual.egor.data.labels.left_out import named, shared_with_others
from effcli.core.errors import InputError
from effcli.core.text import counted
from effcli.data.picture_folders import part_of

_NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt", "labels.txt", "_darknet.labels")
_PARTS = ("train", "val", "valid", "test")
_NOTHING = (None, "", "null", "~")
_TURNED = 9
"""Numbers of a box that is given by its four corners, that of the class among them."""

WHOLE = ""
"""The part of a set without parts."""


@dataclass(frozen=True)
class YoloSet:
    """Where the images of each part are.

    Attributes:
        tree: the files.
        place: the file with the names of the classes, for messages.
        classes: their names.
        parts: part -> paths of its images; :data:`WHOLE` where there are no parts.
        n_more: numbers of keypoints after each box; None where the lines are boxes or polygons.
        notes: what else is worth saying.
    """

    tree: FileTree
    place: str
    classes: tuple[str, ...]
    parts: Mapping[str, Sequence[str]]
    n_more: int | None = None
    notes: tuple[str, ...] = ()


def names_file_in(tree: FileTree) -> str | None:
    """The path of the file that names the classes: a YAML file with ``names``, else ``classes.txt``, ``obj.names``, ...

    Of several that say the same, as one in each part, the first.

    Raises:
        InputError: there are several that differ.
    """
    yamls = [name for name in tree.ending(".yaml", ".yml") if _names_in(tree, name) is not None]
    found = yamls or [name for name in tree.files if name.rpartition("/")[2] in _NAME_FILES]
    if len({_text(tree, name) for name in found}) > 1 or len(yamls) > 1:
        raise InputError(
            f"has several files that name classes: {', '.join(found[:4])}",
            place=tree.place,
            hint="give the one that is meant",
        )
    return found[0] if found else None


def find_yolo(tree: FileTree, names_file: str) -> YoloSet:
    """The parts of a set, by its ``data.yaml``, or by its folders where there is only a list of names.

    Args:
        tree: the files.
        names_file: path of the file with the names.

    Raises:
        InputError: the file cannot be understood, or names images that are not there.
    """
    place = tree.files[names_file].place
    if names_file.lower().endswith((".yaml", ".yml")):
        classes = _names_in(tree, names_file)
        if classes is None:
            raise InputError("names no classes: there is no list 'names'", place=place)
        n_more = keypoint_numbers(_yaml(tree, names_file), place)
        return YoloSet(tree, place, classes, _parts_of_yaml(tree, names_file), n_more, _repeats(classes))
    classes = _listed_names(_text(tree, names_file), place)
    parts = defaultdict(list)
    for name in tree.pictures:
        parts[part_of_path(f"{name.rpartition('/')[0]}/") or WHOLE].append(name)
    if len(parts) > 1 and WHOLE in parts:
        raise InputError(
            f"{len(parts[WHOLE])} images lie beside the parts, the first is {parts[WHOLE][0]}",
            place=tree.place,
            hint="list the parts in a data.yaml",
        )
    return YoloSet(tree, place, classes, dict(parts), None, _repeats(classes))


def _listed_names(text: str, place: str) -> tuple[str, ...]:
    """One name per line.

    Raises:
        InputError: a line between them is empty: programs differ in whether it counts.
    """
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        raise InputError(
            f"line {lines.index('') + 1} is empty: the numbers of the classes after it are not certain",
            place=place,
            hint="remove the line, or write a name for its class",
        )
    return tuple(lines)


def _repeats(classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{counted(n, 'class', 'classes')} called {name!r} are taken as one"
        for name, n in Counter(classes).items()
        if n > 1
    )


def read_yolo(found: YoloSet, part: str) -> Labels:
    """The labels of a part: rectangles, polygons and turned boxes, of which the upright box around them is taken.

    Keypoints after a box are left out. An image without a file of labels shows nothing that is labelled.

    Raises:
        InputError: the part has no images, or none of them has labels.
    """
    place = found.place if part == WHOLE else f"{found.place}, {part}"
    mistakes: list[str] = []
    images, lines = [], []
    files = {name: _labels_of(found.tree, name) for name in found.parts[part]}
    for name, labels in files.items():
        boxes = []
        for number, line in enumerate(() if labels is None else _text(found.tree, labels).splitlines(), 1):
            if not line.strip():
                continue
            lines.append(line.split())
            try:
                boxes.append(_box(lines[-1], found.classes, found.n_more))
            except ValueError as error:
                mistakes.append(f"{labels}:{number} {error}")
        images.append(LabelledImage(name, found.tree.files[name], None, boxes))
    _refuse_counted_from_one({line[0] for line in lines}, len(found.classes), place)
    _refuse_unsaid_keypoints(lines, found, place)
    n_without = sum(one is None for one in files.values())
    if images and n_without == len(images):
        raise InputError(
            f"none of {len(images)} images has labels: no {_label_paths(images[0].name)[0]}", place=place
        )
    notes = [*found.notes, *shared_with_others(found.parts, part), *_unclear_labels(found, files)]
    if n_without:
        notes.append(f"{n_without} of {len(images)} images have no file of labels")
    return Labels(place, "YOLO", "centres", images, found.classes, mistakes, len(lines), notes)


def _labels_of(tree: FileTree, image: str) -> str | None:
    return next((one for one in _label_paths(image) if one in tree.files), None)


def _unclear_labels(found: YoloSet, files: Mapping[str, str | None]) -> list[str]:
    """What is to be said of files of labels: those of two images, and those in the same folders without an image."""
    n_images = Counter(one for one in files.values() if one is not None)
    shared = [name for name, n in n_images.items() if n > 1]
    notes = named(shared, "file of labels", "files of labels", "of several images, taken for each")
    folders = {name.rpartition("/")[0] for name in n_images}
    known = {one for name in found.tree.pictures for one in _label_paths(name)}
    alone = [
        name
        for name in found.tree.ending(".txt")
        if name.rpartition("/")[0] in folders
        and name not in known
        and name.rpartition("/")[2] not in _NAME_FILES
        and any(line[:1].isdigit() for line in _text(found.tree, name).splitlines()[:1])
    ]
    return notes + named(alone, "file of labels", "files of labels", "without an image, left out")


def _refuse_unsaid_keypoints(lines: Sequence[Sequence[str]], found: YoloSet, place: str) -> None:
    """Refuse boxes with keypoints that nothing says are such: they would be taken for polygons."""
    if found.n_more is not None or not lines or len(lines[0]) <= _TURNED or len(set(map(len, lines))) > 1:
        return
    try:
        numbers = [[float(word) for word in line] for line in lines]
    except ValueError:
        return
    if seem_keypoints(numbers):
        raise InputError(
            f"its lines seem to be boxes with keypoints ({len(lines[0])} numbers), not polygons",
            place=place,
            hint="write kpt_shape: [keypoints, 2 or 3] into the data.yaml",
        )


def _refuse_counted_from_one(words: set[str], n: int, place: str) -> None:
    """Refuse class numbers that reach ``n`` and never are 0: each box would be of the class after its own."""
    if str(n) in words and words <= set(map(str, range(1, n + 1))):
        raise InputError(
            f"its class numbers are 1 to {n}; YOLO's are 0 to {n - 1}",
            place=place,
            hint="subtract 1 from each, or put the name of class 0 before the others",
        )


def _names_in(tree: FileTree, name: str) -> tuple[str, ...] | None:
    """The classes that a YAML file names, in the order of their numbers; None where it names none."""
    content = _yaml(tree, name)
    names = content.get("names")
    if isinstance(names, Mapping):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise InputError(
                f"names: the numbers of {len(names)} classes are not 0 to {len(names) - 1}",
                place=tree.files[name].place,
            )
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        return None
    if content.get("nc") not in (*_NOTHING, str(len(names))):
        raise InputError(
            f"nc is {content['nc']}, but there are {len(names)} names", place=tree.files[name].place
        )
    return tuple(map(str, names))


def _yaml(tree: FileTree, name: str) -> Mapping[str, Any]:
    try:
        content = yaml.load(
            _text(tree, name), Loader=yaml.BaseLoader
        )  # all scalars are texts: a class may be "no"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise InputError(f"not valid YAML{where}", place=tree.files[name].place) from None
    return content if isinstance(content, Mapping) else {}


def _parts_of_yaml(tree: FileTree, name: str) -> dict[str, list[str]]:
    content = _yaml(tree, name)
    root = "" if content.get("path") in _NOTHING else cleaned(str(content["path"]))
    parts = {}
    for part in _PARTS:
        value = content.get(part)
        given = value if isinstance(value, list) else [] if value in _NOTHING else [value]
        images = [one for entry in given for one in _images_of(tree, str(entry), root, name)]
        if given and not images:
            raise InputError(f"{part}: no images in {given[0]}", place=tree.files[name].place)
        if images:
            parts[part] = images
    if not parts:
        raise InputError("names no images: there is no train, val or test", place=tree.files[name].place)
    return parts


def _images_of(tree: FileTree, entry: str, root: str, names_file: str) -> list[str]:
    """The images of an entry of a YAML file: a folder, or a list of paths in a .txt.

    Its folder is looked for below ``path``, below the YAML file and, as the paths may be those of another computer, by
    the end of the path; but ``valid/images`` is not ``images``.
    """
    base = names_file.rpartition("/")[0]
    wanted = cleaned(entry)
    ends = [cleaned(f"{one}/{wanted}") for one in (f"{base}/{root}", base, root, "")]
    parts = cleaned(f"{root}/{wanted}").split("/")
    ends += [
        cleaned(f"{base}/{'/'.join(parts[i:])}")
        for i in range(1, len(parts))
        if any(map(part_of, parts[i:])) or not any(map(part_of, parts))
    ]
    if wanted.lower().endswith(".txt"):
        listing = next((end for end in ends if end in tree.files), None)
        find = tree.finder(listing or "")
        own = {id(file): path for path, file in tree.files.items()}
        lines = _text(tree, listing).split("\n") if listing else []
        found = [(line.strip(), find(line.strip())) for line in lines if line.strip()]
        missing = [line for line, file in found if file is None]
        if missing:
            raise InputError(
                f"lists {len(missing)} images that are not there, the first is {missing[0]}",
                place=tree.files[listing or ""].place,
            )
        return [own[id(file)] for _, file in found]
    for end in ends:
        inside = [one for one in tree.pictures if not end or one.startswith(f"{end}/")]
        if inside:
            return inside
    return []


def _label_paths(image: str) -> list[str]:
    """Where the labels of an image may be: in ``labels/`` in place of its last ``images/``, or beside it."""
    path = PurePosixPath(image)
    beside = path.with_suffix(".txt")
    parts = list(beside.parts)
    swapped = []
    for i in reversed(range(len(parts) - 1)):
        if parts[i].lower() == "images":
            name = {"Images": "Labels", "IMAGES": "LABELS"}.get(parts[i], "labels")
            swapped.append("/".join([*parts[:i], name, *parts[i + 1 :]]))
            break
    return [*swapped, beside.as_posix()]


def _box(words: Sequence[str], classes: Sequence[str], n_more: int | None) -> LabelledBox:
    """One line; with ``n_more`` numbers of keypoints after the box.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"has words that are not numbers: {' '.join(words)[:60]}") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError("has numbers that are not finite")
    if not numbers[0].is_integer() or not 0 <= numbers[0] < len(classes):
        raise ValueError(f"is of class {words[0]}, there are {len(classes)} names")
    name, rest = classes[int(numbers[0])], numbers[1:]
    if n_more is not None and len(rest) not in (4, 4 + n_more):
        raise ValueError(f"has {len(words)} numbers, not {5 + n_more} as kpt_shape says")
    if n_more is not None or len(rest) == 4:
        return LabelledBox(name, (rest[0], rest[1], rest[2], rest[3]))
    if len(rest) < 6 or len(rest) % 2:
        more = "; the last may be a score (save_conf) or an angle" if len(rest) > 4 else ""
        raise ValueError(f"has {len(words)} numbers, not 5 or those of a polygon{more}")
    left, right = _ends(rest[::2])
    top, bottom = _ends(rest[1::2])
    return LabelledBox(name, ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top))


def _ends(values: Iterable[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[-1]


def _text(tree: FileTree, name: str) -> str:
    try:
        return tree.files[name].read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", place=tree.files[name].place) from None
