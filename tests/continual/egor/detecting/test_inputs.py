"""What detect looks at, and where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from effcli.continual.egor.detecting.inputs import check_outputs, find_inputs
from effcli.core.errors import InputError, UsageError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.png", "deep/er/a.png", "deep/b.jpg", "deep/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "notes.txt").write_text("x")
    (folder / "film.mp4").write_bytes(b"x")
    return folder


def test_folders_are_searched_and_keep_their_form(photos: Path, tmp_path: Path) -> None:
    inputs = find_inputs([str(photos)], None)
    assert [one.inner.as_posix() for one in inputs] == ["a.png", "deep/b.jpg", "deep/b.png", "deep/er/a.png"]
    out = tmp_path / "out"
    drawn = check_outputs(inputs, str(out), "drawn", force=False)
    names = ["a.png", "deep/b.jpg.png", "deep/b.png.png", "deep/er/a.png"]
    assert drawn == [out / name for name in names]
    texts = check_outputs(inputs, str(out), "yolo", force=False)
    assert texts[0] == out / "labels/a.txt"
    assert not out.exists()


def test_a_pipe_a_file_and_a_video(photos: Path, tmp_path: Path) -> None:
    (piped,) = find_inputs(["-"], b"content")
    assert (piped.source, piped.name, piped.is_video) == (b"content", "stdin", False)
    assert check_outputs([piped], "-", "drawn", force=False) == [None]
    assert check_outputs([piped], str(tmp_path / "x.jpg"), "drawn", force=False) == [tmp_path / "x.jpg"]
    (film,) = find_inputs([str(photos / "film.mp4")], None)
    assert film.is_video
    assert check_outputs([film], str(tmp_path / "out"), "drawn", force=False) == [tmp_path / "out/film.mp4"]


@pytest.mark.parametrize(
    ("names", "output", "form", "message"),
    [
        (["a.png"], "x.txt", "drawn", r"unknown file extension '\.txt'"),
        (["a.png", "deep/b.jpg"], "x.png", "drawn", "2 inputs need a folder, not a file"),
        (["a.png", "deep/b.jpg"], "-", "drawn", "2 inputs need a folder"),
        (["a.png", "deep/b.jpg"], None, "yolo", "2 inputs need a folder"),
        (["a.png"], "-", "yolo", "YOLO labels are a folder"),
        (["film.mp4"], "out", "coco", "coco is for pictures, not for videos"),
        (["film.mp4"], "-", "drawn", "a video is not written to a pipe"),
        (["film.mp4"], "x.png", "drawn", r"unknown file extension '\.png'"),
        (["a.png"], "photos", "drawn", "is an input"),
        (["deep/b.jpg"], "photos/deep", "drawn", "already exists"),
    ],
)
def test_what_cannot_be_written_is_refused(
    names: list[str],
    output: str | None,
    form: str,
    message: str,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos.parent)
    inputs = find_inputs([f"photos/{name}" for name in names], None)
    with pytest.raises(UsageError, match=message):
        check_outputs(inputs, output, form, force=False)  # type: ignore[arg-type]


def test_what_is_not_there_or_holds_no_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_inputs([str(tmp_path / "nowhere")], None)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match=r"no images in it \(left out: 1 \.txt\)"):
        find_inputs([str(tmp_path)], None)


def test_pictures_of_one_name_in_cocos_file_are_refused(photos: Path) -> None:
    inputs = find_inputs([str(photos), str(photos / "deep/er")], None)
    with pytest.raises(UsageError, match=r"would both be called a\.png in COCO's file"):
        check_outputs(inputs, None, "coco", force=False)
