"""The rounds: which there are, where students start, what they learn, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from effcli.core.errors import EffcliError, InputError, UsageError
from effcli.core.progress import NOTICE
from effcli.core.registry import find_recipe
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.models import DiffusionModel, save_folder
from effcli.diffusion.processes import process_of
from effcli.distill.inputs.teacher import check_teacher, load_examples, load_teacher
from effcli.distill.losses import PixelLoss
from effcli.distill.progressive import plan, student_config, students_of
from effcli.distill.recipe import CLOTHES, SAMPLED, PdRecipe, RddRecipe
from effcli.distill.rounds import Round, prediction_of_students, rounds_of
from effcli.distill.sampling import Sampler
from effcli.distill.targets import denoiser
from effcli.distill.time_grid import TimeGrid
from effcli.distill.training import RoundBatch, fit_round, target_of
from effcli.distill.weights import load_student
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_unet
from tests.distill.small_teacher import examples, teacher, whole

CPU = torch.device("cpu")
GRID = TimeGrid(SCHEDULER, CPU)


def test_halving_1024_to_1_takes_10_rounds():
    recipe = RddRecipe(teacher_steps=1024, student_steps=1)
    rounds = rounds_of(recipe, teacher("v_prediction"))
    assert len(rounds) == 10
    assert all(one.teacher_steps == 2 * one.student_steps for one in rounds)
    assert [one.student_steps for one in rounds if one.has_features] == [4, 2, 1]
    train = recipe.train
    assert [one.train_steps for one in rounds] == [
        *[train.steps] * 7, train.last_rounds_steps, *[2 * train.last_rounds_steps] * 2
    ]  # fmt: skip
    assert not any(one.has_features for one in rounds_of(PdRecipe(), teacher()))


@pytest.mark.parametrize(
    ("own", "asked", "students", "converts"),
    [
        ("epsilon", "auto", "v_prediction", True),
        ("v_prediction", "auto", "v_prediction", False),
        ("sample", "auto", "sample", False),
        ("v_prediction", "sample", "sample", True),
    ],
)
def test_what_students_predict(own, asked, students, converts):
    recipe = PdRecipe(prediction=asked, teacher_steps=8)
    assert prediction_of_students(recipe, teacher(own)) == students
    assert (rounds_of(recipe, teacher(own))[0].student_steps == 8) is converts


def batch_of(steps: int, n: int = 4) -> RoundBatch:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(n, 1, 8, 8, generator=generator) for _ in range(2))
    return RoundBatch(x, noise, torch.randint(1, steps + 1, (n,), generator=generator), {})


def test_a_student_starts_as_its_teacher():
    model = teacher("v_prediction")
    k = torch.tensor([1, 2, 3, 4])
    z = batch_of(4).x
    ours, theirs = GRID.at(k, 4), GRID.at(2 * k, 8)
    student = copy.deepcopy(model.unet)
    guided = whole(model).guided
    found = [denoiser(one, {})(z, p) for one, p in ((guided.with_unet(student), ours), (guided, theirs))]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_conversion_targets_are_what_the_teacher_sees_clipped(kind):
    model, batch = teacher(kind), batch_of(8)
    now = GRID.at(batch.k, 8)
    z = now.alpha * batch.x + now.sigma * batch.noise
    prediction = model.unet(z, now.t, return_dict=False)[0]
    expected = {
        "epsilon": (z - now.sigma * prediction) / now.alpha,
        "v_prediction": now.alpha * z - now.sigma * prediction,
    }[kind]
    found = target_of(Round(8, 8, 1), whole(model).guided, z, batch, GRID)
    torch.testing.assert_close(found, expected.clamp(-1, 1))


@pytest.mark.slow
def test_a_round_brings_the_student_to_its_target(tmp_path):
    recipe = PdRecipe(teacher_steps=2, student_steps=1, train={"learning_rate": 3e-3, "batch_size": 8})
    model, one = teacher("v_prediction"), Round(2, 1, 60)
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    unet = copy.deepcopy(model.unet).requires_grad_(True)
    guided = whole(model).guided
    student = guided.student(unet, student_config(model, "v_prediction", GRID.timesteps(1)))
    batch = batch_of(1, 64)
    now = GRID.at(batch.k, 1)
    z = now.alpha * batch.x + now.sigma * batch.noise
    with torch.no_grad():
        target = target_of(one, guided, z, batch, GRID)
        before = (denoiser(student, {})(z, now) - target).square().mean()
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="test") as run:
        fit_round(one, student, guided, PixelLoss(), GRID, examples(model, 64), recipe, run)
    after = (denoiser(student, {})(z, now) - target).square().mean()
    assert after < 0.3 * before
    before_weights = teacher("v_prediction").unet.state_dict()
    assert all(torch.equal(value, before_weights[key]) for key, value in model.unet.state_dict().items())


@pytest.mark.slow
def test_each_student_teaches_the_next(tmp_path):
    recipe = PdRecipe.model_validate(
        {
            "teacher_steps": 8,
            "student_steps": 2,
            "train": {"steps": 1, "last_rounds_steps": 1, "batch_size": 2},
        }
    )
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="test") as run:
        model = teacher("epsilon")
        found = list(students_of(whole(model), examples(model), recipe, run, None))
    assert [(one.teacher_steps, one.student_steps) for _, one in found] == [(8, 8), (8, 4), (4, 2)]
    for student, one in found:
        assert student.scheduler_config["prediction_type"] == "v_prediction"
        assert student.scheduler_config["distilled_timesteps"] == GRID.timesteps(one.student_steps)


def refused(model: str, **changes: object) -> EffcliError:
    with pytest.raises((InputError, UsageError)) as caught:
        plan(PdRecipe.model_validate({"model": model, "teacher_steps": 8} | changes))
    return caught.value


def test_teachers_that_are_refused(tmp_path):
    with pytest.raises(InputError, match="not square grey or RGB"):
        check_teacher(DiffusionModel(tiny_unet(in_channels=4, out_channels=4), SCHEDULER, "four"))
    with pytest.raises(InputError, match="not square grey or RGB"):
        check_teacher(DiffusionModel(tiny_unet(sample_size=(8, 16)), SCHEDULER, "wide"))
    with pytest.raises(InputError, match="predicts variances"):
        check_teacher(DiffusionModel(tiny_unet(out_channels=2), SCHEDULER, "variances"))
    embedded = DiffusionModel(tiny_unet(class_embed_type="timestep"), SCHEDULER, "embedded")
    with pytest.raises(InputError, match="class_embed_type is 'timestep'"):
        check_teacher(embedded)
    config = student_config(teacher(), "sample", [63])
    with pytest.raises(InputError, match="already a student of 1 steps"):
        check_teacher(DiffusionModel(tiny_unet(), config, "student"))


@pytest.mark.slow
def test_numbers_of_steps_and_classes_that_are_refused(tmp_path):
    folder = str(save_pipeline(tmp_path / "model", tiny_unet()))
    assert "3 is not a power of two" in str(refused(folder, student_steps=3))
    assert "more than the teacher's 8 steps" in str(refused(folder, student_steps=16))
    assert "more than the model's 64 noise levels" in str(refused(folder, teacher_steps=128))
    assert "nothing to do" in str(refused(folder, student_steps=8))
    (tmp_path / "empty").mkdir()
    assert "no images in it" in str(refused(folder, data={"source": str(tmp_path / "empty")}))
    few = str(save_pipeline(tmp_path / "few", tiny_unet(num_class_embeds=3)))
    clothes = {"source": CLOTHES}
    assert "has 10 classes, the teacher has 3" in str(refused(few, data=clothes))
    eleven = str(save_pipeline(tmp_path / "eleven", tiny_unet(num_class_embeds=11)))
    error = refused(eleven, data=clothes)
    assert "has 10 classes, the teacher has 11" in str(error) and "means no class" in str(error.hint)
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "empty" / f"{number}.png")
    assert "has no classes, the teacher has 3" in str(refused(few, data={"source": str(tmp_path / "empty")}))


@pytest.mark.slow
def test_a_class_conditional_teacher_is_told_the_classes(tmp_path):
    folder = save_pipeline(tmp_path / "model", tiny_unet(num_class_embeds=10))
    recipe = PdRecipe.model_validate(
        {
            "model": str(folder),
            "data": {"source": CLOTHES},
            "teacher_steps": 2,
            "train": {"last_rounds_steps": 1, "batch_size": 2},
        }
    )
    loaded = load_teacher(recipe)
    data = load_examples(recipe, loaded)
    assert data is not None
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="test") as run:
        ((student, _),) = students_of(loaded, data, recipe, run, None)
    before, after = (
        unet.class_embedding.state_dict()["weight"] for unet in (loaded.model.unet, student.unet)
    )
    assert not torch.equal(before, after)


def test_another_teacher_on_resume_is_refused(tmp_path: Path):
    from effcli.distill import progressive

    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    recipe = PdRecipe(teacher_steps=2)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="test") as run:
        progressive.check_same_teacher(DiffusionModel(tiny_unet(), SCHEDULER, "a", sha256="1"), run)
    with (
        open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="test", resume=True) as run,
        pytest.raises(UsageError, match="not the model that this run was started with"),
    ):
        progressive.check_same_teacher(DiffusionModel(tiny_unet(), SCHEDULER, "a", sha256="2"), run)


def test_settings_tuned_on_clothes_are_named_on_another_teacher(tmp_path, caplog):
    folder = str(save_pipeline(tmp_path / "model", tiny_unet()))
    data = {"source": "builtin:fashion-images"}
    caplog.set_level(NOTICE)
    for changes, says in (({}, True), ({"steps": 1}, False)):
        caplog.clear()
        tuned: Any = find_recipe("distill", "pd")
        train = tuned.train.model_dump() | changes
        plan(PdRecipe.model_validate({"model": folder, "teacher_steps": 2, "data": data, "train": train}))
        assert ("were tuned on grey 16x16 clothes" in caplog.text) is says
    caplog.clear()
    plan(
        PdRecipe.model_validate(
            {"model": str(save_pipeline(tmp_path / "b", tiny_unet())), "teacher_steps": 2}
        )
    )
    assert "students learn from 2048 images that the teacher samples, as none are named" in caplog.text


def test_only_the_grey_teacher_has_images_of_its_own():
    assert PdRecipe().training_images == CLOTHES
    assert PdRecipe(model="owner/name").training_images == SAMPLED
    assert PdRecipe.model_validate({"model": "owner/name", "data": {"source": "a"}}).training_images == "a"


@pytest.mark.parametrize("config", [{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0},
                                    {"_class_name": "EDMEulerScheduler"}], ids=["flow", "edm"])  # fmt: skip
def test_teachers_of_other_processes(tmp_path: Path, config: dict[str, Any]) -> None:
    """Their students predict what they do, at timesteps of their own axis, and are read again as they were trained."""
    model = DiffusionModel(tiny_unet(), config, "tiny")
    recipe = PdRecipe(teacher_steps=4, student_steps=2)
    own = process_of(config)
    assert own is not None
    assert prediction_of_students(recipe, model) == own.prediction
    with pytest.raises(UsageError, match="students of this teacher predict what it predicts"):
        prediction_of_students(PdRecipe(prediction="sample"), model)
    grid, batch = TimeGrid(config, CPU), batch_of(2)
    one = next(round_ for round_ in rounds_of(recipe, model) if round_.student_steps == 2)
    now = grid.at(batch.k, 2)
    z = now.alpha * batch.x + now.sigma * batch.noise
    with torch.no_grad():
        target = target_of(one, whole(model).guided, z, batch, grid)
    assert bool(torch.isfinite(target).all())
    student = student_config(model, own.prediction, grid.timesteps(2))
    save_folder(tmp_path / "model", model.unet, student)
    read = load_student(tmp_path / "model")
    assert read.scheduler_config["distilled_timesteps"] == grid.timesteps(2)
    image = Sampler(tmp_path / "model")(1, generator=torch.Generator().manual_seed(0))[0]
    assert image.size == (8, 8)
