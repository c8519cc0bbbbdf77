"""What a student starts from: new weights, trained ones, its teacher's towers, trunks of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effcli.core.errors import InputError, UsageError
from effcli.distill.clip import image_trunks
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.models import load_clip, new_clip, save_clip
from effcli.distill.clip_kd.pipeline import distill, plan
from effcli.distill.clip_kd.students import new_student
from tests.distill.clip.tiny_clips import STUDENT, TEACHER, tiny_clip, write_config
from tests.distill.clip_kd.small_run import opened, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RESNET: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "resnet18",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "text_cfg": STUDENT["text_cfg"],
}


def student_of(
    folder: Path, config: dict[str, Any], teacher: ClipModel | None = None, **changes: Any
) -> ClipModel:
    recipe = small_recipe(folder, **changes)
    write_config(folder / "own.json", config)
    return new_student(recipe.model_copy(update={"student": str(folder / "own.json")}), teacher)


def weights(model: ClipModel) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


def test_new_weights_follow_from_the_seed_and_nothing_global_changes(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, seed=3)
    torch.manual_seed(3)
    expected = new_clip(recipe.student).fingerprint()
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    assert new_student(recipe, None).fingerprint() == expected
    assert torch.equal(torch.random.get_rng_state(), before)


def test_trained_weights_of_a_file(tmp_path: Path) -> None:
    from effcli.distill.clip import models

    write_config(tmp_path / "Tiny-Init.json", STUDENT)
    models._open_clip().add_model_config(tmp_path / "Tiny-Init.json")
    trained = tiny_clip(tmp_path, STUDENT, seed=5)
    state = {f"_orig_mod.{name}": value for name, value in weights(trained).items()}
    torch.save({"state_dict": state}, tmp_path / "trained.pt")
    recipe = small_recipe(tmp_path, student=f"Tiny-Init:{tmp_path / 'trained.pt'}")
    student = new_student(recipe, None)
    for name, value in weights(trained).items():
        assert torch.equal(weights(student)[name], value)
    sigmoid = new_student(small_recipe(tmp_path, student=recipe.student, loss={"contrast": "sigmoid"}), None)
    assert float(weights(sigmoid)["logit_bias"]) == -10
    assert torch.equal(weights(sigmoid)["visual.proj"], weights(trained)["visual.proj"])


@pytest.mark.slow
def test_the_teachers_own_text_tower_is_kept(tmp_path: Path) -> None:
    teacher = load_clip(small_recipe(tmp_path).model)
    train = {"epochs": 2, "batch_size": 8, "warmup_steps": 2, "forward_pairs": 3}
    recipe = small_recipe(tmp_path, init={"text": "kept"}, train=train)
    loaded = plan(recipe).inputs
    with opened(tmp_path / "run", recipe) as run:
        distill(recipe, loaded, run)
    student = load_clip(str(tmp_path / "run"))
    tokens = teacher.tokenize(["a red thing"])
    assert torch.equal(student.network.encode_text(tokens), teacher.network.encode_text(tokens))
    assert student.dim == teacher.dim and student.config["vision_cfg"] == STUDENT["vision_cfg"]
    started = weights(new_student(recipe, teacher))
    assert not torch.equal(started["visual.proj"], weights(student)["visual.proj"])


def wide() -> dict[str, Any]:
    vision = {"image_size": 32, "layers": 5, "width": 64, "head_width": 16, "patch_size": 8}
    text = {**TEACHER["text_cfg"], "width": 64, "heads": 4, "layers": 3, "context_length": 12}
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}


def test_a_tower_of_the_same_shape_is_inherited_whole(tmp_path: Path) -> None:
    teacher = tiny_clip(tmp_path, wide(), seed=4)
    student = student_of(tmp_path, wide(), teacher, init={"image": "teacher", "text": "teacher"})
    assert all(torch.equal(weights(student)[name], value) for name, value in weights(teacher).items())


def test_a_narrower_tower_inherits_matching_parts(tmp_path: Path) -> None:
    teacher = tiny_clip(tmp_path, wide(), seed=4)
    config = wide() | {"embed_dim": 12}
    config["vision_cfg"] = {**config["vision_cfg"], "width": 32, "layers": 3, "image_size": 16}
    config["text_cfg"] = {**config["text_cfg"], "width": 32, "heads": 2, "layers": 2, "context_length": 8}
    student = student_of(tmp_path, config, teacher, init={"image": "teacher", "text": "teacher"})
    ours, theirs = weights(student), weights(teacher)
    words = ours["token_embedding.weight"]
    picked = [int((theirs["token_embedding.weight"] == words[:, [i]]).all(0).nonzero()[0]) for i in range(32)]
    assert picked == sorted(picked) and len(set(picked)) == 32
    name = "transformer.resblocks.1.attn.in_proj_weight"
    last = theirs["transformer.resblocks.2.attn.in_proj_weight"][:, picked]
    rows = [int((last == row).all(1).nonzero()[0]) for row in ours[name]]
    assert [row // 64 for row in rows] == [0] * 32 + [1] * 32 + [2] * 32
    assert [row % 64 for row in rows[:32]] == [row % 64 for row in rows[64:]]  # the same heads of q, k and v
    assert all(row % 16 == i % 16 for i, row in enumerate(rows))  # whole heads
    assert torch.equal(ours["positional_embedding"], theirs["positional_embedding"][:8, picked])
    images, tokens = torch.randn(2, 3, 16, 16), torch.ones(2, 8, dtype=torch.long)
    assert student.network.encode_image(images).shape == student.network.encode_text(tokens).shape == (2, 12)


def test_towers_that_cannot_be_inherited(tmp_path: Path) -> None:
    teacher = tiny_clip(tmp_path, wide(), seed=4)
    wider = wide()
    wider["vision_cfg"] = {**wider["vision_cfg"], "width": 128}
    for config, message in ((wider, "more than the teacher's"), (RESNET, "are of different kinds")):
        with pytest.raises(InputError, match=message):
            student_of(tmp_path, config, teacher, init={"image": "teacher"})
    with pytest.raises(UsageError, match="no towers to start from"):
        student_of(tmp_path, STUDENT, None, init={"text": "kept"})


def test_a_trunk_of_torchvision_is_checked_by_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None).eval()
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: resnet)
    student = student_of(tmp_path, RESNET, init={"image": "torchvision:resnet18"})
    assert torch.equal(weights(student)["visual.trunk.conv1.weight"], resnet.conv1.weight)
    resnet.conv1.padding = (2, 2)
    with pytest.raises(InputError, match="computes something other"):
        image_trunks.same_network(resnet, student.network.visual.trunk, "x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not one of timm"):
        student_of(tmp_path, STUDENT, init={"image": "torchvision:resnet18"})


def test_a_trunk_from_a_file(tmp_path: Path) -> None:
    import timm

    trunk = timm.create_model("resnet18", num_classes=0)
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    student = student_of(tmp_path, RESNET, init={"image": str(tmp_path / "trunk.pth")})
    assert torch.equal(
        weights(student)["visual.trunk.layer4.1.bn2.bias"], trunk.state_dict()["layer4.1.bn2.bias"]
    )
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    for file, message in (("other.pth", "weights are missing"), ("gone.pth", "no such file")):
        with pytest.raises(InputError, match=message):
            student_of(tmp_path, RESNET, init={"image": str(tmp_path / file)})


COCA = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {
        **STUDENT["vision_cfg"],
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {**STUDENT["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.mark.slow
def test_a_coca_teaches_but_does_not_learn(tmp_path: Path) -> None:
    coca = tiny_clip(tmp_path, COCA)
    # open_clip leaves this parameter as memory was.
    torch.nn.init.normal_(coca.network.get_parameter("text_decoder.text_projection"))
    save_clip(tmp_path / "coca", coca)
    recipe = small_recipe(tmp_path, model=str(tmp_path / "coca"), student=str(tmp_path / "vit.json"))
    with opened(tmp_path / "run", recipe) as run:
        result = distill(recipe, plan(recipe).inputs, run)
    assert {"teacher", "student"} <= result.metrics.keys()
    with pytest.raises(UsageError, match="can be a teacher, but not a student"):
        student_of(tmp_path, COCA)


def test_a_siglip_like_student(tmp_path: Path) -> None:
    config = STUDENT | {"init_logit_bias": -10.0}
    softmax = student_of(tmp_path, config)
    assert softmax.network.logit_bias.requires_grad is False
    sigmoid = student_of(tmp_path, STUDENT, loss={"contrast": "sigmoid"})
    assert sigmoid.network.logit_bias.requires_grad is True
    assert sigmoid.config["init_logit_bias"] == -10
