"""The training loop of CLIP-KD: what is trained, the learning rate, and the teacher's embeddings."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from effcli.core.errors import InputError, RunError, UsageError
from effcli.core.registry import find_recipe
from effcli.core.resuming.metrics_log import read_metrics
from effcli.core.run import Run
from effcli.distill.clip.models import load_clip, named_config, new_clip
from effcli.distill.clip_kd.batches import PairBatches
from effcli.distill.clip_kd.captions.sources import load_captions
from effcli.distill.clip_kd.inputs import UnreadableImages, load_inputs, say_what_was_tuned
from effcli.distill.clip_kd.losses import ClipKdLoss, Embeddings
from effcli.distill.clip_kd.pipeline import distill, plan, train
from effcli.distill.clip_kd.recipe import (
    ClipKdRecipe,
    ClipLossSection,
    ClipPairsSection,
    ClipTrainSection,
)
from effcli.distill.clip_kd.soft_targets import SoftTargets
from effcli.distill.clip_kd.teacher_cache import CHUNK_ROWS, CachedItems, TeacherCache
from effcli.distill.clip_kd.teacher_embeddings import cached, open_cache, teacher_embeddings_of
from effcli.distill.clip_kd.training import Towers, is_vit, new_optimizer, total_steps
from effcli.nn.schedules import warmup_cosine
from tests.distill.clip.tiny_clips import STUDENT, TEACHER, save_teacher, tiny_clip
from tests.distill.clip_kd.small_run import CPU, opened, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def losses_of(run: Run) -> list[float]:
    return [line["loss"] for line in read_metrics(run.path / "metrics.jsonl")]


def test_rate_of_the_papers_schedule() -> None:
    settings = ClipTrainSection()
    steps = 402_000
    rate = [
        warmup_cosine(step, steps, settings.learning_rate, settings.warmup_steps)
        for step in (0, 9999, steps - 1)
    ]
    assert rate[0] == pytest.approx(1e-7) and rate[1] == pytest.approx(1e-3) and rate[2] < 1e-9


def test_what_is_decayed(tmp_path: Path) -> None:
    model = tiny_clip(tmp_path, STUDENT)
    names = {id(p): name for name, p in model.network.named_parameters()}
    loss = ClipKdLoss(ClipLossSection(), 16, 24)
    names |= {id(p): f"loss.{name}" for name, p in loss.named_parameters()}
    optimizer = new_optimizer(model.network, loss, ClipKdRecipe(), STUDENT, raw=False)
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert {
        "logit_scale",
        "ln_final.weight",
        "visual.ln_pre.bias",
        "loss.cross_scale",
        "loss.project_images.bias",
    } < plain
    assert {"visual.proj", "token_embedding.weight", "loss.project_images.weight"} < decayed
    assert decayed | plain == set(names.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.defaults["betas"] == (0.9, 0.98) and optimizer.defaults["eps"] == 1e-6
    released = new_optimizer(model.network, loss, ClipKdRecipe(), named_config("Swin-T"), raw=True)
    assert released.param_groups[2]["weight_decay"] == 0.01
    assert released.defaults["betas"] == (0.9, 0.999)


def test_masked_images(tmp_path: Path) -> None:
    network = tiny_clip(tmp_path, STUDENT).network.train()
    images, tokens = torch.randn(3, 3, 16, 16), torch.ones(3, 8, dtype=torch.long)
    plain, none = Towers(network)(images, tokens)
    whole, unmasked = Towers(network, 0.0)(images, tokens)
    assert none is None and torch.equal(unmasked, whole.images) and torch.equal(whole.images, plain.images)
    embedded, masked = Towers(network, 0.75)(images, tokens)
    assert torch.equal(embedded.images, plain.images) and torch.equal(embedded.texts, plain.texts)
    assert (masked - plain.images).abs().max() > 1e-3
    network.eval()
    _, at_rest = Towers(network, 0.75)(images, tokens)
    torch.testing.assert_close(at_rest, plain.images)


def test_masks_keep_a_quarter_of_the_patches() -> None:
    from open_clip.transformer import PatchDropout

    assert PatchDropout(0.75).train()(torch.randn(2, 1 + 196, 8)).shape == (2, 1 + 49, 8)


def test_only_vits_have_masks() -> None:
    with pytest.raises(UsageError, match="need a ViT student"):
        Towers(nn.ModuleDict({"visual": nn.Identity()}), 0.25)


@pytest.mark.slow
def test_mfd_of_ratio_0_is_fd(tmp_path: Path) -> None:
    runs = []
    for name, loss in (("fd", {"fd": 4.0, "mfd": 0.0}), ("mfd", {"fd": 0.0, "mfd": 4.0, "mask_ratio": 0.0})):
        recipe = small_recipe(tmp_path, loss=loss)
        with opened(tmp_path / name, recipe) as run:
            distill(recipe, plan(recipe).inputs, run)
        runs.append(losses_of(run))
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_the_released_mask_is_never_used(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, loss={"mfd": 4.0, "mask_ratio": 0.75, "mask": "unused"})
    with opened(tmp_path / "run", recipe) as run:
        distill(recipe, plan(recipe).inputs, run)
    for line in read_metrics(run.path / "metrics.jsonl"):
        assert line["mfd"] == line["fd"]


@pytest.mark.parametrize("cache", ["on", "2-views", "off"])
def test_the_teacher_is_left_as_it_is(tmp_path: Path, cache: str) -> None:
    recipe = small_recipe(tmp_path, teacher_cache=cache)
    teacher = load_clip(recipe.model)
    before = teacher.fingerprint()
    student = new_clip(recipe.student)
    with opened(tmp_path / "run", recipe) as run:
        pairs = load_inputs(recipe).train
        unreadable = UnreadableImages(pairs, recipe.data)
        embed = teacher_embeddings_of(recipe, [teacher], pairs, run, unreadable)
        train(student, embed, pairs, recipe, run, unreadable, recipe.n_views)
    assert teacher.fingerprint() == before and not teacher.network.training
    assert all(p.grad is None for p in teacher.network.parameters())


@pytest.mark.slow
def test_the_cache_gives_the_losses_of_the_teacher_in_the_loop(tmp_path: Path) -> None:
    """As many fixed views as epochs are the crops of a teacher that runs; they differ by the rounding of fp16."""
    runs = {}
    settings = {"epochs": 8, "batch_size": 8, "warmup_steps": 2}
    for cache in ("off", "8-views", "1-views", "on"):
        recipe = small_recipe(tmp_path, teacher_cache=cache, train=settings)
        with opened(tmp_path / cache, recipe) as run:
            distill(recipe, plan(recipe).inputs, run)
        runs[cache] = losses_of(run)
    assert len(runs["off"]) > 1
    assert runs["8-views"] == pytest.approx(runs["off"], rel=1e-3)
    assert runs["1-views"] == runs["on"]
    assert runs["on"] != pytest.approx(runs["off"], rel=1e-3)


@pytest.mark.slow
def test_the_saved_student_is_a_plain_clip(tmp_path: Path) -> None:
    import open_clip

    recipe = small_recipe(tmp_path, loss={"afd": 1.0})
    with opened(tmp_path / "run", recipe) as run:
        result = distill(recipe, plan(recipe).inputs, run)
    network = open_clip.create_model(f"local-dir:{tmp_path / 'run' / 'model'}")
    assert network.state_dict().keys() == new_clip(recipe.student).network.state_dict().keys()
    assert 1 <= float(network.logit_scale.exp()) <= 100.001
    for who in ("teacher", "student"):
        assert {"i2t_r1", "t2i_r10", "parameters", "image_macs"} <= result.metrics[who].keys()
    assert (tmp_path / "run" / "pictures" / "retrieval.png").is_file()


@pytest.mark.slow
def test_a_second_student_does_not_ask_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path, teacher_cache="2-views")
    planned = plan(recipe).facts
    n = planned["train_images"]
    assert planned["teacher_cache_bytes"] == 24 * 2 * (2 * n + planned["train_captions"])
    assert planned["teacher_cache_is_there"] is False and not (tmp_path / "cache").exists()
    teacher, pairs = load_clip(recipe.model), load_inputs(recipe).train
    with opened(tmp_path / "a", recipe) as run:
        unreadable = UnreadableImages(pairs, recipe.data)
        views, captions = cached(recipe, teacher, pairs, run, unreadable)
    assert plan(recipe).facts["teacher_cache_is_there"] is True
    monkeypatch.setattr("effcli.distill.clip_kd.teacher_embeddings.encode_images", None)
    monkeypatch.setattr("effcli.distill.clip_kd.teacher_embeddings.embed_texts", None)
    with opened(tmp_path / "b", recipe) as run:
        other = small_recipe(tmp_path, teacher_cache="2-views", seed=5)
        again, _ = cached(other, teacher, pairs, run, unreadable)
    assert all((one == other).all() for one, other in zip(views, again, strict=True))
    size = sum(one.nbytes for one in (*views, captions))
    assert size == planned["teacher_cache_bytes"]


def test_another_teacher_or_other_pairs_have_another_folder(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    teacher, pairs = load_clip(recipe.model), load_inputs(recipe).train
    folders = {
        open_cache(recipe, teacher, pairs).folder,
        open_cache(recipe, teacher, pairs.select([0, 1])).folder,
    }
    teacher.network.logit_scale.data.add_(0.5)
    folders.add(open_cache(recipe, teacher, pairs).folder)
    assert len(folders) == 3


def test_a_broken_off_cache_goes_on_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    n, asked = 3 * CHUNK_ROWS + 5, []
    cache = TeacherCache(tmp_path / "cache", {"teacher": "x"}, 2)

    def embed(rows: range) -> torch.Tensor:
        asked.append(rows)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return torch.tensor([[float(row), 0.5] for row in rows])

    things = CachedItems("whole", n, embed)
    recipe = small_recipe(tmp_path)
    with opened(tmp_path / "run", recipe) as run:
        with pytest.raises(KeyboardInterrupt):
            cache.load(things, run)
        assert not cache.is_there(things)
        embeddings = cache.load(things, run)
        assert [rows.start for rows in asked] == [
            0,
            CHUNK_ROWS,
            2 * CHUNK_ROWS,
            2 * CHUNK_ROWS,
            3 * CHUNK_ROWS,
        ]
        assert embeddings[:, 0].tolist() == list(range(n))
        assert json.loads((cache.folder / "key.json").read_text())["teacher"] == "x"
        assert cache.folder == TeacherCache(tmp_path / "cache", {"teacher": "x"}, 2, {"from": "b"}).folder
        file = cache.folder / "whole.npy"
        file.write_bytes(file.read_bytes()[:-50])
        assert not cache.is_there(things)
        assert cache.load(things, run)[:, 0].tolist() == list(range(n))


def test_a_full_disk_is_found_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int, __: int, size: int) -> None:
        if size > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")

    def never(rows: range) -> torch.Tensor:
        raise AssertionError(rows)

    monkeypatch.setattr(os, "posix_fallocate", full)
    cache = TeacherCache(tmp_path / "cache", {"teacher": "x"}, 2)
    items = [CachedItems("captions", 10, never), CachedItems("whole", 1000, never)]
    with (
        opened(tmp_path / "run", small_recipe(tmp_path)) as run,
        pytest.raises(RunError, match="the disk is full"),
    ):
        cache.reserve(items, run)
    assert not (cache.folder / "whole.part").exists()


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path, teacher_cache="2-views", data={"source": str(tmp_path / "pairs" / "pairs.csv")}
    )
    with opened(tmp_path / "whole", recipe) as run:
        distill(recipe, plan(recipe).inputs, run)
    n_steps = total_steps(recipe, load_inputs(recipe).train.__len__())
    assert n_steps > 3

    class StopError(Exception):
        pass

    with pytest.raises(StopError), opened(tmp_path / "cut", recipe) as run:
        real = run.log

        def log_until(stage: str, step: int, **values: object) -> None:
            if step == 3:
                raise StopError
            real(stage, step, **values)  # type: ignore[arg-type]

        run.save_every = type(run.save_every)(None, 1)
        run.log = log_until  # type: ignore[method-assign]
        distill(recipe, plan(recipe).inputs, run)
    with opened(tmp_path / "cut", recipe, resume=True) as run:
        distill(recipe, plan(recipe).inputs, run)
    whole, cut = (
        (tmp_path / name / "model" / "open_clip_model.safetensors").read_bytes() for name in ("whole", "cut")
    )
    assert whole == cut


@pytest.mark.slow
def test_decoding_in_other_processes_gives_the_same(tmp_path: Path) -> None:
    sizes = []
    for workers in (0, 2):
        recipe = small_recipe(tmp_path)
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": workers})})
        with opened(tmp_path / str(workers), recipe) as run:
            distill(recipe, plan(recipe).inputs, run)
        sizes.append(losses_of(run))
    assert sizes[0] == sizes[1]


def test_too_much_that_is_missing_stops(tmp_path: Path, warnings_logged: list[str]) -> None:
    logging.getLogger("effcli").setLevel(logging.INFO)
    recipe = small_recipe(tmp_path)
    for n in range(1, 12):
        (tmp_path / "pairs" / f"{n}.png").unlink()
    with pytest.raises(InputError, match="are missing, damaged or without a caption"):
        load_inputs(recipe)
    lenient = recipe.model_copy(update={"data": recipe.data.model_copy(update={"most_left_out": 1.0})})
    assert len(load_inputs(lenient).train.left_out) >= 8
    assert any("no such image" in line for line in warnings_logged)


def test_a_batch_larger_than_the_set_is_refused(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, train={"batch_size": 64})
    with pytest.raises(InputError, match="fewer than a batch of 64"):
        load_inputs(recipe)


def test_an_image_that_fails_while_it_is_read_is_replaced_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(tmp_path, teacher_cache="2-views")
    monkeypatch.setattr("effcli.distill.clip_kd.inputs.find_unreadable", lambda files: {})
    loaded = plan(recipe).inputs
    pairs, bad = loaded.inputs.train, {2, 3}
    for number in bad:
        pairs.images[number].path.write_bytes(b"x")
    student, unreadable = loaded.student, UnreadableImages(pairs, recipe.data)
    batches = PairBatches(pairs, 2, 8, CPU, (student.preprocess, student.tokenize))
    seen = [batches[step] for step in range(3)]
    assert sum(len(one.unreadable) for one in seen) >= 2
    assert not bad & {int(image) for one in seen for image in one.rows.images}
    assert all(len(one.images) == 8 for one in seen)
    unreadable.add(seen[0].unreadable[:1])
    with pytest.raises(InputError, match="3 images cannot be read"):
        unreadable.add(["another", "one more"])


@pytest.mark.slow
def test_two_teachers_and_their_targets(tmp_path: Path, warnings_logged: list[str]) -> None:
    recipe = small_recipe(tmp_path)
    save_teacher(tmp_path / "other", {**TEACHER, "embed_dim": 20})
    recipe = small_recipe(tmp_path, more_teachers=(str(tmp_path / "other"),), teacher_weights=(2.0, 1.0))
    with opened(tmp_path / "run", recipe) as run:
        result = distill(recipe, plan(recipe).inputs, run)
    assert {"teacher", "teacher_2", "student", "cka_images"} <= result.metrics.keys()
    assert 0 < result.metrics["target_entropy"] <= math.log(8) + 1e-5
    assert result.metrics["target_entropy_share"] == pytest.approx(
        result.metrics["target_entropy"] / math.log(8)
    )


def test_targets_that_are_labels_are_warned_of(tmp_path: Path, warnings_logged: list[str]) -> None:
    unit = torch.eye(8)
    with opened(tmp_path / "run", small_recipe(tmp_path)) as run:
        sharp = SoftTargets(ClipLossSection(), run)
        sharp.measure([Embeddings(unit, unit, torch.tensor(100.0))])
        assert sum("crd teaches little beyond the labels" in line for line in warnings_logged) == 1
        soft = SoftTargets(ClipLossSection(), run)
        soft.measure([Embeddings(unit, unit, torch.tensor(1.0))])
        assert soft.metrics()["target_entropy_share"] > 0.9
        assert (
            SoftTargets(ClipLossSection(crd=0), run).measure([Embeddings(unit, unit, torch.tensor(1.0))])
            == {}
        )
    assert sum("crd teaches little" in line for line in warnings_logged) == 1


def test_settings_of_emoji_are_said_for_other_data(tmp_path: Path, warnings_logged: list[str]) -> None:
    tuned = find_recipe("distill", "clip-kd", [])
    assert isinstance(tuned, ClipKdRecipe)
    say_what_was_tuned(tuned, 1337)
    assert not warnings_logged
    train = tuned.train.model_copy(update={"batch_size": 64})
    other = tuned.model_copy(update={"data": ClipPairsSection(source="pairs.csv"), "train": train})
    say_what_was_tuned(other, 500)
    assert warnings_logged == [
        "train.epochs 30, train.warmup_steps 30: as tuned for builtin:twemoji-captions; pairs.csv has 500 images: "
        "set them with -s"
    ]


def test_the_betas_follow_from_the_configuration_not_from_the_path() -> None:
    vits = {
        name
        for name in ("ViT-T-16", "MobileViT-S", "Swin-T", "ResNet-18", "RN50", "Lite0-128")
        if is_vit(named_config(name))
    }
    assert vits == {"ViT-T-16", "MobileViT-S"}


def test_templates_follow_from_the_captions(tmp_path: Path) -> None:
    assert load_captions("builtin:twemoji-captions", "eval").class_templates == ("{}:",)
    recipe = small_recipe(tmp_path)
    assert load_inputs(recipe).train.class_templates == ("a photo of a {}",)
