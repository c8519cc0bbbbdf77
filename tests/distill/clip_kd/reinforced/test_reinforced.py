"""Pairs with stored embeddings: written, checked, read by others, and learned from without the teacher."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effcli.core.errors import InputError, RunError
from effcli.core.resuming.metrics_log import read_metrics
from effcli.core.run import open_run
from effcli.distill.clip.models import load_clip
from effcli.distill.clip_kd import pipeline
from effcli.distill.clip_kd.captions.sources import load_captions
from effcli.distill.clip_kd.inputs import load_inputs
from effcli.distill.clip_kd.pipeline import distill, plan
from effcli.distill.clip_kd.recipe import ClipKdRecipe, ReinforceRecipe
from effcli.distill.clip_kd.reinforced.format import HEADER_FILE, read_header
from effcli.distill.clip_kd.reinforced.pipeline import plan_reinforce, reinforce
from effcli.distill.clip_kd.reinforced.reading import box_of, stored_rows
from tests.distill.clip.tiny_clips import TEACHER, save_teacher
from tests.distill.clip_kd.small_run import CPU, opened, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def written(folder: Path, **changes: Any) -> Path:
    """The run directory of reinforced data of the small pairs."""
    small = small_recipe(folder)
    recipe = ReinforceRecipe.model_validate(
        {
            "precision": "fp32",
            "model": small.model,
            "data": {"source": small.data.source},
            "cache_dir": small.cache_dir,
            "views": 2,
            "shard_images": 10,
            **changes,
        }
    )
    with open_run(folder / "stored", recipe, CPU, verb="reinforce", recipe_name="small") as run:
        reinforce(recipe, plan_reinforce(recipe).inputs, run)
    return folder / "stored"


def test_what_is_written_is_the_pairs_and_their_embeddings(tmp_path: Path) -> None:
    run = written(tmp_path)
    header = read_header(run / "data")
    assert (header.views, header.dims, [one.images for one in header.shards]) == (2, (24,), [10, 10, 4])
    before, after = load_captions(tmp_path / "pairs" / "pairs.csv", "train"), load_captions(run, "train")
    assert after.captions == before.captions and after.left_out == ()
    assert all(one.read() == two.read() for one, two in zip(after.images, before.images, strict=True))
    teacher, row = load_clip(str(tmp_path / "teacher")), 8
    stored = after.stored[row]
    box = box_of(stored, 1)
    assert box is not None
    seen = teacher.preprocess.crop(before.image(row), box)[None]
    expected = torch.nn.functional.normalize(teacher.network.encode_image(seen), dim=1)
    (found,) = stored_rows([stored.views], [1], (24,), torch.device("cpu"))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    texts = teacher.network.encode_text(teacher.tokenize([before.captions[row][1]]))
    (found,) = stored_rows([stored.captions], [1], (24,), torch.device("cpu"))
    torch.testing.assert_close(found, torch.nn.functional.normalize(texts, dim=1), atol=2e-3, rtol=0)


def test_other_programs_read_it_with_tarfile_and_numpy(tmp_path: Path) -> None:
    with tarfile.open(written(tmp_path) / "data" / "shard-00000.tar") as archive:
        data = {name: archive.extractfile(name).read() for name in archive.getnames()[:5]}
    assert list(data) == [f"000000000.{end}" for end in ("png", "txt", "json", "views.npy", "captions.npy")]
    about = json.loads(data["000000000.json"])
    assert len(about["views"]) == 2 and data["000000000.txt"].decode().splitlines() == about["captions"]
    values = np.load(io.BytesIO(data["000000000.views.npy"]))
    assert values.shape == (2, 24) and values.dtype == np.float16
    assert np.linalg.norm(values[0].astype(float)) == pytest.approx(1, abs=1e-2)


@pytest.mark.slow
def test_a_student_learns_from_it_without_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_directory = written(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(pipeline, "load_clip", lambda source: asked.append(source))
    settings: dict[str, Any] = {"model": "data", "data": {"source": str(run_directory)}, "loss": {"afd": 1.0}}
    recipe = small_recipe(tmp_path, **settings)
    loaded = plan(recipe)
    assert loaded.facts["views"] == 2 and loaded.inputs.inputs.train.stored
    with opened(tmp_path / "run", recipe) as run:
        result = distill(recipe, loaded.inputs, run)
    assert not asked and "teacher" not in result.metrics and result.metrics["student"]["t2i_r10"] >= 0
    assert 0 < result.metrics["target_entropy_share"] <= 1
    monkeypatch.undo()
    # the same pairs and crops with the teacher: the first loss is the same up to the rounding of fp16
    ordinary = small_recipe(tmp_path, teacher_cache="2-views", loss={"afd": 1.0})
    monkeypatch.setattr(
        "effcli.distill.clip_kd.inputs.hold_out", lambda pairs, share: (pairs, pairs.select([0]))
    )
    losses = []
    for name, one in (("a", ordinary), ("b", recipe)):
        with opened(tmp_path / name, one) as run:
            distill(one, plan(one).inputs, run)
        losses.append([line["loss"] for line in read_metrics(run.path / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_two_teachers_stand_side_by_side(tmp_path: Path) -> None:
    small_recipe(tmp_path)
    save_teacher(tmp_path / "other", {**TEACHER, "embed_dim": 20})
    run = written(tmp_path, more_teachers=[str(tmp_path / "other")])
    header = read_header(run / "data")
    assert header.dims == (24, 20)
    (stored,) = load_captions(run, "train").stored[:1]
    rows = stored_rows([stored.views], [0], header.dims, torch.device("cpu"))
    assert [one.shape[1] for one in rows] == [24, 20]
    assert all(float(one.norm()) == pytest.approx(1, abs=1e-5) for one in rows)


def test_whole_images_have_no_crop(tmp_path: Path) -> None:
    run = written(tmp_path, views=1)
    assert box_of(load_captions(run, "train").stored[3], 0) is None


@pytest.mark.parametrize("damage", ["shard", "cut", "header", "version", "values", "lost"])
def test_damaged_data_are_refused(tmp_path: Path, damage: str) -> None:
    data = written(tmp_path) / "data"
    shard, header = data / "shard-00001.tar", data / HEADER_FILE
    if damage == "shard":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-2000])
    elif damage == "header":
        header.write_text(header.read_text().replace('"views": 2', '"views": 3'))
    elif damage == "version":
        header.write_text(header.read_text().replace('"version": "1"', '"version": "2"'))
    elif damage == "values":
        content = shard.read_bytes()
        at = content.index(b"NUMPY") + 127
        shard.write_bytes(content[:at] + b"\xff" * 48 + content[at + 48 :])
    else:
        shard.write_bytes(shard.read_bytes().replace(b"000000012.views.npy", b"000000012.vaews.npy"))
    message = {
        "shard": "a shard is missing",
        "cut": "bytes instead of",
        "header": "does not hold 3 embeddings",
        "version": "version",
        "values": "not finite",
        "lost": "truncated or damaged|cannot be read as a tar",
    }[damage]
    with pytest.raises(InputError, match=message):
        pairs = load_captions(data, "train")
        stored_rows([one.views for one in pairs.stored], [0] * len(pairs), (24,), torch.device("cpu"))


def test_data_without_embeddings_and_with_them_twice(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, model="data")
    with pytest.raises(InputError, match="holds no teacher's embeddings"):
        load_inputs(recipe)
    run = written(tmp_path)
    again = ReinforceRecipe.model_validate({"model": recipe.model, "data": {"source": str(run)}})
    with pytest.raises(InputError, match="is reinforced already"):
        plan_reinforce(again.model_copy(update={"model": str(tmp_path / "teacher")}))
    with_teacher = small_recipe(tmp_path, data={"source": str(run)})
    assert load_inputs(with_teacher).train.stored == ()


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(RunError, match="the shards need 0 MB, the disk has 0 MB"):
        written(tmp_path)


def test_several_teachers_of_the_data_are_not_named_again() -> None:
    with pytest.raises(ValueError, match="holds the embeddings of all teachers"):
        ClipKdRecipe.model_validate({"model": "data", "more_teachers": ["x"]})
