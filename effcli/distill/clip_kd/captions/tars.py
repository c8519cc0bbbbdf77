"""Images with captions in tars: WebDataset shards, or a list of captions in JSON beside the images.

A sample is all members with one key: the name up to the last dot of its picture, or up to the first dot of its last
part. Its captions are in .txt, one per line, else in .caption, else in the .json; its class is in .cls.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from effcli.core.errors import InputError
from effcli.core.files import decoded, read_text
from effcli.core.text import counted
from effcli.data.picture_folders import (
    by_preference,
    is_hidden,
    is_picture_name,
    left_out_text,
    part_of,
    say_once,
)
from effcli.data.stored_files import Split, StoredFile, index_tar
from effcli.distill.clip_kd.captions.caption_set import CLASS_CAPTION, CaptionSet, one_line
from effcli.distill.clip_kd.captions.lists import listed
from effcli.distill.clip_kd.captions.text_files import captions_of

CLASS_NAMES_FILE = "classnames.txt"
"""Beside the shards or above them: the name of class n in line n, as clip_benchmark's sets have it."""
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
"""Beside it: a sentence about a class per line."""

_USED = {".txt", ".json", ".caption", ".cls", ".npy"}
_Members: TypeAlias = Mapping[str, StoredFile]


def read_tars(shards: list[Path], split: Split) -> CaptionSet:
    """WebDataset shards, or tars with a list of captions in JSON.

    Raises:
        InputError: a shard cannot be read or has two members of one name, or its classes have no names.
    """
    images: list[StoredFile] = []
    captions: list[tuple[str, ...]] = []
    classes: list[str] = []
    left_out: list[str] = []
    for shard in shards:
        members = _members(shard)
        texts, labels, lost = _texts_of(shard, members, split)
        left_out += lost
        for name, lines in texts.items():
            label = labels.get(name, "")
            good = tuple(one_line(line) for line in lines if line.strip())
            if name not in members:
                left_out.append(f"{shard}:{name}: no such image")
            elif not good and not label:
                left_out.append(f"{shard}:{name}: no caption")
            else:
                images.append(members[name])
                captions.append(good)
                classes.append(label)
    _say_shared_keys(images, shards[0])
    return _with_classes(images, captions, classes, shards, left_out)


def _say_shared_keys(images: Sequence[StoredFile], first: Path) -> None:
    keys = Counter((file.path, PurePosixPath(file.member or "").with_suffix("")) for file in images)
    n = sum(count > 1 for count in keys.values())
    if n:
        say_once(
            f"{first}: {counted(n, 'key')} with several images: each image counts, with the captions of its key"
        )


def _members(shard: Path) -> dict[str, StoredFile]:
    files = index_tar(shard)
    members = {file.member or "": file for file in files}
    if len(members) < len(files):
        name, n = Counter(file.member or "" for file in files).most_common(1)[0]
        raise InputError(
            f"holds {name!r} {n} times",
            place=str(shard),
            hint="give each sample its own key: otherwise it is not known which text belongs to which image",
        )
    _say_left_out_of_tar(shard, members)
    return members


def _texts_of(
    shard: Path, members: _Members, split: Split
) -> tuple[dict[str, list[str]], dict[str, str], list[str]]:
    """Captions of images by name, classes of images by name, and what is left out."""
    parts = by_preference(filter(None, set(map(_part_folder_of, members))), split, shard)[:1]
    lists = [n for n in (f"captions_{split}.json", "captions.json") if n in members]
    if lists:
        place = f"{shard}:{lists[0]}"
        items, left_out = listed(decoded(members[lists[0]].read(), place), place, split)
        found: dict[str, list[str]] = {}
        for _, file, caption in items:
            inside = next((f"{p}/{file}" for p in parts if f"{p}/{file}" in members), file)
            found.setdefault(inside, []).append(caption)
        return found, {}, left_out
    used = (None, *parts)
    names = [n for n in members if is_picture_name(n) and _part_folder_of(n) in used]
    labels = {n: text[0] for n in names if (text := _lines(members, n, ".cls"))}
    return {n: _captions(members, n) for n in names}, labels, []


def _captions(members: _Members, image: str) -> list[str]:
    for suffix in (".txt", ".caption", ".json"):
        if lines := _lines(members, image, suffix):
            return lines
    return []


