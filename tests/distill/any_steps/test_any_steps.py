"""Students of cd and shortcut: what they are on disk, how they are sampled, and that a stopped run resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.ddim import ddim_scheduler, sample
from effcli.diffusion.models import DiffusionModel
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, RENEWS_NOISE
from effcli.distill import Sampler
from effcli.distill.any_steps import consistency, shortcut
from effcli.distill.any_steps.recipe import AnyStepsRecipe, CdRecipe, ShortcutRecipe
from effcli.distill.any_steps.students import measured_steps
from effcli.distill.progressive import student_config
from effcli.distill.time_grid import TimeGrid
from effcli.distill.weights import load_student, steps_in
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_unet

CPU = torch.device("cpu")


def test_the_numbers_of_steps() -> None:
    assert measured_steps(CdRecipe()) == [8, 4, 2, 1]
    assert measured_steps(CdRecipe(student_steps=2)) == [8, 4, 2]
    assert measured_steps(CdRecipe(teacher_steps=4)) == [2, 1]
    assert measured_steps(CdRecipe(student_steps=16)) == [16]


@pytest.mark.parametrize("n_classes", [None, 3])
def test_the_network_of_a_size_is_a_plain_one(n_classes: int | None) -> None:
    unet = tiny_unet(num_class_embeds=n_classes)
    network = shortcut.with_sizes(unet, 4)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([5, 50])
    labels = None if n_classes is None else torch.tensor([0, 2])
    rows = (0 if labels is None else labels) + torch.zeros(2, dtype=torch.long)
    before = unet(x, t, class_labels=labels).sample
    torch.testing.assert_close(network(x, t, class_labels=2 * (n_classes or 1) + rows).sample, before)
    torch.nn.init.normal_(network.class_embedding.weight)  # type: ignore[arg-type]
    own = shortcut.of_size(network, 2)
    assert own.state_dict().keys() == unet.state_dict().keys()
    expected = network(x, t, class_labels=2 * (n_classes or 1) + rows).sample
    torch.testing.assert_close(own(x, t, class_labels=labels).sample, expected)
    assert not torch.allclose(expected, before, atol=1e-3)


def test_the_share_of_the_teacher() -> None:
    recipe = ShortcutRecipe.model_validate({"teacher_steps": 16, "train": {"batch_size": 400}})
    run: Any = SimpleNamespace(runtime=create_runtime(device="cpu", precision="fp32", threads=1))
    sizes = shortcut.sizes_of_batch(3, 400, 4, recipe, run)
    assert int((sizes == 3).sum()) == 100
    assert (torch.bincount(sizes)[:3] > 60).all()
    assert bool((shortcut.sizes_of_batch(3, 400, 1, recipe, run) == 0).all())


@pytest.mark.parametrize("config", [SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}],
                         ids=["table", "flow"])  # fmt: skip
def test_multistep_sampling_puts_fresh_noise_around_each_image(config: dict[str, Any]) -> None:
    grid = TimeGrid(config, CPU)
    prediction = "v_prediction" if config is SCHEDULER else "flow_prediction"
    own = student_config(DiffusionModel(tiny_unet(), config, "m"), prediction, grid.timesteps(4)) | {
        RENEWS_NOISE: True
    }
    noise = torch.randn(2, 1, 4, 4)

    def predict(z: torch.Tensor, t: float) -> torch.Tensor:
        return 0.1 * z + 0.01 * t / 64

    found = sample(predict, ddim_scheduler(own), noise, generator=torch.Generator().manual_seed(0))
    generator, z = torch.Generator().manual_seed(0), noise
    for k in (4, 3, 2, 1):
        now, end = (grid.at(torch.tensor([i]), 4) for i in (k, k - 1))
        v = predict(z, float(now.t))
        x = now.alpha * z - now.sigma * v if config is SCHEDULER else z - now.sigma * v
        fresh = torch.randn(z.shape, generator=generator)
        x = x.clamp(-1, 1)
        z = end.alpha * x + end.sigma * fresh if k > 1 else x
    torch.testing.assert_close(found, z, atol=1e-4, rtol=1e-4)


class StopError(Exception):
    """In the middle of a run."""


def run_to_end(
    place: Path, recipe: AnyStepsRecipe, *, stop_at: int | None = None, resume: bool = False
) -> None:
    method: Any = consistency if isinstance(recipe, CdRecipe) else shortcut
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(place, recipe, runtime, verb="run", recipe_name="test", resume=resume) as run:
        real = run.log

        def log_until(stage: str, step: int, **values: Any) -> None:
            if stop_at is not None and step == stop_at:
                raise StopError
            real(stage, step, **values)

        run.save_every = type(run.save_every)(None, 1)
        run.log = log_until  # type: ignore[method-assign]
        method.distill(recipe, method.plan(recipe).inputs, run)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), [(CdRecipe, "epsilon"), (ShortcutRecipe, "v_prediction")])
def test_a_run_and_its_students(tmp_path: Path, method: type[AnyStepsRecipe], kind: str) -> None:
    for number in range(6):
        (tmp_path / "images" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.full((8, 8), 40 * number, np.uint8))
        picture.save(tmp_path / "images" / str(number % 2) / f"{number}.png")
    n_classes = 2 if method is ShortcutRecipe else None
    save_pipeline(
        tmp_path / "model", tiny_unet(num_class_embeds=n_classes), SCHEDULER | {"prediction_type": kind}
    )
    recipe = method.model_validate({
        "model": str(tmp_path / "model"), "data": {"source": str(tmp_path / "images")}, "teacher_steps": 8,
        "train": {"steps": 3, "conversion_steps": 1, "batch_size": 4, "learning_rate": 1e-3},
        "eval": {"n_images": 4},
    })  # fmt: skip
    run_to_end(tmp_path / "whole", recipe)
    with pytest.raises(StopError):
        run_to_end(tmp_path / "cut", recipe, stop_at=2)
    run_to_end(tmp_path / "cut", recipe, resume=True)
    assert steps_in(tmp_path / "cut") == [4, 2, 1]
    for steps in (4, 2, 1):
        whole, cut = (load_student(tmp_path / name, steps).unet.state_dict() for name in ("whole", "cut"))
        assert all(torch.equal(value, cut[key]) for key, value in whole.items())
        student = load_student(tmp_path / "whole", steps)
        assert student.scheduler_config[DISTILLED_TIMESTEPS] == TimeGrid(SCHEDULER, CPU).timesteps(steps)
        assert bool(student.scheduler_config.get(RENEWS_NOISE)) is (method is CdRecipe)
        assert student.scheduler_config["prediction_type"] == "v_prediction"
        first, second = (
            Sampler(tmp_path / "whole", steps)(1, generator=torch.Generator().manual_seed(0))
            for _ in range(2)
        )
        assert np.array_equal(np.asarray(first[0]), np.asarray(second[0]))
    metrics = json.loads((tmp_path / "whole" / "result.json").read_text())["metrics"]
    assert set(metrics["fd_by_steps"]) == {"4", "2", "1"}
