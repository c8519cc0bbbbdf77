"""Images with captions, by the name of what holds them.

Classes are read where the source has any (the sub-folders of a folder, .cls in shards, the labels of an .npz), for
zero-shot classification; they also caption images that have no caption of their own.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from effcli.core.errors import InputError
from effcli.core.tensor_file import BUILTIN_PREFIX
from effcli.data.stored_files import Split
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.folders import has_own_part, read_folder, read_metadata
from effcli.distill.clip_kd.captions.lists import has_parts
from effcli.distill.clip_kd.captions.packed import has_split_in, read_npz
from effcli.distill.clip_kd.captions.tars import has_part_in, read_tars, shards_of
from effcli.distill.clip_kd.reinforced.format import reinforced_folder
from effcli.distill.clip_kd.reinforced.reading import read_reinforced

_LISTS = {".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"}
_HINT = (
    "give a CSV or a list in JSON with image paths and captions, WebDataset .tar shards, a folder with NAME.txt beside"
    " NAME.jpg or with metadata.csv or captions.json, a packed .npz, or builtin:twemoji-captions"
)


def load_captions(
    source: str | Path, split: Split, *, image_column: str | None = None, caption_column: str | None = None
) -> CaptionSet:
    """Read a set.

    Args:
        source: a .csv or .tsv file; a .json or .jsonl list, also COCO's and Karpathy's; a .tar, several as
            ``a-{000..012}.tar``, or a folder of them; a folder or tar with ``captions_<split>.json`` or
            ``captions.json``; a folder with ``metadata.csv`` or ``metadata.jsonl``, with ``NAME.txt`` or
            ``NAME.caption`` beside each image, or with sub-folders that are classes; an .npz with
            ``<split>_png``/``_jpeg``, ``<split>_offsets`` and ``<split>_captions`` or ``<split>_labels``; or
            ``builtin:NAME``.
            Reinforced data, too, or a run that wrote them.
        split: which part; a source without parts is used whole.
        image_column, caption_column: of a table or list; found by their usual names where they are None.

    Raises:
        InputError: nothing is there, it cannot be read, or it holds no pair.
    """
    name = str(source)
    if name.startswith(BUILTIN_PREFIX):
        name = str(files("effcli.assets") / f"{name.removeprefix(BUILTIN_PREFIX)}.npz")
    if folder := reinforced_folder(name):
        return read_reinforced(folder)
    shards = shards_of(name)
    path = Path(name)
    if not shards and not path.exists():
        raise InputError("no such file or folder", place=str(source), hint=_HINT)
    if path.suffix == ".npz":
        found = read_npz(path, split, str(source))
    elif path.is_file() and path.suffix.lower() in _LISTS:
        found = read_metadata(path, split, image_column, caption_column)
    elif shards:
        found = read_tars(shards, split)
    elif path.is_dir():
        found = read_folder(path, split, image_column, caption_column)
    else:
        raise InputError("is not a set of captions", place=str(source), hint=_HINT)
    if not len(found):
        reasons = f": {found.left_out[0]}" if found.left_out else ""
        raise InputError(f"holds no image with a caption{reasons}", place=str(source), hint=_HINT)
    return found


def has_split(source: str | Path, split: Split) -> bool:
    """Whether a source has a part of its own for ``split``."""
    name = str(source)
    path = Path(name)
    if name.startswith(BUILTIN_PREFIX):
        return True
    if reinforced_folder(name):
        return False
    if path.suffix == ".npz" and path.is_file():
        return has_split_in(path, split)
    if path.is_dir():
        return has_own_part(path, split)
    if path.suffix == ".tar" and path.is_file():
        return has_part_in(path, split)
    return path.suffix == ".json" and path.is_file() and has_parts(path)
