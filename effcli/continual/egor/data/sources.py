"""Where the labels of a set are: COCO, YOLO or Pascal VOC in a folder, a tar or a file; or in the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import torch

from effcli.continual.egor.data.checked_labels import checked
from effcli.continual.egor.data.detection_sets import DetectionSet, ObjectBoxes
from effcli.continual.egor.data.garment_scenes import GARMENT_SCENES, garment_scenes
from effcli.continual.egor.data.labels.coco import read_coco, tool_of
from effcli.continual.egor.data.labels.file_tree import FileTree, near_files, part_of_path
from effcli.continual.egor.data.labels.labelled_images import Labels
from effcli.continual.egor.data.labels.voc import VocSet, find_voc, read_voc
from effcli.continual.egor.data.labels.yolo import WHOLE, YoloSet, find_yolo, names_file_in, read_yolo
from effcli.core.errors import InputError
from effcli.core.text import counted
from effcli.data.picture_folders import by_preference
from effcli.data.stored_files import SPLITS, Split

HINT = (
    "give COCO annotations (a .json), a data.yaml of YOLO, a folder or an uncompressed tar with COCO, YOLO or "
    f"Pascal VOC labels and the images, or {GARMENT_SCENES}"
)
_NOT_BOXES = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
"""How files of COCO begin that lie beside those with boxes."""

_OTHER_JSON = ("notes.json", "info.json", "metadata.json", "report.json")


@dataclass(frozen=True)
class FoundLabels:
    """The labels of a source, not yet read.

    Attributes:
        kind: COCO, YOLO or Pascal VOC.
        parts: part -> how it is read; the empty name stands for a set without parts.
    """

    kind: str
    parts: Mapping[str, Callable[[], Labels]]


def load_detection(source: str, split: Split, images: str | None = None) -> DetectionSet:
    """Read a set.

    Args:
        source: a COCO ``.json`` or a ``data.yaml`` of YOLO; a folder or an uncompressed tar with COCO, YOLO or Pascal
            VOC labels and the images; or ``builtin:garment-scenes``.
        split: which part; a set without parts is used whole.
        images: folder of the images of a ``.json``; None looks beside it and in the folder above.

    Raises:
        InputError: something is missing, or the labels cannot be understood. A small share of images may be missing
            and of annotations may be wrong; they are left out and named in the log.
    """
    if source == GARMENT_SCENES:
        return _garments(split)
    found = find_labels(source, images)
    word = _word(found, split)
    if word is None:
        names = " and ".join(found.parts)
        raise InputError(
            f"has {names}, but no {split} part",
            place=source,
            hint="a .json that is given itself is used whole",
        )
    return checked(found.parts[word](), split)


def refuse_without_boxes(labelled: DetectionSet, place: str) -> None:
    """Refuse a set in which nothing is labelled.

    Raises:
        InputError: it has no classes.
    """
    if not labelled.classes:
        raise InputError(
            f"no box that can be learned from or measured on in {counted(len(labelled), 'image')}",
            place=place,
            hint="`effcli continual inspect` says what is read of the labels",
        )


def load_all(source: str) -> dict[str, DetectionSet]:
    """All parts of a set by their own names, ``all`` for one without parts; pictures that cannot be read are left out.

    Raises:
        InputError: the labels cannot be understood.
    """
    if source == GARMENT_SCENES:
        return {split: _garments(split) for split in SPLITS}
    return {part or "all": checked(read(), "train") for part, read in find_labels(source).parts.items()}


def has_parts(source: str) -> bool:
    """Whether a source has a part of its own to measure on."""
    if source == GARMENT_SCENES:
        return True
    found = find_labels(source)
    return WHOLE not in found.parts and _word(found, "eval") is not None


def _word(found: FoundLabels, split: Split) -> str | None:
    if set(found.parts) == {WHOLE}:
        return WHOLE
    return next(iter(by_preference(found.parts, split)), None)


def find_labels(source: str, images: str | None = None) -> FoundLabels:
    """The labels that a source holds.

    Raises:
        InputError: there are none, or of several kinds, or several of a kind.
    """
    path = Path(source)
    if not path.exists():
        raise InputError("no such file or folder", place=source, hint=HINT)
    ending = path.suffix.lower()
    if path.is_dir():
        return _in_tree(FileTree.of_folder(path))
    if ending == ".json":
        find = near_files([Path(images)] if images else [path.parent, path.parent.parent], path)
        return FoundLabels("COCO", {WHOLE: lambda: read_coco(path.read_bytes(), source, find)})
    if ending in (".yaml", ".yml", ".names"):
        return _of_yolo(find_yolo(FileTree.of_folder(path.parent), path.name))
    if ending in (".zip", ".gz", ".tgz", ".7z", ".rar"):
        raise InputError(
            f"is a compressed archive ({ending})", place=source, hint="unpack it, and give the folder"
        )
    if ending not in ("", ".tar"):
        raise InputError(f"unknown file extension {ending!r}", place=source, hint=HINT)
    return _in_tree(FileTree.of_tar(path))


def _in_tree(tree: FileTree) -> FoundLabels:
    jsons, names_file, voc = _coco_files(tree), names_file_in(tree), find_voc(tree)
    found = [_coco(tree, jsons)] if jsons else []
    found += [_of_yolo(find_yolo(tree, names_file))] if names_file else []
    found += [_of_voc(voc)] if voc else []
    if len(found) > 1:
        raise InputError(
            f"holds labels of several kinds: {' and '.join(one.kind for one in found)}",
            place=tree.place,
            hint="give the .json or the data.yaml that is meant, or move the others away",
        )
    if not found:
        n = len(tree.pictures)
        what = f"{counted(n, 'image')} without labels" if n else "no images and no labels"
        raise InputError(f"holds {what}", place=tree.place, hint=HINT)
    return found[0]


def _of_yolo(found: YoloSet) -> FoundLabels:
    return FoundLabels("YOLO", {part: partial(read_yolo, found, part) for part in found.parts})


def _of_voc(found: VocSet) -> FoundLabels:
    return FoundLabels("Pascal VOC", {part: partial(read_voc, found, part) for part in found.parts})


def _coco_files(tree: FileTree) -> list[str]:
    """Files that may be COCO's, those in ``annotations/`` before others, without captions and the like."""
    files = [name for name in tree.ending(".json") if name.rpartition("/")[2].lower() not in _OTHER_JSON]
    inside = [name for name in files if "annotations" in name.lower().split("/")[:-1]]
    files = inside or files
    boxes = [name for name in files if not name.rpartition("/")[2].startswith(_NOT_BOXES)]
    return boxes or files