def _lines(members: _Members, image: str, suffix: str) -> list[str]:
    """The lines of a sample's member with a suffix; of .json those of its captions."""
    path = PurePosixPath(image)
    key = str(path.with_name(path.name.partition(".")[0]))
    names = (str(path.with_suffix(suffix)), key + suffix, f"{key}.caption{suffix}", f"{key}.text{suffix}")
    file = next((members[name] for name in names if name in members), None)
    if file is None:
        return []
    text = decoded(file.read(), file.place)
    if suffix != ".json":
        return [line for line in text.splitlines() if line.strip()]
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", place=file.place) from None
    return [line for line in captions_of(content) or [] if line.strip()] if isinstance(content, dict) else []


def _with_classes(
    images: Sequence[StoredFile],
    captions: Sequence[tuple[str, ...]],
    classes: Sequence[str],
    shards: Sequence[Path],
    left_out: Sequence[str],
) -> CaptionSet:
    if not any(classes):
        return CaptionSet(tuple(images), tuple(captions), left_out=tuple(left_out))
    if not all(classes):
        n = sum(not one for one in classes)
        raise InputError(f"{n} of {len(classes)} samples have no .cls", place=str(shards[0]))
    names = _class_names(classes, shards[0])
    known = tuple(names) if all(one.isdigit() for one in classes) else tuple(sorted(set(classes)))
    labels = [int(one) if one.isdigit() else known.index(one) for one in classes]
    texts = [
        own or (CLASS_CAPTION.format(known[label]),) for own, label in zip(captions, labels, strict=True)
    ]
    templates = _class_templates(shards[0])
    return CaptionSet(
        tuple(images), tuple(texts), tuple(labels), known, tuple(left_out), class_templates=templates
    )


def _class_names(classes: Sequence[str], shard: Path) -> list[str]:
    if not all(one.isdigit() for one in classes):
        return []
    file = _beside(shard, CLASS_NAMES_FILE)
    if file is None:
        raise InputError(
            "its classes are numbers without names",
            place=str(shard),
            hint=f"put {CLASS_NAMES_FILE} beside the shards: the name of class n in line n, from 0",
        )
    names = [line.strip() for line in read_text(file).strip().splitlines()]
    if (most := max(map(int, classes))) >= len(names):
        raise InputError(f"has {len(names)} names, but there is a class {most}", place=str(file))
    return names


def _class_templates(shard: Path) -> tuple[str, ...]:
    """The sentences about a class in the file that clip_benchmark has beside its shards, where {c} is the name."""
    file = _beside(shard, TEMPLATES_FILE)
    if file is None:
        return (CLASS_CAPTION,)
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    wrong = next((line for line in lines if line.count("{c}") != 1 or line.count("{") != 1), None)
    if wrong is not None or not lines:
        raise InputError(
            "has no templates" if wrong is None else f"{{c}} must occur once in each line: {wrong!r}",
            place=str(file),
        )
    return tuple(line.replace("{c}", "{}") for line in lines)


def _beside(shard: Path, name: str) -> Path | None:
    files = [folder / name for folder in (shard.parent, shard.parent.parent)]
    return next((one for one in files if one.is_file()), None)


def has_part_in(tar: Path, split: Split) -> bool:
    """Whether a tar has a folder for a split."""
    folders = {_part_folder_of(file.member or "") for file in index_tar(tar)}
    return bool(by_preference(filter(None, folders), split))


def _part_folder_of(member: str) -> str | None:
    """The first folder in a member's path that has the name of a part."""
    return next((folder for folder in PurePosixPath(member).parts[:-1] if part_of(folder)), None)


def _say_left_out_of_tar(shard: Path, members: Iterable[str]) -> None:
    others = [PurePosixPath(name) for name in members if not is_picture_name(name)]
    kinds = Counter(one.suffix.lower() or "other" for one in others if not any(map(is_hidden, one.parts)))
    if text := left_out_text({kind: n for kind, n in kinds.items() if kind not in _USED}):
        say_once(f"{shard}: left out: {text}")


def shards_of(name: str) -> list[Path]:
    """The tars that a name stands for: one, a-{000..012}.tar, or a folder's; none where it is something else.

    Raises:
        InputError: one of them is missing.
    """
    span = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*\.tar)", name)
    if span:
        before, first, last, after = span.groups()
        numbers = range(int(first), int(last) + 1)
        shards = [Path(f"{before}{number:0{len(first)}d}{after}") for number in numbers]
        if missing := [shard for shard in shards if not shard.is_file()]:
            raise InputError(f"{len(missing)} of {len(shards)} shards are missing", place=str(missing[0]))
        return shards
    path = Path(name)
    if path.suffix == ".tar" and path.is_file():
        return [path]
    inside = path.glob("*.tar") if path.is_dir() else []
    return sorted(shard for shard in inside if not is_hidden(shard.name))
