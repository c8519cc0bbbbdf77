"""Lists of images and captions in JSON: lists and lines of objects, COCO's captions, Karpathy's splits.

What an object is, its keys say; one that is none of these is refused, with what it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effcli.core.errors import InputError
from effcli.core.files import read_text
from effcli.data.picture_folders import part_in
from effcli.data.stored_files import Split
from effcli.distill.clip_kd.captions.caption_set import (
    CaptionedName,
    CaptionSet,
    image_folder,
    need_paths,
    of_files,
)
from effcli.distill.clip_kd.captions.text_files import (
    CAPTION_COLUMNS,
    CAPTION_KEY,
    IMAGE_COLUMNS,
    IMAGE_KEY,
    captions_of,
    choose_column,
)

_KARPATHY_PARTS = {"train": ("train", "restval"), "eval": ("val", "test")}
_HINT = (
    "a list of objects with file_name and caption, one object per line, COCO's captions_*.json, "
    "or a Karpathy split (dataset_*.json)"
)


def read_list(
    file: Path, split: Split, image_key: str | None = None, caption_key: str | None = None
) -> CaptionSet:
    """A .json or .jsonl file; images are looked for beside it, and where COCO has them.

    Raises:
        InputError: it cannot be read, or is another kind of file.
    """
    items, left_out = listed(read_text(file), str(file), split, image_key, caption_key)
    need_paths(items)
    return of_files(items, image_folder(items, list(_image_folders(file))), left_out)


def has_parts(file: Path) -> bool:
    """Whether a .json file is a Karpathy split, which has parts of its own."""
    text = read_text(file) if file.suffix.lower() == ".json" else ""
    if '"sentences"' not in text or '"split"' not in text:
        return False
    try:
        return _kind(json.loads(text)) == "karpathy"
    except ValueError:
        return False


def listed(
    text: str, place: str, split: Split, image_key: str | None = None, caption_key: str | None = None
) -> tuple[list[CaptionedName], list[str]]:
    """Names and captions of a text in JSON, and what is left out of it, one line each.

    Args:
        text: one value of JSON, or one object per line.
        place: the file, for messages.
        split: which part, where it says itself which image is of which.
        image_key, caption_key: of objects; found by their usual names where they are None.

    Raises:
        InputError: it is something else.
    """
    content = _parsed(text, place)
    kind = _kind(content)
    if kind == "coco":
        return _of_coco(content, place)
    if kind == "karpathy":
        return _of_karpathy(content, split), []
    if isinstance(content, Mapping):
        content = [{IMAGE_COLUMNS[0]: name, CAPTION_COLUMNS[0]: value} for name, value in content.items()]
    return _of_objects(content, place, image_key, caption_key)


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"not valid JSON: {error}", place=place, hint=_HINT) from None
    except ValueError as error:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2 or not lines[0][1].lstrip().startswith("{"):
            raise InputError(f"not valid JSON: {error}", place=place, hint=_HINT) from None
    objects = []
    for number, line in lines:
        try:
            objects.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"not valid JSON: {error}", place=f"{place}:{number}", hint=_HINT) from None
    return objects


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        return "objects"
    first = content["images"][0] if content["images"] else None
    if isinstance(first, Mapping) and isinstance(first.get("sentences"), list):
        return "karpathy"
    return "coco" if isinstance(content.get("annotations"), list) else "objects"


def _of_coco(content: Mapping[str, Any], place: str) -> tuple[list[CaptionedName], list[str]]:
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        rows = [(one["image_id"], str(one["caption"])) for one in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"has images and annotations as COCO's files, but not their {error}",
            place=place,
            hint="captions_train2017.json has captions; instances_*.json has boxes",
        ) from None
    items = [
        CaptionedName(f"{place}:annotation {n}", names[i], text)
        for n, (i, text) in enumerate(rows)
        if i in names
    ]
    n_lost = len(rows) - len(items)
    return items, [f"{place}: {n_lost} captions of images that it does not list"] if n_lost else []


def _of_karpathy(content: Mapping[str, Any], split: Split) -> list[CaptionedName]:
    items = []
    for number, image in enumerate(content["images"]):
        if image.get("split") in _KARPATHY_PARTS[split]:
            name = str(Path(image.get("filepath", "")) / str(image.get("filename", "")))
            texts = captions_of(image["sentences"]) or [""]
            items += [CaptionedName(f"image {number}", name, text) for text in texts]
    return items


def _of_objects(
    content: Any, place: str, image_key: str | None, caption_key: str | None
) -> tuple[list[CaptionedName], list[str]]:
    if not isinstance(content, list) or not content or not isinstance(content[0], Mapping):
        raise InputError("is not a list of images and captions", place=place, hint=_HINT)
    first = list(map(str, content[0]))
    image = choose_column(place, first, image_key, IMAGE_COLUMNS, IMAGE_KEY)
    caption = choose_column(place, first, caption_key, CAPTION_COLUMNS, CAPTION_KEY)
    items, left_out = [], []
    for number, entry in enumerate(content, 1):
        name = entry.get(image) if isinstance(entry, Mapping) else None
        texts = captions_of(entry[caption]) if isinstance(entry, Mapping) and caption in entry else None
        if not isinstance(name, str) or texts is None:
            left_out.append(f"{place}:{number}: no {image} and {caption} in it")
        else:
            items += [CaptionedName(f"{place}:{number}", name, text) for text in texts or [""]]
    return items, left_out


def _image_folders(file: Path) -> list[Path]:
    """Where the images of a list may lie, the most likely first: COCO's are in ``../train2017``."""
    here, above = file.parent, file.parent.parent
    word = file.stem.rpartition("_")[2]  # train2017 of captions_train2017
    parts = [word] if part_in(file.stem) else []
    below = [Path(), *map(Path, parts), Path("images"), *(Path("images") / one for one in parts)]
    return [top / one for top in (here, above) for one in below]
