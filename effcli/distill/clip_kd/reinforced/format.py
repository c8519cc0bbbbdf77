"""The format of reinforced data: WebDataset shards whose samples hold a teacher's embeddings.

A folder has ``reinforced.json``, which :class:`ReinforcedHeader` describes, and ``shard-00000.tar``, …; per sample:

- ``KEY.jpg`` (or another extension of a picture): the image as it was;
- ``KEY.txt``: its captions, one per line;
- ``KEY.cls``: its class, a line number of ``classnames.txt`` from 0, where there are classes;
- ``KEY.json``: ``captions``, and ``views``: for each view its crop as ``[left, top, right, bottom]`` in pixels of the
  upright image, or null for the whole image;
- ``KEY.views.npy``: float16 ``[views, D]``, the embedding of each view;
- ``KEY.captions.npy``: float16 ``[captions, D]``, the embedding of each caption.

Embeddings have unit length; those of several teachers stand side by side, D is the sum of their widths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from effcli.core.errors import InputError
from effcli.core.files import read_json
from effcli.core.weight_file import first_mistake
from effcli.data.stored_files import StoredFile

HEADER_FILE = "reinforced.json"
VIEWS, CAPTIONS, ABOUT = ".views.npy", ".captions.npy", ".json"
NPY_HEADER_BYTES = 128
"""Of an array of two axes as ``numpy.save`` writes it."""
_HINT = f"a folder that `effcli distill reinforce` wrote, with {HEADER_FILE}"

_Count = Annotated[int, Field(ge=1)]


class ReinforcedTeacher(BaseModel):
    """A teacher whose embeddings are stored.

    Attributes:
        source: the name it was loaded by.
        fingerprint: a checksum of its weights and preprocessing.
        dim: width of its embeddings.
        scale: what its cosines are multiplied by.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    source: str
    fingerprint: str
    dim: _Count
    scale: Annotated[float, Field(gt=0)]


class ReinforcedShard(BaseModel):
    """A shard: its file, and what must be in it."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=r"^[^/\\]+\.tar$")]
    images: _Count
    size_bytes: _Count


class ReinforcedHeader(BaseModel):
    """What ``reinforced.json`` holds."""

    model_config = ConfigDict(strict=True)

    format: Literal["effcli.reinforced"]
    version: Literal["1"]
    views: _Count
    teachers: Annotated[list[ReinforcedTeacher], Field(min_length=1)]
    shards: Annotated[list[ReinforcedShard], Field(min_length=1)]

    @property
    def dims(self) -> tuple[int, ...]:
        """The widths of the teachers' embeddings."""
        return tuple(one.dim for one in self.teachers)


class StoredEmbeddings(NamedTuple):
    """Where a sample's embeddings are.

    Attributes:
        about: the member with its crops.
        views: the member with the embeddings of its views.
        captions: the member with those of its captions.
    """

    about: StoredFile
    views: StoredFile
    captions: StoredFile


def read_header(folder: Path) -> ReinforcedHeader:
    """What a folder of reinforced data says.

    Raises:
        InputError: it is another kind of folder, or of another version.
    """
    file = folder / HEADER_FILE
    content: dict[str, Any] = read_json(file, hint=_HINT)
    try:
        return ReinforcedHeader.model_validate(content)
    except ValidationError as error:
        raise InputError(first_mistake(error), place=str(file), hint=_HINT) from None


def header_text(header: ReinforcedHeader) -> str:
    """As it is written."""
    return json.dumps(header.model_dump(), indent=2) + "\n"


def reinforced_folder(source: str | Path) -> Path | None:
    """The folder of reinforced data that a name means: itself, or ``data`` in a run; None for other data."""
    for folder in (Path(source), Path(source) / "data"):
        if (folder / HEADER_FILE).is_file():
            return folder
    return None
