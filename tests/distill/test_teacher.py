"""Training of the base model: labels that are dropped, so that it can be guided."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from effcli.core.errors import InputError, UsageError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.configs import check_scheduler_config
from effcli.diffusion.models import load_model, save_folder
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, NULL_CLASS
from effcli.distill.recipe import ClassifierRecipe, TeacherRecipe
from effcli.distill.trained import classifier, teacher
from effcli.distill.trained.teacher import build_teacher, train
from tests.distill.small_teacher import images


def recipe_of(label_dropout: float, head_dim: int = 8) -> TeacherRecipe:
    return TeacherRecipe.model_validate(
        {
            "data": {"source": "unused", "side": 8, "channels": 1},
            "unet": {
                "block_out_channels": [8, 16],
                "attention_levels": [],
                "attention_head_dim": head_dim,
                "norm_num_groups": 4,
                "class_conditional": True,
            },
            "schedule": {"num_train_timesteps": 64},
            "train": {"steps": 3, "batch_size": 8, "label_dropout": label_dropout},
            "sampler": {"steps": 1},
        }
    )


def trained(folder: Path, label_dropout: float) -> Path:
    recipe, runtime = recipe_of(label_dropout), create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(folder, recipe, runtime, verb="train", recipe_name="test") as run:
        train(recipe, images(), run)
    return folder


@pytest.fixture(scope="module")
def guidable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "guidable", 0.5)


def test_a_model_that_saw_images_without_their_class_can_be_guided(guidable: Path):
    model = load_model(str(guidable))
    guided = Guided(model, model.unet, guidance=2.0)
    assert guided.null_class == 2
    labels = guided.random_condition(100, torch.Generator().manual_seed(0))["class_labels"]
    assert labels.unique().tolist() == [0, 1]


def test_the_label_that_means_no_class_is_learned(guidable: Path):
    start = build_teacher(recipe_of(0.5), 2).get_parameter("class_embedding.weight")
    moved = load_model(str(guidable)).unet.get_parameter("class_embedding.weight")
    assert moved.shape[0] == 3 and (moved != start).any(1).all()


def test_a_student_keeps_the_label(guidable: Path, tmp_path: Path):
    model = load_model(str(guidable))
    save_folder(tmp_path, model.unet, model.scheduler_config | {DISTILLED_TIMESTEPS: [63]})
    student = load_model(str(tmp_path))
    assert student.scheduler_config[NULL_CLASS] == 2 and Guided(student, student.unet).null_class == 2


def test_without_dropped_labels_there_is_no_such_label(tmp_path: Path):
    model = load_model(str(trained(tmp_path / "plain", 0.0)))
    assert NULL_CLASS not in model.scheduler_config and model.unet.config["num_class_embeds"] == 2
    with pytest.raises(InputError, match="needs the label that means no class"):
        Guided(model, model.unet, guidance=2.0)


def test_sizes_that_do_not_fit_are_found_before_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(teacher, "load_training_images", lambda recipe: images())
    with pytest.raises(InputError, match="the network cannot be called with sample 1x1x8x8"):
        teacher.plan(recipe_of(0.0, head_dim=32))


@pytest.mark.parametrize("label", [-1, 1.5, "2", True])
def test_a_label_that_is_none_is_refused(label: object):
    with pytest.raises(InputError, match=r"null_class is .*, not a label"):
        check_scheduler_config({"_class_name": "DDIMScheduler", NULL_CLASS: label}, "file")


def test_guidance_that_cannot_be_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(teacher, "load_training_images", lambda recipe: images())
    guided = {"sampler": SamplerSettings(steps=1, guidance=2.0)}
    teacher.plan(recipe_of(0.1).model_copy(update=guided))
    with pytest.raises(UsageError, match="learns a label for no class") as caught:
        teacher.plan(recipe_of(0.0).model_copy(update=guided))
    assert "train.label_dropout" in str(caught.value.hint)
    recipe = recipe_of(0.1)
    without = recipe.unet.model_copy(update={"class_conditional": False})
    with pytest.raises(UsageError, match="has labels to drop"):
        teacher.plan(recipe.model_copy(update={"unet": without}))


def test_a_classifier_needs_more_than_one_image(tmp_path: Path):
    Image.new("L", (8, 8)).save(tmp_path / "only.png")
    recipe = ClassifierRecipe.model_validate({"data": {"source": str(tmp_path), "side": 8}})
    with pytest.raises(InputError, match="has a single image"):
        classifier.plan(recipe)