def _coco(tree: FileTree, files: list[str]) -> FoundLabels:
    """By part: the word of a file's name or of its folder's."""
    parts: dict[str, str] = {}
    for name in files:
        part = part_of_path(name) or _piece(PurePosixPath(name).stem) or WHOLE
        if part in parts:
            if (tool := tool_of(tree.files[name].read())) is not None:
                raise InputError(
                    f"not COCO files but {len(files)} .json, the first {tool}",
                    place=tree.place,
                    hint="export the labels as COCO, YOLO or Pascal VOC",
                )
            what = "for the whole set" if part == WHOLE else f"of the part {part}"
            raise InputError(
                f"has several .json {what}: {parts[part]} and {name}",
                place=tree.place,
                hint="give the one that is meant",
            )
        parts[part] = name
    if len(parts) > 1:
        parts.pop(WHOLE, None)
    return FoundLabels("COCO", {part: partial(_read_packed, tree, name) for part, name in parts.items()})


def _read_packed(tree: FileTree, name: str) -> Labels:
    file = tree.files[name]
    return read_coco(file.read(), file.place, tree.finder(name))


def _piece(stem: str) -> str | None:
    """The part that is a piece of a name without being a word of it."""
    return next((part for part in ("train", "eval", "val", "test") if part in stem.lower()), None)


def _garments(split: Split) -> DetectionSet:
    scenes, boxes, classes = garment_scenes(split)
    objects = tuple(
        ObjectBoxes(one, labels, torch.zeros(len(one), dtype=torch.bool)) for one, labels in boxes
    )
    sizes = tuple((scene.shape[1], scene.shape[2]) for scene in scenes)
    names = tuple(f"scene-{i}" for i in range(len(scenes)))
    return DetectionSet(lambda i: scenes[i], sizes, objects, classes, names, kind="scenes in the package")
