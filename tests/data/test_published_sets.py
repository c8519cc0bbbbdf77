"""Published sets from a folder as they are unpacked, and what is said where they are not there."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.core.errors import InputError
from effcli.core.files import cache_folder
from effcli.data import image_sets
from effcli.data.image_sets import has_parts, image_shape, load_images
from effcli.data.published_sets import PublishedSet, PublishedSource, load_published, published_source


def no_network(*arguments: object, **named: object) -> None:
    raise URLError("no network")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny-ImageNet with two classes, in its layout."""
    top = tmp_path / "tiny-imagenet-200"
    colours = {"n02": (250, 0, 0), "n01": (0, 0, 250)}
    for name, colour in colours.items():
        (top / "train" / name / "images").mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (64, 64), colour).save(top / "train" / name / "images" / f"{name}_{number}.JPEG")
    (top / "val" / "images").mkdir(parents=True)
    rows = []
    for number, name in enumerate(("n02", "n01", "n02")):
        Image.new("RGB", (64, 64), colours[name]).save(top / "val" / "images" / f"val_{number}.JPEG")
        rows.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62")
    (top / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    (top / "wnids.txt").write_text("n02\nn01\n")
    return tmp_path


def source_in(root: Path, name: str = "tiny-imagenet") -> PublishedSource:
    found = published_source(name, str(root))
    assert found is not None
    return found


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 in its layout, with two images per file; checksums are not looked at."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{one}" for one in range(1, 6)), "test_batch"]):
        images = np.full((2, 3072), number, np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images, "labels": [number, 0]}))
    names = [f"class-{one}" for one in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return folder


def test_cifar_in_its_own_folder(cifar: Path) -> None:
    renamed = cifar.with_name("unpacked")
    for folder in (cifar, cifar.parent, renamed):
        if folder == renamed:
            cifar.rename(renamed)
        train = load_images(folder, "train", side=32, channels=3)
        assert len(train) == 10 and train.labels.tolist() == [0, 0, 1, 0, 2, 0, 3, 0, 4, 0]
        assert train.classes[9] == "class-9" and int(train.images[4, 0, 0, 0]) == 2
        assert len(load_images(folder, "eval", side=32, channels=3)) == 2
        assert has_parts(folder) and image_shape(folder, "train") == (32, 3)


def test_tiny_imagenet_in_its_own_folder(tiny: Path) -> None:
    for folder in (tiny, tiny / "tiny-imagenet-200"):
        assert load_images(folder, "eval", side=64, channels=3).labels.tolist() == [1, 0, 1]


def test_tiny_imagenet(tiny: Path) -> None:
    train, measured = (load_published(source_in(tiny), part) for part in ("train", "eval"))
    assert train.classes == measured.classes == ("n01", "n02")
    assert train.labels.tolist() == [0, 0, 1, 1] and measured.labels.tolist() == [1, 0, 1]
    is_red = measured.images[:, 0].float().mean((1, 2)) > 128
    assert is_red.tolist() == [True, False, True]
    resized = load_images("tiny-imagenet", "eval", side=16, channels=1, root=str(tiny))
    assert resized.images.shape == (3, 1, 16, 16) and resized.classes == ("n01", "n02")


def test_an_empty_folder_of_it_is_refused(tiny: Path) -> None:
    for file in (tiny / "tiny-imagenet-200" / "train").rglob("*.JPEG"):
        file.unlink()
    with pytest.raises(InputError, match="no images in it"):
        load_published(source_in(tiny), "train")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet"])
def test_what_is_neither_there_nor_to_be_had(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    with pytest.raises(InputError, match=r"is not in .* and cannot be downloaded") as caught:
        load_published(source_in(tmp_path / "data", name), "train")
    assert caught.value.hint is not None and "data.root" in caught.value.hint


def test_a_damaged_copy_is_not_downloaded_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
    with pytest.raises(InputError, match="cifar10"):
        load_published(source_in(tmp_path, "cifar10"), "train")


def test_they_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("data") == tmp_path / "effcli" / "data"


def test_a_name_is_a_published_set_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    wanted = PublishedSet(images, torch.tensor([1, 0]), ("a", "b"))
    monkeypatch.setattr(image_sets, "load_published", lambda source, split: wanted)
    found = load_images("cifar10", "train", side=8, channels=3)
    assert found.images.shape == (2, 3, 8, 8) and found.classes == ("a", "b")
    assert has_parts("cifar10") and image_shape("cifar10", "train") == (32, 3)
    (tmp_path / "cifar10" / "x").mkdir(parents=True)
    Image.new("L", (20, 12), 7).save(tmp_path / "cifar10" / "x" / "1.png")
    assert not has_parts("cifar10") and image_shape("cifar10", "train") == (12, 1)
