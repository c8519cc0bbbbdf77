"""The files of a set, in a folder or an uncompressed tar, and how those are found that labels name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote

from effcli.data.picture_folders import is_hidden, is_picture_name, part_in, part_of
from effcli.data.stored_files import StoredFile, index_tar

FindFile: TypeAlias = Callable[[str], StoredFile | None]
"""The file that labels name, or None."""


class FileTree:
    """Files by their path inside a folder or tar; hidden and system files do not count.

    Args:
        place: the folder or tar.
        files: path with slashes -> file.
    """

    def __init__(self, place: str, files: Mapping[str, StoredFile]) -> None:
        self.place = place
        self.files = dict(sorted(files.items()))

    @classmethod
    def of_folder(cls, folder: Path) -> FileTree:
        """All files below a folder; links are followed, each folder is searched once."""
        files, seen = {}, set()
        for place, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            own = os.path.realpath(place)
            if own in seen:
                folders.clear()
                continue
            seen.add(own)
            for name in names:
                if not is_hidden(name):
                    file = Path(place, name)
                    files[file.relative_to(folder).as_posix()] = StoredFile(file)
        return cls(str(folder), files)

    @classmethod
    def of_tar(cls, tar: Path) -> FileTree:
        """All files of an uncompressed tar.

        Raises:
            InputError: it is none.
        """
        files = {cleaned(str(file.member)): file for file in index_tar(tar)}
        return cls(str(tar), {n: f for n, f in files.items() if not any(map(is_hidden, n.split("/")))})

    @cached_property
    def pictures(self) -> list[str]:
        """Paths of the pictures."""
        return [name for name in self.files if is_picture_name(name)]

    @cached_property
    def _by_base(self) -> Mapping[str, Sequence[str]]:
        """Paths by the last part, and in small letters where no file is called so."""
        found, small = defaultdict(list), defaultdict(list)
        for name in self.files:
            found[name.rpartition("/")[2]].append(name)
            small[name.rpartition("/")[2].lower()].append(name)
        return {**small, **found}

    def ending(self, *endings: str) -> list[str]:
        """Paths of files with one of some extensions, in any case."""
        return [name for name in self.files if name.lower().endswith(endings)]

    def finder(self, labels: str) -> FindFile:
        """How files are found that the labels at a path name.

        The longest end of the name that fits counts; of several files that fit, those of the labels' own part, then
        those that lie nearest. Where none fits, letters may be small or capital, and ``%20`` is a space.
        """

        def find(name: str) -> StoredFile | None:
            wanted = cleaned(name).split("/")
            plain = unquote(wanted[-1])
            ways = (wanted[-1], plain, wanted[-1].lower(), plain.lower())
            candidates = next((self._by_base[way] for way in ways if way in self._by_base), ())
            if len(candidates) > 1:
                candidates = _best(candidates, lambda one: _common(one.split("/")[::-1], wanted[::-1]))
            found = self.nearest(candidates, labels)
            return None if found is None else self.files[found]

        return find

    def nearest(self, candidates: Sequence[str], labels: str) -> str | None:
        """Of paths the one of the labels' own part, or of none, that lies nearest to them; None where several do."""
        part, folders = part_of_path(labels), labels.split("/")[:-1]
        parts = {one: part_of_path(one) for one in candidates}
        own = [one for one in candidates if parts[one] == part]
        candidates = own or [one for one in candidates if part is None or parts[one] is None]
        candidates = _best(candidates, lambda one: _common(one.split("/")[:-1], folders))
        return candidates[0] if len(candidates) == 1 else None


def _best(candidates: Sequence[str], worth: Callable[[str], int]) -> Sequence[str]:
    most = max(map(worth, candidates), default=0)
    return [one for one in candidates if worth(one) == most]


def part_of_path(path: str) -> str | None:
    """The part that a path is of: by a word of the file's own name, else by the nearest folder's name."""
    *folders, name = path.split("/")
    return part_in(PurePosixPath(name).stem) or next(
        (part for folder in reversed(folders) if (part := part_of(folder) or part_in(folder))), None
    )


def near_files(roots: Sequence[Path], labels: Path) -> FindFile:
    """How files are found that a single label file names: in some folders, or in folders in them, of the same part."""
    inside = [p for root in roots for p in (root, *sorted(root.glob("*/")), *sorted(root.glob("images/*/")))]
    own = part_in(labels.stem)
    places = [p for p in inside if p in roots or part_in(p.name) in (None, own)]
    in_small_letters = cache(lambda: _in_small_letters(places))

    def find(name: str) -> StoredFile | None:
        wanted = cleaned(name)
        ends = dict.fromkeys(
            one for way in (wanted, unquote(wanted)) for one in (way, way.rpartition("/")[2])
        )
        files = (place / end for end in ends for place in places)
        exact = next((StoredFile(file) for file in files if file.is_file()), None)
        found = (in_small_letters().get(end.lower()) for end in ends)
        return exact or next((file for file in found if file is not None), None)

    return find


def _in_small_letters(places: Sequence[Path]) -> dict[str, StoredFile]:
    """Pictures in folders, by their names in small letters, where just one is called so."""
    found = defaultdict(list)
    for file in (file for place in places if place.is_dir() for file in place.iterdir()):
        if is_picture_name(file.name):
            found[file.name.lower()].append(StoredFile(file))
    return {name: files[0] for name, files in found.items() if len(files) == 1}


def cleaned(name: str) -> str:
    """A path with slashes, without drives, ``.`` and ``..``."""
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..") and not part.endswith(":"))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of the first items are the same."""
    return next(
        (n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b))
    )
