"""Sets of images: the three formats, their mistakes, and batches that depend on (seed, step) alone."""

import gzip
import io
import struct
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.core.errors import InputError, UsageError
from effcli.core.runtime import Runtime
from effcli.data.image_sets import ImageSet, has_parts, image_shape, load_images, to_bytes, to_range
from tests.data_root import data_file


def write_idx(folder, name, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    (folder / name).write_bytes(gzip.compress(header + array.tobytes()))


def test_idx_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    write_idx(tmp_path, "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path, "train-labels-idx1-ubyte.gz", np.array([0, 1, 2, 1, 0], np.uint8))
    found = load_images(tmp_path, "train", side=8, channels=1)
    assert np.array_equal(found.images[:, 0].numpy(), images)
    assert found.labels.tolist() == [0, 1, 2, 1, 0]
    assert len(found.classes) == 3
    halved = load_images(tmp_path, "train", side=4, channels=3)
    assert halved.images.shape == (5, 3, 4, 4)


def test_a_truncated_idx_file_is_refused(tmp_path):
    write_idx(tmp_path, "train-images-idx3-ubyte.gz", np.zeros((2, 4, 4), np.uint8))
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(gzip.decompress((tmp_path / "train-images-idx3-ubyte.gz").read_bytes())[:-3])
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(InputError, match="not a whole IDX file"):
        load_images(tmp_path, "train", side=4, channels=1)


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 12), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_packed_npz(tmp_path):
    encoded = [png((255, 0, 0)), png((0, 0, 255))]
    np.savez(
        tmp_path / "x.npz",
        test_png=np.frombuffer(b"".join(encoded), np.uint8),
        test_offsets=np.cumsum([0, *map(len, encoded)]),
        test_labels=np.array([1, 0]),
        classes=np.array(["a", "b"]),
    )
    found = load_images(tmp_path / "x.npz", "eval", side=8, channels=3)
    assert found.images[0, :, 3, 3].tolist() == [255, 0, 0]
    assert (found.labels.tolist(), found.classes) == ([1, 0], ("a", "b"))
    with pytest.raises(InputError, match="no train images in it"):
        load_images(tmp_path / "x.npz", "train", side=8, channels=3)


def test_a_folder_of_classes(tmp_path):
    for name, colour in (("cat", (10, 10, 10)), ("dog", (200, 200, 200))):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), colour).save(tmp_path / "train" / name / "1.png")
    found = load_images(tmp_path, "train", side=4, channels=1)
    assert found.classes == ("cat", "dog")
    assert found.images.float().mean((1, 2, 3)).tolist() == [10, 200]


def test_what_suits_a_sets_images(tmp_path):
    """The side of the first one, and colours where there are any: in a folder, packed, and in IDX files."""
    for name in ("grey", "mixed"):
        (tmp_path / name / "x").mkdir(parents=True)
        for number in range(5):
            Image.new("L", (20, 12 + number), 99).save(tmp_path / name / "x" / f"{number}.png")
    Image.new("RGB", (20, 16), (10, 99, 10)).save(tmp_path / "mixed" / "x" / "4.png")
    assert image_shape(tmp_path / "grey", "train") == (12, 1)
    assert image_shape(tmp_path / "mixed", "train") == (12, 3)
    encoded = png((255, 0, 0))
    np.savez(tmp_path / "x.npz", train_png=np.frombuffer(encoded, np.uint8), train_offsets=[0, len(encoded)])
    assert image_shape(tmp_path / "x.npz", "train") == (8, 3)
    write_idx(tmp_path, "train-images-idx3-ubyte.gz", np.zeros((2, 9, 7), np.uint8))
    assert image_shape(tmp_path, "train") == (7, 1)
    assert image_shape("builtin:fashion-images", "train") == (28, 1)


