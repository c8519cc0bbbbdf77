"""Folders of pictures: what counts, what is left out and said, parts by all their names, and classes."""

import os
from pathlib import Path

import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.data.picture_folders import (
    by_preference,
    class_folders,
    has_part,
    is_picture_name,
    left_out_text,
    list_pictures,
    need_classes,
    part_folder,
    part_in,
    part_of,
)


def picture(path: Path, grey: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(folder: Path, files: tuple[Path, ...]) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]


# Listing


def test_hidden_and_system_files_and_folders_never_count(tmp_path):
    picture(tmp_path / "a.png")
    hidden = ["._a.png", ".b.png", "__MACOSX/a.png", ".ipynb_checkpoints/a.png", ".thumbnails/a.jpg"]
    hidden += ["Thumbs.db", "desktop.ini", "sub/.DS_Store", "@eaDir/a.jpg", "sub/__MACOSX/._a.png"]
    touch(*(tmp_path / name for name in hidden))
    found = list_pictures(tmp_path)
    assert names(tmp_path, found.files) == ["a.png"] and found.left_out == {}


def test_a_hidden_folder_that_is_given_is_searched(tmp_path):
    picture(tmp_path / ".cache" / "a.png")
    assert len(list_pictures(tmp_path / ".cache").files) == 1


def test_every_extension_in_any_case_and_the_order_of_paths(tmp_path):
    good = [
        "b.PNG",
        "a/z.jpg",
        "a/b/1.JPEG",
        "c.jfif",
        "d.gif",
        "e.avif",
        "f.ppm",
        "g.Tiff",
        "h.webp",
        "10.bmp",
    ]
    touch(*(tmp_path / name for name in good))
    found = list_pictures(tmp_path)
    assert list(found.files) == sorted(tmp_path / name for name in good)
    direct = list_pictures(tmp_path, recursive=False)
    assert len(direct.files) == 8 and direct.left_out == {"sub-folders": 1}


@pytest.mark.usefixtures("without_heic")
def test_what_is_left_out_is_counted_by_extension(tmp_path):
    touch(*(tmp_path / name for name in ("a.HEIC", "b/c.heic", "d.txt", "e", "f.mp4")))
    found = list_pictures(tmp_path)
    assert found.left_out == {".heic": 2, ".txt": 1, "without an extension": 1, ".mp4": 1}
    text = "2 .heic (pip install 'effcli[heic]'), 1 .mp4, 1 .txt, 1 without an extension"
    assert left_out_text(found.left_out) == text


def test_links_are_followed_and_circles_are_not(tmp_path):
    picture(tmp_path / "elsewhere" / "deep" / "a.png")
    root = tmp_path / "set"
    picture(root / "cat" / "1.png")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cow.png").symlink_to(tmp_path / "elsewhere" / "deep" / "a.png")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    (root / "cat" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(root / "cat")
    (root / "self").symlink_to("self")
    found = list_pictures(root)
    assert names(root, found.files) == [
        "cat/1.png",
        "cow.png",
        "dog/back/1.png",
        "dog/deep/a.png",
        "gone.png",
    ]


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert list_pictures(tmp_path).left_out == {"pipes or devices": 1}


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be searched"):
        list_pictures(tmp_path / "missing")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.png", True),
        ("./a/b.JPG", True),
        ("../a.png", True),
        ("__MACOSX/a/._b.png", False),
        ("a/.hidden/b.png", False),
        ("a/b.txt", False),
        ("png", False),
    ],
)
def test_names_in_tars(path, expected):
    assert is_picture_name(path) is expected


# Parts


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TRN", "train"),
        ("val", "val"),
        ("Valid", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("Test", "test"),
        ("testing", "test"),
        ("EVAL", "test"),
        ("evaluation", "test"),
        ("trains", None),
        ("cat", None),
    ],
)
def test_names_of_parts(name, part):
    assert part_of(name) == part


def test_parts_inside_names():
    found = [
        part_in(n) for n in ("instances_val2017", "Train-images", "latest", "person_keypoints_test", "x")
    ]
    assert found == ["val", "train", None, "test", None]


def test_which_part_is_used_to_measure_is_said(caplog, tmp_path):
    assert by_preference(["test", "Val", "train"], "eval", tmp_path) == ["Val", "test"]
    assert caplog.messages == [f"{tmp_path}: Val/ is used to measure on, not test/"]
    assert by_preference(["test", "eval", "val"], "eval") == ["eval", "val", "test"]


@pytest.mark.parametrize(
    ("train", "held"), [("Train", "Test"), ("training", "validation"), ("train", "val"), ("TRN", "Dev")]
)
def test_a_folder_of_parts_is_never_taken_for_classes(tmp_path, train, held):
    picture(tmp_path / train / "cat" / "1.png")
    picture(tmp_path / held / "cat" / "2.png")
    for found, folder in ((class_folders(tmp_path, "train"), train), (class_folders(tmp_path, "eval"), held)):
        assert found.classes == ("cat",) and found.folder == tmp_path / folder and len(found.files) == 1
    assert has_part(tmp_path, "eval")


