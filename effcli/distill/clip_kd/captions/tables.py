"""Tables of images and captions: CSV and TSV, read strictly.

A row that does not have as many fields as the header is left out with its line, and so is one whose quote is not
closed; neither takes other rows with it. Tab-separated files come with quoted fields and without; a file with a field
that begins with a quote and does not end with one is read without.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from effcli.core.errors import InputError
from effcli.core.files import read_text
from effcli.distill.clip_kd.captions.caption_set import (
    CaptionedName,
    CaptionSet,
    image_folder,
    is_file,
    need_paths,
    of_files,
    path_of,
)
from effcli.distill.clip_kd.captions.text_files import (
    CAPTION_COLUMNS,
    CAPTION_KEY,
    IMAGE_COLUMNS,
    IMAGE_KEY,
    choose_column,
)

_MOST_LINES = 100
"""Lines that one row may take."""


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        line: the number of its first line, from 1.
        fields: what it holds; empty where it does not fit.
        mistake: what is wrong with it.
    """

    line: int
    fields: list[str]
    mistake: str = ""


def read_table(file: Path, image_column: str | None, caption_column: str | None) -> CaptionSet:
    """A CSV or TSV with a header.

    Raises:
        InputError: it cannot be read, or has no columns of images and captions.
    """
    lines = list(io.StringIO(read_text(file), newline=""))
    start = next((n for n, line in enumerate(lines) if line.strip()), 0)
    first = lines[start] if lines else ""
    delimiter = max("\t,;|", key=first.count)
    header = _fields([first], delimiter) or []
    image = choose_column(str(file), header, image_column, IMAGE_COLUMNS, IMAGE_KEY)
    caption = choose_column(str(file), header, caption_column, CAPTION_COLUMNS, CAPTION_KEY)
    at, of = header.index(image), header.index(caption)

    def names_image(fields: Sequence[str]) -> bool:
        return len(fields) == len(header) and is_file(path_of(file.parent, fields[at]))

    rows = table_rows(lines, start + 1, delimiter, len(header), names_image)
    items = [
        CaptionedName(f"{file}:{row.line}", row.fields[at], row.fields[of]) for row in rows if row.fields
    ]
    left_out = [f"{file}:{row.line}: {row.mistake}" for row in rows if not row.fields]
    need_paths(items)
    folder = image_folder(items, [file.parent, *(file.parent / name for name in ("Images", "images"))])
    return of_files(items, folder, left_out)


def table_rows(
    lines: Sequence[str],
    start: int,
    delimiter: str,
    n_fields: int,
    names_image: Callable[[Sequence[str]], bool],
) -> list[TableRow]:
    """All rows of a table in their order, with those that do not fit.

    Args:
        lines: of the file, with their ends.
        start: the index of the first line below the header.
        delimiter: between fields.
        n_fields: of the header.
        names_image: whether these are the fields of a row with an image that is there.
    """
    rows = list(_quoted_rows(lines, start, delimiter, n_fields, names_image))
    if delimiter == "\t" and any("quote" in row.mistake for row in rows):
        plain = [(n + 1, line.rstrip("\r\n").split("\t")) for n, line in enumerate(lines) if n >= start]
        rows = [_checked(n, fields, n_fields) for n, fields in plain if any(map(str.strip, fields))]
    return rows


def _quoted_rows(
    lines: Sequence[str],
    start: int,
    delimiter: str,
    n_fields: int,
    names_image: Callable[[Sequence[str]], bool],
) -> Iterator[TableRow]:
    at = start
    while at < len(lines):
        line, n_lines = lines[at], 1
        if '"' not in line:
            if line.strip():
                yield _checked(at + 1, line.rstrip("\r\n").split(delimiter), n_fields)
        else:
            reader = csv.reader(
                itertools.islice(lines, at, at + _MOST_LINES), delimiter=delimiter, strict=True
            )
            try:
                fields = next(reader)
                n_lines = reader.line_num
            except csv.Error:
                yield TableRow(at + 1, [], "a quote that is not closed, or text behind a closed one")
            else:
                inside = lines[at + 1 : at + n_lines]
                if any(names_image(one.rstrip("\r\n").split(delimiter, n_fields - 1)) for one in inside):
                    yield TableRow(at + 1, [], "a quote that is not closed")
                    n_lines = 1
                else:
                    yield _checked(at + 1, fields, n_fields)
        at += n_lines


def _checked(line: int, fields: list[str], n_fields: int) -> TableRow:
    if len(fields) == n_fields:
        return TableRow(line, fields)
    hint = "; a caption with the separator in it needs quotes" if len(fields) > n_fields else ""
    return TableRow(line, [], f"{len(fields)} fields where the header has {n_fields}{hint}")


def _fields(lines: list[str], delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader(lines, delimiter=delimiter), None)
    except csv.Error as error:
        raise InputError(f"its header cannot be read: {error}") from None
