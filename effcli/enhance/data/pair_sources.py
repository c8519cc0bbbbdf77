"""Where low/normal-light pairs come from: images in folders and tars, found and matched by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effcli.core.errors import InputError
from effcli.data.stored_files import SPLITS, Split, StoredFile, index_tar, is_image_name

_LAYOUT_HINT = (
    "give a folder or an uncompressed tar with low/ and high/, or train/ and eval/ with both in each"
)


@dataclass(frozen=True)
class MatchedFiles:
    """What a source holds: (low, high) files by the name of the pair, and files left without a partner."""

    pairs: Mapping[str, tuple[StoredFile, StoredFile]]
    unmatched: tuple[StoredFile, ...]


def find_pairs(source: Path, split: Split | None) -> MatchedFiles:
    """The pairs of a folder or tar, sorted by name.

    Args:
        source: a folder, or an uncompressed tar, which is read in place.
        split: which half of a source with ``train/`` and ``eval/``; one with ``low/`` and ``high/`` at its
            top is used whole.

    Raises:
        InputError: nothing is there, no such split, no images in ``low/`` or ``high/``, or no common names.
    """
    index = index_images(source)
    if not index:
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
    return _match(source, low, high)


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
    sides = [source / split / side for split in ("", *SPLITS) for side in ("low", "high")]
    try:
        return {
            path.relative_to(source).as_posix(): StoredFile(path)
            for side in sides
            for path in side.rglob("*")
            if is_image_name(path.name) and path.is_file()
        }
    except OSError as error:
        raise InputError(
            f"cannot be searched: {error.strerror}", place=str(error.filename or source)
        ) from None


def _index_tar(source: Path) -> dict[str, StoredFile]:
    index: dict[str, StoredFile] = {}
    roots: set[str] = set()
    for file in index_tar(source):
        parts = PurePosixPath(file.member or "").parts
        start = next((i for i, part in enumerate(parts) if part in {"low", "high", *SPLITS}), None)
        if start is not None and is_image_name(parts[-1]):
            roots.add("/".join(parts[:start]))
            index["/".join(parts[start:])] = file
    if len(roots) > 1:
        folders = ", ".join(f"'{root}/'" for root in sorted(roots))
        raise InputError(f"pairs below several folders: {folders}", place=str(source), hint=_LAYOUT_HINT)
    return index


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