def test_a_part_that_is_not_there_is_refused(tmp_path):
    picture(tmp_path / "train" / "cat" / "1.png")
    assert not has_part(tmp_path, "eval")
    assert part_folder(tmp_path, "train") == tmp_path / "train"
    with pytest.raises(InputError, match=r"has train/, but no part to measure on"):
        class_folders(tmp_path, "eval")


def test_what_lies_beside_parts_is_said(tmp_path, caplog):
    picture(tmp_path / "train" / "cat" / "1.png")
    picture(tmp_path / "val" / "cat" / "1.png")
    picture(tmp_path / "more" / "1.png")
    picture(tmp_path / "stray.png")
    touch(tmp_path / "annotations" / "x.json")
    part_folder(tmp_path, "train")
    assert caplog.messages == [f"{tmp_path}: left out, as it lies beside the parts: more/, 1 picture"]


def test_a_class_called_train_is_asked_about(tmp_path):
    for name in ("bus", "car", "train"):
        picture(tmp_path / name / "1.png")
    with pytest.raises(InputError, match=r"train/ may be a part of the set or a class beside bus/"):
        class_folders(tmp_path, "train")


# Classes


@pytest.mark.usefixtures("without_heic")
def test_classes_strays_and_empty_folders(tmp_path, caplog):
    for n in range(2):
        picture(tmp_path / "dog" / f"{n}.png")
        picture(tmp_path / "cat" / "deep" / f"{n}.png")
    picture(tmp_path / "stray.png")
    touch(tmp_path / "fox" / "a.heic", tmp_path / "README.md", tmp_path / "__MACOSX" / "dog" / "._0.png")
    found = class_folders(tmp_path, "train")
    assert (found.classes, found.labels) == (("cat", "dog"), (0, 0, 1, 1))
    assert names(tmp_path, found.files) == ["cat/deep/0.png", "cat/deep/1.png", "dog/0.png", "dog/1.png"]
    assert caplog.messages == [
        f"{tmp_path}: left out: 1 .heic (pip install 'effcli[heic]'), 1 .md",
        f"{tmp_path}: left out: 1 picture beside the class folders",
        f"{tmp_path}: left out: class folders without pictures: fox",
        f"{tmp_path}: pictures in sub-folders of a class folder count for that class: cat/deep",
    ]
    class_folders(tmp_path, "train")
    assert len(caplog.messages) == 4  # each is said once


def test_linked_class_folders_are_classes(tmp_path):
    picture(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "set").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    assert class_folders(tmp_path / "set", "train").labels == (0, 1)


def test_the_folder_of_one_class_is_no_set_of_classes(tmp_path):
    picture(tmp_path / "new" / "fox" / "1.png")
    found = class_folders(tmp_path / "new" / "fox", "train")
    assert (found.classes, found.labels) == ((), ())
    with pytest.raises(InputError, match="has no classes") as caught:
        need_classes(found)
    assert str(tmp_path / "new") in str(caught.value.hint) and "'fox'" in str(caught.value.hint)
    assert need_classes(class_folders(tmp_path / "new", "train")).classes == ("fox",)


def test_more_strays_than_pictures_of_classes_are_refused(tmp_path):
    for n in range(3):
        picture(tmp_path / f"{n}.png")
    picture(tmp_path / "edited" / "1.png")
    with pytest.raises(InputError, match="3 pictures lie beside class folders that hold 1 picture"):
        class_folders(tmp_path, "train")


@pytest.mark.usefixtures("without_heic")
def test_a_folder_without_pictures_says_what_is_in_it(tmp_path):
    touch(tmp_path / "cat" / "a.heic")
    with pytest.raises(InputError, match=r"no images in it \(left out: 1 \.heic \(pip install"):
        class_folders(tmp_path, "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train_set/a/1.png", "train_set/b/1.png", "test_set/a/1.png"),
            r"test_set/, train_set/ look like parts",
        ),
        (
            ("seg_train/a/1.png", "seg_pred/b/1.png", "seg_test/a/1.png"),
            r"seg_test/, seg_train/ look like parts",
        ),
        (("images_train/1.png", "images_val/1.png"), r"images_train/, images_val/ look like parts"),
    ],
)
def test_folders_that_look_like_parts_are_not_classes(tmp_path, names, message):
    touch(*(tmp_path / name for name in names))
    with pytest.raises(InputError, match=message) as caught:
        class_folders(tmp_path, "train")
    assert "rename" in str(caught.value.hint)


def test_classes_with_a_word_of_parts_in_their_names_are_classes(tmp_path):
    touch(*(tmp_path / name for name in ("test tube/1.png", "train set/1.png", "flask/1.png")))
    assert class_folders(tmp_path, "train").classes == ("flask", "test tube", "train set")
    touch(tmp_path / "b/test tube/x/1.png", tmp_path / "b/flask/y/1.png")
    assert class_folders(tmp_path / "b", "train").classes == ("flask", "test tube")
