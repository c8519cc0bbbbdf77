"""Images with captions or classes in folders and tars as people have them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.distill.clip_kd.captions.sources import has_split, load_captions
from effcli.distill.clip_kd.inputs import load_eval, load_inputs
from effcli.distill.clip_kd.recipe import ClipKdRecipe


def encoded(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def save(path: Path, grey: int = 10, caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(grey))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_classes_by_parts_with_hidden_folders_and_strays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("Training", "Test"):
        for name in ("cat", "dog"):
            save(tmp_path / part / name / "1.png")
            save(tmp_path / part / name / "2.png")
    save(tmp_path / "Training" / ".ipynb_checkpoints" / "1.png")
    save(tmp_path / "__MACOSX" / "Training" / "cat" / "._1.png")
    save(tmp_path / "Training" / "stray.png")
    assert has_split(tmp_path, "eval")
    train = load_captions(tmp_path, "train")
    assert (train.classes, train.labels) == (("cat", "dog"), (0, 0, 1, 1))
    assert caplog.messages == [f"{tmp_path / 'Training'}: left out: 1 picture beside the class folders"]
    assert all("/Test/" in image.place for image in load_captions(tmp_path, "eval").images)


def test_captions_beside_by_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "train" / "a.png", 10, "one")
    save(tmp_path / "valid" / "b.png", 20, "two")
    (tmp_path / "train" / "._a.png").write_bytes(b"x")
    (tmp_path / "train" / "c.xcf").write_bytes(b"x")
    assert load_captions(tmp_path, "train").captions == (("one",),)
    assert load_captions(tmp_path, "eval").captions == (("two",),)
    assert caplog.messages == [f"{tmp_path / 'train'}: left out: 1 .xcf"]


def test_parts_and_hidden_members_of_a_tar(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {f"{part}/{part[0]}.png": encoded(10) for part in ("Train", "val", "test")}
    members |= {f"{part}/{part[0]}.txt": part.encode() for part in ("Train", "val", "test")}
    members |= {"__MACOSX/Train/._T.png": b"x", "Train/.hidden.png": b"x", "Train/film.mp4": b"x"}
    archive = tar_of(tmp_path / "pairs.tar", members)
    assert has_split(archive, "eval")
    assert load_captions(archive, "train").captions == (("Train",),)
    assert load_captions(archive, "eval").captions == (("val",),)
    assert caplog.messages == [
        f"{archive}: left out: 1 .mp4",
        f"{archive}: val/ is used to measure on, not test/",
    ]


def test_hidden_shards_do_not_count(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", {"1.png": encoded(10), "1.txt": b"one"})
    (tmp_path / "._a.tar").write_bytes(b"x")
    assert load_captions(tmp_path, "train").captions == (("one",),)


def recipe(folder: Path, **more: float) -> ClipKdRecipe:
    return ClipKdRecipe.model_validate(
        {
            "method": "clip-kd",
            "data": {"source": str(folder), **more},
            "train": {"batch_size": 2},
        }
    )


def test_a_damaged_image_to_learn_from_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(11):
        save(tmp_path / "train" / f"{n:02d}.png", n, f"number {n}")
    save(tmp_path / "val" / "a.png", 20, "held")
    (tmp_path / "train" / "03.png").write_bytes(encoded(3)[:50])
    inputs = load_inputs(recipe(tmp_path))
    assert len(inputs.train) == 10 and ("number 3",) not in inputs.train.captions
    assert [inputs.train.image(i).size for i in range(10)] == [(6, 4)] * 10
    assert ["03.png" in line for line in inputs.train.left_out] == [True]
    assert any("train/03.png" in message for message in caplog.messages)
    with pytest.raises(InputError, match=r"1 of 11 are missing, damaged or without a caption"):
        load_inputs(recipe(tmp_path, most_left_out=0.05))


def test_a_damaged_image_to_measure_on_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "val" / "a.png", 20, "held")
    save(tmp_path / "val" / "b.png", 20, "held too").write_bytes(b"")
    with pytest.raises(InputError, match=r"val/b\.png: is empty"):
        load_eval(str(tmp_path))
