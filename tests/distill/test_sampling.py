"""Students from their folders: as many network calls as steps, images in range, the classes that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effcli.core.errors import InputError
from effcli.core.runtime import create_runtime
from effcli.diffusion.models import DiffusionModel, save_folder
from effcli.distill import Sampler, pipeline
from effcli.distill.inputs.teacher import check_teacher
from effcli.distill.progressive import student_config
from effcli.distill.time_grid import TimeGrid
from effcli.distill.weights import load_student, steps_in
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_unet
from tests.distill.small_teacher import teacher


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's students of 1 and 4 steps of a class-conditional teacher."""
    unet = tiny_unet(num_class_embeds=3, in_channels=3, out_channels=3)
    torch.nn.init.normal_(unet.class_embedding.weight, std=20.0)  # type: ignore[arg-type]
    grid = TimeGrid(SCHEDULER, torch.device("cpu"))
    for steps in (1, 4):
        config = student_config(teacher(), "sample", grid.timesteps(steps))
        save_folder(tmp_path / "students" / str(steps), unet, config)
    return tmp_path


def sampled(sampler: Sampler, label: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    pictures = sampler(2, class_labels=torch.tensor([label, label]), generator=generator)
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("steps", [1, 4])
def test_as_many_calls_as_steps_and_the_same_pictures_again(run: Path, steps: int) -> None:
    sampler = Sampler(run, steps)
    asked: list[int] = []
    sampler._guided.unet.register_forward_pre_hook(lambda module, inputs: asked.append(int(inputs[1])))
    first = sampled(sampler)
    assert asked == TimeGrid(SCHEDULER, torch.device("cpu")).timesteps(steps)
    assert first.shape == (2, 8, 8, 3) and first.dtype == np.uint8
    assert np.array_equal(first, sampled(sampler))


def test_classes(run: Path) -> None:
    sampler = Sampler(run, 4)
    assert not np.array_equal(sampled(sampler, 0), sampled(sampler, 2))
    assert len(sampler(3)) == 3  # of random classes
    with pytest.raises(InputError, match=r"3 is not in 0..2"):
        sampled(sampler, 3)
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    images = pipeline.sample(run, 4, runtime, steps=4, classes=(0, 2))
    others = pipeline.sample(run, 4, runtime, steps=4, classes=(0, 1))
    assert [torch.equal(*pair) for pair in zip(images, others, strict=True)] == [True, False, True, False]


def test_the_global_seed_is_obeyed_and_the_global_generator_not_moved(run: Path) -> None:
    def two() -> list[np.ndarray]:
        torch.manual_seed(7)
        sampler = Sampler(run, 1)
        return [np.asarray(sampler(1)[0]) for _ in range(2)]

    first, second = two()
    state = torch.get_rng_state()
    assert np.array_equal(two()[0], first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.array_equal(first, second)
    torch.manual_seed(8)
    assert not np.array_equal(np.asarray(Sampler(run, 1)(1)[0]), first)


def test_classes_of_a_student_without_them(tmp_path: Path) -> None:
    config = student_config(teacher(), "sample", [63])
    save_folder(tmp_path / "students" / "1", tiny_unet(), config)
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with pytest.raises(InputError, match="not class-conditional"):
        pipeline.sample(tmp_path, 1, runtime, steps=1, classes=(0,))


def test_what_is_not_a_student(run: Path) -> None:
    assert steps_in(run) == [4, 1]
    with pytest.raises(InputError, match="no student of 2 steps") as caught:
        load_student(run, 2)
    assert caught.value.hint == "available: 4, 1"
    with pytest.raises(InputError, match="is not a student"):
        load_student(save_pipeline(run / "teacher", tiny_unet()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholding": True}, "its scheduler's thresholding is true"),
        ({"clip_sample_range": 2.0}, "its scheduler's clip_sample_range is 2.0"),
    ],
)
def test_clipping_that_the_targets_do_not_have_is_refused(changes, message):
    model = DiffusionModel(tiny_unet(), SCHEDULER | changes, "tiny")
    with pytest.raises(InputError, match=message):
        check_teacher(model)
