"""CSV and TSV are read strictly: no row is lost or glued to another without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from effcli.core.errors import InputError
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.sources import load_captions
from tests.distill.clip_kd.captions.caption_files import encoded, greys, save_grey


def read(folder: Path, text: str, name: str = "pairs.csv", n: int = 4, encoding: str = "utf-8") -> CaptionSet:
    for i in range(n):
        save_grey(folder / f"{i}.png", i)
    (folder / name).write_bytes(text.encode(encoding))
    return load_captions(folder / name, "train")


def test_a_caption_with_an_unquoted_comma_is_left_out_with_its_line(tmp_path: Path) -> None:
    pairs = read(tmp_path, "filepath,title\n0.png,a cat, with a hat\n1.png,a dog\n2.png\n")
    assert pairs.captions == (("a dog",),)
    assert [line.removeprefix(f"{tmp_path}/") for line in pairs.left_out] == [
        "pairs.csv:2: 3 fields where the header has 2; a caption with the separator in it needs quotes",
        "pairs.csv:4: 1 fields where the header has 2",
    ]


def test_quotes_that_begin_captions_of_a_tsv_are_part_of_them(tmp_path: Path) -> None:
    rows = ['0.png\t"so big', "1.png\ta dog", '2.png\tshe said "hi"', '3.png\t"hi" she said']
    pairs = read(tmp_path, "filepath\ttitle\n" + "\n".join(rows) + "\n", "pairs.tsv")
    assert pairs.captions == (('"so big',), ("a dog",), ('she said "hi"',), ('"hi" she said',))
    assert pairs.left_out == ()


def test_quoted_fields_of_a_tsv(tmp_path: Path) -> None:
    text = 'filepath\ttitle\n0.png\t"a ""big""\tcat"\n1.png\t"two\nlines"\n2.png\tplain\n'
    pairs = read(tmp_path, text, "pairs.tsv")
    assert pairs.captions == (('a "big" cat',), ("two lines",), ("plain",))


def test_a_quote_that_is_not_closed_takes_no_other_row_with_it(tmp_path: Path) -> None:
    pairs = read(tmp_path, 'filepath,title\n0.png,"so big\n1.png,a dog\n2.png,"a ""b"" c"\n3.png,"x\n')
    assert pairs.captions == (("a dog",), ('a "b" c',))
    assert [line.split(":")[1] for line in pairs.left_out] == ["2", "5"]
    assert all("a quote that is not closed" in line for line in pairs.left_out)


def test_captions_of_several_lines_stay_whole(tmp_path: Path) -> None:
    pairs = read(tmp_path, 'filepath,title\r\n0.png,"one,\r\ntwo\r\n\r\nthree"\r\n1.png,four\r\n')
    assert pairs.captions == (("one, two three",), ("four",))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_encodings_with_a_mark(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, "filepath,title\n0.png,ünï\n", encoding=encoding).captions == (("ünï",),)


def test_names_that_no_file_system_takes_are_missing_images(tmp_path: Path) -> None:
    pairs = read(tmp_path, f"filepath,title\n{'x' * 5000}.png,a\n0.png,b\n\0.png,c\n")
    assert pairs.captions == (("b",),) and len(pairs.left_out) == 2


def test_addresses_are_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names images by URL: https://x\.org/a\.png") as caught:
        read(tmp_path, "caption\turl\tfilepath\na cat\tx\thttps://x.org/a.png\n", "pairs.tsv")
    assert "download" in str(caught.value.hint)


def test_a_table_of_addresses_alone_says_that_they_are_not_followed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column of images: url, caption") as caught:
        read(tmp_path, "url,caption\nhttps://x.org/a.png,a cat\n")
    assert "URLs are not followed" in str(caught.value.hint)


def test_paths_that_windows_wrote(tmp_path: Path) -> None:
    (tmp_path / "im").mkdir()
    (tmp_path / "im" / "7.png").write_bytes(encoded(7))
    (tmp_path / "im\\8.png").write_bytes(encoded(8))  # a name with a backslash in it
    pairs = read(tmp_path, "filepath,title\nim\\7.png,seven\nim\\8.png,eight\nim\\9.png,nine\n")
    assert pairs.captions == (("seven",), ("eight",)) and greys(pairs) == [7, 8]
    assert len(pairs.left_out) == 1 and r"im\9.png" in pairs.left_out[0]


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 'title' twice"):
        read(tmp_path, "filepath,title,title\n0.png,a,b\n")


def test_images_in_a_folder_beside_the_table(tmp_path: Path) -> None:
    save_grey(tmp_path / "Images" / "a.png", 3)
    (tmp_path / "captions.txt").write_text("image,caption\na.png,one\na.png,two\n")
    assert load_captions(tmp_path / "captions.txt", "train").captions == (("one", "two"),)
