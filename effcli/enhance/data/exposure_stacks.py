"""Exposure stacks: one folder per scene with darker pictures of it and ``reference``, what they should become.

The stacks of `SICE <https://doi.org/10.1109/TIP.2018.2794218>`_ have this form. Every darker picture of a scene makes a
pair with the reference, called SCENE/NAME.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath

from effcli.core.errors import InputError
from effcli.data.picture_folders import is_picture_name, list_pictures, say_left_out, say_once
from effcli.data.stored_files import StoredFile, index_tar

REFERENCE = "reference"

Scene = dict[str, StoredFile]
"""The pictures of a scene by their names without ending."""


def find_scenes(source: Path) -> dict[str, Scene]:
    """The scenes of a folder or an uncompressed tar by their folders' names; empty where no folder has a reference.

    A folder without a reference, or with nothing beside it, is no scene: it is left out, which is said.

    Raises:
        InputError: the source cannot be searched, or a scene has two pictures of one name.
    """
    scenes: dict[str, Scene] = defaultdict(dict)
    for name, file in _pictures(source):
        *folders, picture = PurePosixPath(name).parts
        if folders:
            scene, stem = scenes["/".join(folders)], PurePosixPath(picture).stem.lower()
            if stem in scene:
                message = f"has the same name as {scene[stem].place} but for its ending"
                raise InputError(message, place=file.place, hint="keep one of them")
            scene[stem] = file
    whole = [name for name in sorted(scenes) if REFERENCE in scenes[name] and len(scenes[name]) > 1]
    if whole and (others := sorted(scenes.keys() - set(whole))):
        say_once(
            f"{source}: left out: {len(others)} folders without a reference or darker pictures, as {others[0]}/"
        )
    return {name: scenes[name] for name in whole}


def stack_pairs(scenes: dict[str, Scene]) -> dict[str, tuple[StoredFile, StoredFile]]:
    """(darker picture, reference) by the name SCENE/NAME, sorted."""
    return {
        f"{scene}/{name}": (files[name], files[REFERENCE])
        for scene, files in scenes.items()
        for name in sorted(files)
        if name != REFERENCE
    }


def _pictures(source: Path) -> list[tuple[str, StoredFile]]:
    """Every picture of a source with its name from the source on."""
    if source.is_dir():
        found = list_pictures(source)
        say_left_out(found)
        return [(file.relative_to(source).as_posix(), StoredFile(file)) for file in found.files]
    return [(file.member, file) for file in index_tar(source) if file.member and is_picture_name(file.member)]
