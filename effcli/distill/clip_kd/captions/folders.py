"""Folders of images with captions or classes, as people have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from effcli.core.files import read_text
from effcli.data.picture_folders import (
    ClassFolders,
    FoundPictures,
    by_preference,
    class_folders,
    has_part,
    is_hidden,
    list_pictures,
    part_folder,
    part_in,
    part_of,
    say_left_out,
    say_once,
)
from effcli.data.stored_files import Split, StoredFile
from effcli.distill.clip_kd.captions.caption_set import CLASS_CAPTION, CaptionedName, CaptionSet, of_files
from effcli.distill.clip_kd.captions.lists import listed, read_list
from effcli.distill.clip_kd.captions.tables import read_table
from effcli.distill.clip_kd.captions.tars import read_tars, shards_of

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
"""The captions of a folder of the `datasets` library; paths are relative to the file's folder."""

_SIDECARS = (".txt", ".caption")


def read_folder(
    folder: Path, split: Split, image_column: str | None, caption_column: str | None
) -> CaptionSet:
    """The pairs of one part of a folder.

    Raises:
        InputError: it holds none, or what it holds cannot be read.
    """
    for name in (f"captions_{split}.json", "captions.json"):
        if (folder / name).is_file():
            items, left_out = listed(read_text(folder / name), str(folder / name), split)
            parts = by_preference([one.name for one in folder.iterdir() if one.is_dir()], split)
            return of_files(items, folder / parts[0] if parts else folder, left_out)
    if lists := _coco_lists(folder, split):
        return read_list(lists[0], split, image_column, caption_column)
    if table := next((folder / name for name in _METADATA if (folder / name).is_file()), None):
        return _only_part(read_metadata(table, split, image_column, caption_column), folder, split)
    top = part_folder(folder, split)
    if shards := shards_of(str(top)):
        return read_tars(shards, split)
    if table := next((top / name for name in _METADATA if (top / name).is_file()), None):
        return read_metadata(table, split, image_column, caption_column)
    images = list_pictures(top)
    if any(path.with_suffix(side).is_file() for path in images.files for side in _SIDECARS):
        return _of_sidecars(images)
    return _of_classes(class_folders(folder, split))


def has_own_part(folder: Path, split: Split) -> bool:
    """Whether a folder has a part for a split: a list of its own, or a sub-folder."""
    return (
        (folder / f"captions_{split}.json").is_file()
        or bool(_coco_lists(folder, split))
        or has_part(folder, split)
    )


def read_metadata(
    file: Path, split: Split, image_column: str | None, caption_column: str | None
) -> CaptionSet:
    """A list by its extension: .json and .jsonl, or a table."""
    if file.suffix.lower() in {".json", ".jsonl", ".ndjson"}:
        return read_list(file, split, image_column, caption_column)
    return read_table(file, image_column, caption_column)


def _coco_lists(folder: Path, split: Split) -> list[Path]:
    """COCO's files of captions for a split, in the folder or in its ``annotations``; the first is used."""
    wanted = ("train",) if split == "train" else ("val", "test")
    files = [*folder.glob("captions_*.json"), *(folder / "annotations").glob("captions_*.json")]
    named = [(part_in(one.stem), one) for one in files if not is_hidden(one.name)]
    found = sorted((wanted.index(part), one) for part, one in named if part in wanted)
    return [one for _, one in found]


def _only_part(pairs: CaptionSet, folder: Path, split: Split) -> CaptionSet:
    """Of a list of a whole folder the images in the sub-folder of a split, where it has parts."""
    inside = [
        image.path.relative_to(folder).parts[0] if isinstance(image, StoredFile) else ""
        for image in pairs.images
    ]
    used = by_preference({name for name in inside if part_of(name)}, split, folder)
    if not used:
        return pairs
    return pairs.select([i for i, name in enumerate(inside) if name == used[0]])


def _of_sidecars(images: FoundPictures) -> CaptionSet:
    say_left_out(images, used=set(_SIDECARS))
    items: list[CaptionedName] = []
    left_out = []
    for path in images.files:
        sides = [side for one in _SIDECARS if (side := path.with_suffix(one)).is_file()]
        if not sides:
            left_out.append(f"{path}: no {path.with_suffix(_SIDECARS[0]).name} beside it")
            continue
        if len(sides) > 1:
            say_once(f"{images.folder}: {_SIDECARS[0]} is used, not {_SIDECARS[1]}, where an image has both")
        lines = [line for line in read_text(sides[0]).splitlines() if line.strip()] or [""]
        items += [CaptionedName(str(sides[0]), str(path), line) for line in lines]
    found = of_files(items, Path())
    return replace(found, left_out=(*found.left_out, *left_out))


def _of_classes(found: ClassFolders) -> CaptionSet:
    if not found.classes:
        return CaptionSet((), (), left_out=tuple(f"{p}: neither a caption nor a class" for p in found.files))
    classes = tuple(map(readable, found.classes))
    return CaptionSet(
        tuple(map(StoredFile, found.files)),
        tuple((CLASS_CAPTION.format(classes[label]),) for label in found.labels),
        found.labels,
        classes,
    )


def readable(name: str) -> str:
    """The name of a class as words."""
    return name.replace("_", " ").strip()
