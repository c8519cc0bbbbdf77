"""Images with captions in tars: WebDataset shards, or a list of captions in JSON beside the images."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from effcli.core.errors import InputError
from effcli.data.picture_folders import (
    by_preference,
    is_hidden,
    is_picture_name,
    left_out_text,
    part_of,
    say_once,
)
from effcli.data.stored_files import Split, StoredFile, index_tar


def read_tars(
    shards: list[Path], split: Split
) -> tuple[tuple[StoredFile, ...], tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """WebDataset shards, or tars with a list of captions in JSON.

    Returns:
        Images, the captions of each, and what is left out, one line each.

    Raises:
        InputError: a shard cannot be read.
    """
    images: list[StoredFile] = []
    captions: list[tuple[str, ...]] = []
    left_out: list[str] = []
    for shard in shards:
        members = {file.member or "": file for file in index_tar(shard)}
        _say_left_out_of_tar(shard, members)
        parts = by_preference(filter(None, set(map(_part_folder_of, members))), split, shard)[:1]
        lists = [n for n in (f"captions_{split}.json", "captions.json") if n in members]
        texts: dict[str, list[str]] = {}
        if lists:
            for file, caption in listed(members[lists[0]].read().decode("utf-8"), f"{shard}:{lists[0]}"):
                texts.setdefault(file, []).append(caption)
            found = {
                next((f"{p}/{n}" for p in parts if f"{p}/{n}" in members), n): c for n, c in texts.items()
            }
        else:
            used = (None, *parts)
            found = {
                n: _sidecar(members, n) for n in members if is_picture_name(n) and _part_folder_of(n) in used
            }
        for name, lines in found.items():
            good = tuple(" ".join(line.split()) for line in lines if line.strip())
            if name not in members:
                left_out.append(f"{shard}:{name}: no such image")
            elif not good:
                left_out.append(f"{shard}:{name}: no caption")
            else:
                images.append(members[name])
                captions.append(good)
    return tuple(images), tuple(captions), tuple(left_out)


def _sidecar(members: Mapping[str, StoredFile], image: str) -> list[str]:
    text = members.get(str(PurePosixPath(image).with_suffix(".txt")))
    return [] if text is None else text.read().decode("utf-8", errors="replace").splitlines()


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
    if text := left_out_text({kind: n for kind, n in kinds.items() if kind not in (".txt", ".json")}):
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


def listed(text: str, place: str) -> list[tuple[str, str]]:
    """File names and captions of a list in JSON.

    Raises:
        InputError: it is something else.
    """
    try:
        return [(str(entry["file_name"]), str(entry["caption"])) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"is not a list of file_name and caption: {error}", place=place) from None
