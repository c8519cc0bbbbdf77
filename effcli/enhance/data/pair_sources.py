"""Where low/normal-light pairs come from: images in folders and tars, found and matched by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effcli.core.errors import InputError
from effcli.data.picture_folders import (
    by_preference,
    is_hidden,
    is_picture_name,
    list_pictures,
    part_of,
    say_left_out,
)
from effcli.data.stored_files import SPLITS, Split, StoredFile, index_tar
from effcli.enhance.data.exposure_stacks import find_scenes, stack_pairs

_SIDES = ("low", "high")
_LAYOUT_HINT = (
    "give a folder or an uncompressed tar with low/ and high/, train/ and eval/ with both in each, or a folder per "
    "scene with reference and darker pictures"
)


@dataclass(frozen=True)
class MatchedFiles:
    """What a source holds: (low, high) files by the name of the pair, files left without a partner, names held out."""

    pairs: Mapping[str, tuple[StoredFile, StoredFile]]
    unmatched: tuple[StoredFile, ...]
    held_out: frozenset[str] = frozenset()


def find_pairs(source: Path, split: Split | None, held_out: Collection[str] = ()) -> MatchedFiles:
    """The pairs of a folder or tar, sorted by name.

    Args:
        source: a folder, or an uncompressed tar, which is read in place.
        split: which half of a source with ``train/`` and ``eval/``; one with ``low/`` and ``high/`` at its
            top, or with exposure stacks, is used whole.
        held_out: names of pairs, or of the folders they are in, that ``train`` leaves out of a source that is used
            whole; where there are any, ``eval`` has these alone.

    Raises:
        InputError: nothing is there, no such split, no images in ``low/`` or ``high/``, or no common names.
    """
    index = index_images(source)
    if not index:
        if scenes := find_scenes(source):
            return _select(MatchedFiles(stack_pairs(scenes), ()), split, held_out)
        raise InputError("no images in low/ and high/", place=str(source), hint=_LAYOUT_HINT)
    tops = top_folders(index)
    if split not in tops and not tops & {"low", "high"}:
        message = f"no {split or 'low'}/ at the top, only {' and '.join(f'{top}/' for top in sorted(tops))}"
        raise InputError(message, place=str(source), hint=_LAYOUT_HINT)
    prefix = f"{split}/" if split in tops else ""
    low, high = (_below(index, f"{prefix}{side}/") for side in ("low", "high"))
    for side, files in (("low", low), ("high", high)):
        if not files:
            raise InputError(f"no images in {prefix}{side}/", place=str(source), hint=_LAYOUT_HINT)
    found = _match(source, low, high)
    return found if prefix else _select(found, split, held_out)


def is_held_out(name: str, held_out: Collection[str]) -> bool:
    """Whether a pair is in a list of names of pairs and folders."""
    return any(name == one or name.startswith(one.rstrip("/") + "/") for one in held_out)


def _select(found: MatchedFiles, split: Split | None, held_out: Collection[str]) -> MatchedFiles:
    """The share of a split in a source that has no parts."""
    held = frozenset(name for name in found.pairs if is_held_out(name, held_out))
    if not held or split is None:
        return found
    wanted = held if split == "eval" else found.pairs.keys() - held
    pairs = {name: found.pairs[name] for name in found.pairs if name in wanted}
    return MatchedFiles(pairs, found.unmatched, held)


def top_folders(index: Mapping[str, StoredFile]) -> set[str]:
    """The first parts of the names of an index: some of ``low``, ``high``, ``train`` and ``eval``."""
    return {name.split("/", 1)[0] for name in index}


def index_images(source: Path) -> dict[str, StoredFile]:
    """Every image of a folder or tar by its name from ``low``, ``high``, ``train`` or ``eval`` on.

    Raises:
        InputError: the source is missing, may not be read, or is not an uncompressed tar.
    """
    if not source.exists():
        raise InputError("no such file or folder", place=str(source))
    if not source.is_dir():
        return _index_tar(source)
    index: dict[str, StoredFile] = {}
    for prefix, top in _tops(source):
        for side in (one for one in _visible_folders(top) if one.name.lower() in _SIDES):
            found = list_pictures(side)
            say_left_out(found)
            names = (file.relative_to(side).as_posix() for file in found.files)
            files = map(StoredFile, found.files)
            index |= {f"{prefix}{side.name.lower()}/{n}": file for n, file in zip(names, files, strict=True)}
    return index


def _tops(source: Path) -> list[tuple[str, Path]]:
    """What may hold ``low/`` and ``high/``: the source itself, and its parts by their usual names."""
    names = [one.name for one in _visible_folders(source)]
    parts = {split: by_preference(names, split, source)[:1] for split in SPLITS}
    return [("", source), *((f"{split}/", source / name) for split in SPLITS for name in parts[split])]


def _visible_folders(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not is_hidden(one.name))
    except OSError as error:
        place = str(error.filename or folder)
        raise InputError(f"cannot be searched: {error.strerror}", place=place) from None


def _index_tar(source: Path) -> dict[str, StoredFile]:
    files = [(PurePosixPath(file.member or "").parts, file) for file in index_tar(source)]
    starts = [next((i for i, part in enumerate(parts) if _is_top(part)), None) for parts, _ in files]
    tops = {parts[start] for (parts, _), start in zip(files, starts, strict=True) if start is not None}
    split_of = {name: split for split in SPLITS for name in by_preference(tops, split, source)[:1]}
    index: dict[str, StoredFile] = {}
    roots: set[str] = set()
    for (parts, file), start in zip(files, starts, strict=True):
        if start is None or not is_picture_name("/".join(parts)):
            continue
        top, *below = parts[start:]
        if part_of(top) and top not in split_of:
            continue  # another part, which is said
        roots.add("/".join(parts[:start]))
        below = [below[0].lower(), *below[1:]] if top in split_of and below[0].lower() in _SIDES else below
        index["/".join([split_of.get(top, top.lower()), *below])] = file
    if len(roots) > 1:
        folders = ", ".join(f"'{root}/'" for root in sorted(roots))
        raise InputError(f"pairs below several folders: {folders}", place=str(source), hint=_LAYOUT_HINT)
    return index


def _is_top(folder: str) -> bool:
    return folder.lower() in _SIDES or part_of(folder) is not None


def _below(index: Mapping[str, StoredFile], prefix: str) -> dict[str, StoredFile]:
    return {name.removeprefix(prefix): file for name, file in index.items() if name.startswith(prefix)}


def _match(source: Path, low: Mapping[str, StoredFile], high: Mapping[str, StoredFile]) -> MatchedFiles:
    """Pair by name, then what is left by stem."""
    partners = {name: name for name in low.keys() & high.keys()}
    low_stems, high_stems = (_by_stem(files, partners) for files in (low, high))
    partners |= {low_stems[stem]: high_stems[stem] for stem in low_stems.keys() & high_stems.keys()}
    if not partners:
        raise InputError(
            f"no name in low/ is also in high/ ('{min(low)}' against '{min(high)}')",
            place=str(source),
            hint="pairs are matched by file name: give both images of a pair the same one",
        )
    taken = set(partners.values())
    unmatched = [low[name] for name in sorted(low.keys() - partners.keys())]
    unmatched += [high[name] for name in sorted(high.keys() - taken)]
    return MatchedFiles(
        {name: (low[name], high[partners[name]]) for name in sorted(partners)}, tuple(unmatched)
    )


def _by_stem(files: Mapping[str, StoredFile], taken: Mapping[str, str]) -> dict[str, str]:
    stems: dict[str, str] = {}
    for name in sorted(files.keys() - taken.keys()):
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in stems:
            message = f"'{stems[stem]}' and '{name}' are both candidates for one pair"
            raise InputError(
                message, place=files[name].place, hint="keep one of them, or give the pair one full name"
            )
        stems[stem] = name
    return stems
