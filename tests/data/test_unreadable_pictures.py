"""Damaged pictures in sets: found beforehand, left out and named up to a share, refused where they decide."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.data.image_sets import image_shape, load_images
from effcli.data.unreadable_pictures import allow_unreadable, find_unreadable


def encoded(format: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, format)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_found_without_decoding_whole_ones(tmp_path, format):
    data = encoded(format)
    (tmp_path / "good").write_bytes(data)
    (tmp_path / "cut").write_bytes(data[: int(len(data) * 0.7)])
    (tmp_path / "empty").touch()
    (tmp_path / "trailing").write_bytes(data + bytes(100))  # as motion photos have: decoded to make sure
    files = [tmp_path / name for name in ("good", "cut", "empty", "trailing", "missing")]
    errors = find_unreadable(files)
    assert sorted(errors) == [1, 2, 4]
    assert [error.place for error in errors.values()] == [str(files[i]) for i in (1, 2, 4)]


def bad(n: int) -> list[InputError]:
    return [InputError("is empty (0 bytes)", place=f"{i}.png") for i in range(n)]


@pytest.mark.parametrize(("n_bad", "n"), [(0, 0), (1, 2), (1, 50), (2, 200), (10, 1000)])
def test_few_are_left_out_and_named(n_bad, n, caplog):
    allow_unreadable(bad(n_bad), n, "set", decides=False)
    assert caplog.messages[:1] == ["left out: 0.png: is empty (0 bytes)"][:n_bad]
    assert len(caplog.messages) == min(n_bad, 4)


@pytest.mark.parametrize(
    ("n_bad", "n", "decides"), [(1, 1, False), (2, 100, False), (1, 100, True), (3, 3, False)]
)
def test_too_many_or_deciding_ones_are_refused(n_bad, n, decides):
    with pytest.raises(InputError, match=r"0\.png: is empty") as caught:
        allow_unreadable(bad(n_bad), n, "set", decides=decides)
    if n_bad > 1:
        assert f"{n_bad} of {n} pictures cannot be read" in caught.value.message


def set_of(folder: Path, n: int = 4) -> Path:
    for name, grey in (("cat", 10), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(n):
            Image.new("L", (9, 9), grey).save(folder / name / f"{number}.png")
    return folder


def test_a_set_to_learn_from_does_without_one(tmp_path, caplog):
    set_of(tmp_path / "train")
    set_of(tmp_path / "val")
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"<html>not found</html>")
    found = load_images(tmp_path, "train", side=8, channels=1)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert found.images.float().mean((1, 2, 3)).tolist() == [10] * 3 + [200] * 4
    assert ["0.png: not an image but a web page" in message for message in caplog.messages] == [True]
    assert image_shape(tmp_path, "train") == (9, 1)  # the first one is the damaged one


def test_a_set_to_measure_on_does_not(tmp_path):
    set_of(tmp_path / "train")
    set_of(tmp_path / "val")
    (tmp_path / "val" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"val/cat/0\.png: is empty"):
        load_images(tmp_path, "eval", side=8, channels=1)


def test_many_damaged_ones_are_refused(tmp_path):
    set_of(tmp_path)
    for number in range(3):
        (tmp_path / "cat" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"3 of 8 pictures cannot be read, the first: .*cat/0\.png"):
        load_images(tmp_path, "train", side=8, channels=1)


def test_sets_with_classes_refuse_pictures_without(tmp_path):
    set_of(tmp_path)
    with pytest.raises(InputError, match="has no classes"):
        load_images(tmp_path / "cat", "train", side=8, channels=1, with_classes=True)
    assert load_images(tmp_path / "cat", "train", side=8, channels=1).classes == ("",)
    assert load_images(tmp_path, "train", side=8, channels=1, with_classes=True).classes == ("cat", "dog")