def test_which_sets_have_a_part_to_measure_on(tmp_path):
    encoded = np.frombuffer(png((255, 0, 0)), np.uint8)
    for part in ("train", "test"):
        members: Any = {f"{part}_png": encoded, f"{part}_offsets": [0, len(encoded)]}
        np.savez(tmp_path / f"{part}.npz", **members)
    (tmp_path / "whole" / "a").mkdir(parents=True)
    (tmp_path / "parts" / "eval" / "a").mkdir(parents=True)
    write_idx(tmp_path, "t10k-images-idx3-ubyte.gz", np.zeros((2, 9, 7), np.uint8))
    names = ("train.npz", "test.npz", "whole", "parts", ".")
    assert [has_parts(tmp_path / name) for name in names] == [False, True, False, True, True]


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    for look in (
        lambda file: load_images(file, "train", side=4, channels=1),
        lambda file: image_shape(file, "train"),
    ):
        with pytest.raises(InputError, match=r"is not an \.npz file"):
            look(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no such file|no images"):
        load_images(tmp_path / name, "train", side=4, channels=1)


def test_batches_cover_each_epoch_once_and_ranks_share_them():
    images = ImageSet(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.zeros(10), ("",))
    drawn = np.concatenate([images.batch_indices(step, batch_size=4, seed=3) for step in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    parts = [images.batch_indices(2, batch_size=4, seed=3, rank=rank, world=2) for rank in (0, 1)]
    assert np.concatenate(parts).tolist() == drawn[8:12].tolist()
    with pytest.raises(UsageError, match="divided evenly"):
        images.batch_indices(0, batch_size=3, seed=0, world=2)


def test_bytes_survive_the_way_to_floats_and_back():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_range(values)), values)
    assert to_range(values).aminmax() == (-1, 1)


def test_fashion_mnist_and_cifar():
    found = load_images(data_file("fashion-mnist"), "eval", side=16, channels=1)
    assert found.images.shape == (10_000, 1, 16, 16)
    assert len(found.classes) == 10


@pytest.mark.slow
def test_the_images_in_the_package():
    found = load_images("builtin:fashion-images", "train", side=28, channels=1)
    assert found.images.shape == (5000, 1, 28, 28)
    assert torch.bincount(found.labels).tolist() == [500] * 10
    assert found.classes[0] == "T-shirt/top"
    assert len(load_images("builtin:fashion-images", "eval", side=16, channels=1)) == 1000
    with pytest.raises(InputError, match="no such file or folder") as caught:
        load_images("builtin:nothing", "train", side=16, channels=1)
    assert "builtin:fashion-images" in str(caught.value.hint)


@pytest.mark.slow
def test_the_images_in_the_package_are_those_of_the_original_files():
    ours = load_images("builtin:fashion-images", "train", side=28, channels=1)
    whole = load_images(data_file("fashion-mnist"), "train", side=28, channels=1)
    first = torch.cat([torch.nonzero(whole.labels == label)[:500, 0] for label in range(10)]).sort().values
    assert torch.equal(ours.images, whole.images[first])


def test_ranks_share_a_batch_and_its_mirrored_images():
    images = ImageSet(
        torch.arange(12 * 4, dtype=torch.uint8).view(12, 1, 2, 2), torch.arange(12), tuple("abcdefghijkl")
    )
    one = Runtime(torch.device("cpu"), "fp32", 0)
    two = [Runtime(torch.device("cpu"), "fp32", 0, rank, 2) for rank in (0, 1)]
    for step in range(6):
        x, labels = images.batch(step, 4, one, seed=3, flip=0.5)
        shares = [images.batch(step, 4, runtime, seed=3, flip=0.5) for runtime in two]
        assert torch.equal(torch.cat([share[0] for share in shares]), x)
        assert torch.equal(torch.cat([share[1] for share in shares]), labels)
        plain, _ = images.batch(step, 4, one, seed=3)
        mirrored = (x != plain).flatten(1).any(1)
        assert torch.equal(x[mirrored], plain[mirrored].flip(-1))
    assert any(
        (images.batch(n, 4, one, seed=3, flip=0.5)[0] != images.batch(n, 4, one, seed=3)[0]).any()
        for n in range(6)
    )
