"""Plain arrays in an .npz: MedMNIST, Keras, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effcli.core.errors import InputError
from effcli.data.image_sets import has_parts, image_shape, load_images


def images(n: int, *shape: int, first: int = 0) -> np.ndarray:
    """Each image has its number as its value."""
    numbers = np.arange(first, first + n, dtype=np.uint8)
    return np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (n, *shape)).copy()


def save(file: Path, **arrays: Any) -> Path:
    np.savez(file, **arrays)
    return file


def test_medmnist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = {"train": 6, "val": 3, "test": 2}
    arrays = {f"{name}_images": images(n, 28, 28, 3) for name, n in parts.items()}
    arrays |= {f"{name}_labels": np.arange(n)[:, None] % 4 for name, n in parts.items()}
    file = save(tmp_path / "pathmnist.npz", **arrays)
    train, measured = (load_images(file, part, side=28, channels=3) for part in ("train", "eval"))
    assert train.images.shape == (6, 3, 28, 28) and train.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert train.images[:, 0, 0, 0].tolist() == list(range(6))
    assert len(measured) == 3 and measured.classes == train.classes == ("0", "1", "2", "3")
    assert "val_images is used to measure on, not test_images" in caplog.text
    assert has_parts(file) and image_shape(file, "train") == (28, 3)


def test_keras(tmp_path: Path) -> None:
    arrays = {"x_train": images(4, 20, 20), "y_train": np.array([5, 0, 4, 1], np.uint8)}
    file = save(tmp_path / "mnist.npz", **arrays, x_test=images(2, 20, 20, first=9), y_test=np.array([7, 2]))
    train, measured = (load_images(file, part, side=10, channels=1) for part in ("train", "eval"))
    assert train.images.shape == (4, 1, 10, 10) and train.labels.tolist() == [5, 0, 4, 1]
    assert measured.images[:, 0, 5, 5].tolist() == [9, 10] and measured.labels.tolist() == [7, 2]
    assert train.classes == measured.classes == tuple("01234567")
    assert image_shape(file, "train") == (20, 1)


def test_channels_first_and_a_set_without_a_part_to_measure_on(tmp_path: Path) -> None:
    file = save(tmp_path / "x.npz", x_train=images(4, 3, 16, 16), y_train=np.array([0, 1, 0, 1]))
    assert load_images(file, "train", side=16, channels=3).images.shape == (4, 3, 16, 16)
    assert not has_parts(file)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": images(4, 8, 8).astype(np.float32)}, "images of float32; supported: uint8"),
        ({"x_train": images(0, 8, 8), "y_train": np.array([], int)}, r"no images in it: .*\(0, 8, 8\)"),
        ({"x_train": images(4, 8, 8, 8)}, r"images of shape \(4, 8, 8, 8\)"),
        ({"y_train": np.array([0, 1, 2])}, r"labels of shape \(3,\) for 4 images"),
        ({"y_train": np.zeros((4, 14), int)}, "several labels per image are not supported"),
        ({"y_train": np.array([0.0, 1, 0, 1])}, "labels of float64; supported: integers"),
        ({"y_train": np.array([0, 1, -1, 1])}, "label -1 of image 2"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {"x_train": images(4, 8, 8), "y_train": np.array([0, 1, 0, 1]), **changed}
    with pytest.raises(InputError, match=message):
        load_images(save(tmp_path / "x.npz", **arrays), "train", side=8, channels=1)


def test_labels_beyond_the_names_of_classes_are_named(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("L", (8, 8)).save(stream, "PNG")
    data = np.frombuffer(stream.getvalue() * 2, np.uint8)
    offsets = np.array([0, 1, 2]) * len(stream.getvalue())
    arrays = {"train_png": data, "train_offsets": offsets, "classes": np.array(["a", "b"])}
    with pytest.raises(InputError, match="label 7 of image 1; there are 2 names of classes"):
        load_images(
            save(tmp_path / "x.npz", **arrays, train_labels=np.array([0, 7])), "train", side=8, channels=1
        )


def test_what_other_layouts_lack_is_said(tmp_path: Path) -> None:
    file = save(tmp_path / "x.npz", images=images(4, 8, 8), labels=np.array([0, 1, 0, 1]))
    with pytest.raises(InputError, match="no train images in it, only the arrays images, labels") as caught:
        load_images(file, "train", side=8, channels=1)
    assert "name the arrays train_images and train_labels, or x_train" in str(caught.value.hint)
    file = save(tmp_path / "y.npz", x_train=images(2, 8, 8), y_train=np.eye(2, dtype=int))
    with pytest.raises(InputError, match="several labels per image") as caught:
        load_images(file, "train", side=8, channels=1)
    assert caught.value.hint == "one-hot labels: store their argmax(1)"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x_train": np.array([None, 1], object), "y_train": np.zeros(2, int)},
            "x_train: holds Python objects",
        ),
        ({"y_train": np.array(["cat", None], object)}, "y_train: holds Python objects"),
        ({"y_train": np.array([0, 4_000_000_000])}, "label 4000000000 of image 1"),
        ({"y_train": np.array([0, 2_000_000])}, "label 2000000 of image 1"),
        ({"y_test": np.array(["cat", "dog"]), "x_test": images(2, 8, 8)}, "y_test: labels of <U3"),
    ],
)
def test_arrays_that_are_not_images_or_labels_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    file = save(tmp_path / "a.npz", **{"x_train": images(2, 8, 8), "y_train": np.arange(2)} | arrays)
    with pytest.raises(InputError, match=message):
        load_images(file, "train", side=8, channels=1)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x_train=images(200, 8, 8), y_train=np.arange(200))
    data = bytearray(file.read_bytes())
    data[120:124] = b"\xff\xff\xff\xff"
    file.write_bytes(data)
    with pytest.raises(InputError, match="x_train: is damaged"):
        load_images(file, "train", side=8, channels=1)


def test_arrays_that_are_not_used_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = {
        "x_train": images(4, 8, 8),
        "y_train": np.array([0, 1, 0, 1]),
        "class_names": np.array(["a", "b"]),
    }
    load_images(save(tmp_path / "x.npz", **arrays, x_test=images(2, 8, 8)), "train", side=8, channels=1)
    assert caplog.text.strip().endswith("x.npz: left out: class_names")
