"""Students' networks other than the teacher's: their sizes, what is refused, and the round that they begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from effcli.core.errors import InputError, UsageError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.models import DiffusionModel
from effcli.distill.progressive import students_of
from effcli.distill.recipe import PdRecipe
from effcli.distill.rounds import rounds_of
from effcli.distill.trained.student import check_student, starting_network, student_network_config
from tests.diffusion.tiny_models import SCHEDULER, tiny_unet
from tests.distill.small_teacher import examples, teacher, whole


def test_narrower_and_shallower() -> None:
    model = DiffusionModel(tiny_unet(layers_per_block=2), SCHEDULER, "two")
    config = student_network_config("width=0.5,layers=1", model)
    assert (config["block_out_channels"], config["layers_per_block"]) == ([8, 16], 1)
    assert config["attention_head_dim"] == 8
    check_student("width=0.5,layers=1", model)
    assert student_network_config("width=0.01", model)["block_out_channels"] == [8, 8]
    state = torch.get_rng_state()
    first, again, other = (starting_network("width=0.5", model, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])
    assert starting_network(None, model, 0).state_dict().keys() == model.unet.state_dict().keys()


@pytest.mark.parametrize("student", ["half", "width=2", "width=no", "layers=0", "width=0.5,", "depth=1"])
def test_what_is_not_understood(student: str) -> None:
    with pytest.raises(UsageError, match=r"not understood|not a number") as caught:
        check_student(student, teacher())
    assert "config.json" in str(caught.value.hint)


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    own = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention_head_dim": 8}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    file.write_text(json.dumps({"_class_name": "UNet2DModel", **own, **blocks}))
    check_student(str(file), teacher())
    file.write_text(json.dumps({**own, **blocks, "in_channels": 3}))
    with pytest.raises(InputError, match="in_channels is 3, the teacher's 1"):
        check_student(str(file), teacher())


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (
            {"_class_name": "DDIMScheduler", "beta_start": 0.1},
            "is of a DDIMScheduler, not of a UNet2DModel",
            None,
        ),
        (
            {"block_out_chanels": [8, 8]},
            "'block_out_chanels' is not a key",
            "did you mean 'block_out_channels'?",
        ),
    ],
)
def test_a_configuration_of_something_else_is_refused(
    content: dict[str, object], message: str, hint: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        student_network_config(str(tmp_path / "config.json"), teacher())
    assert caught.value.hint == hint


def test_a_size_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="width is given twice"):
        student_network_config("width=0.5,layers=1,width=0.25", teacher())


def test_the_first_round_is_at_the_steps_of_the_teacher(tmp_path: Path) -> None:
    train = {"steps": 1, "last_rounds_steps": 1, "conversion_steps": 1, "batch_size": 2}
    recipe = PdRecipe.model_validate({"student": "width=0.5", "teacher_steps": 2, "train": train})
    model = teacher("v_prediction")
    assert [(one.teacher_steps, one.student_steps) for one in rounds_of(recipe, model)] == [(2, 2), (2, 1)]
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="test") as run:
        found = [student for student, _ in students_of(whole(model), examples(model), recipe, run, None)]
    assert [student.unet.config["block_out_channels"] for student in found] == [[8, 16]] * 2
