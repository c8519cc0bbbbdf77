"""`effcli distill` in a subprocess: the students, their folders in plain diffusers, sampling, and quantizing one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.core.resuming.metrics_log import read_metrics
from effcli.distill import Sampler
from tests.cli.effcli_process import Finished, effcli
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_unet

pytestmark = pytest.mark.slow

SMALL = (
    *("--features", "unet", "--device", "cpu", "--precision", "fp32", "--threads", "1"),
    *("-s", "train.steps=2", "-s", "train.last_rounds_steps=2", "-s", "train.batch_size=4"),
    *("-s", "relations.queue_size=64", "-s", "relations.contrast=32", "-s", "eval.n_images=6"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and, in `run`, its students of 8, 4, 2 and 1 steps."""
    folder = tmp_path_factory.mktemp("distill")
    save_pipeline(folder / "model", tiny_unet())
    clothes = ("--data", "builtin:fashion-images")
    steps = ("--steps", "1", "--teacher-steps", "16")
    done = effcli("distill", "model", *clothes, *steps, *SMALL, "-o", "run", cwd=folder)
    assert done.code == 0, done.stderr
    assert done.lines == ["run"]
    return folder


def result(place: Path) -> dict[str, Any]:
    return json.loads((place / "run" / "result.json").read_text())


def test_what_is_reported(place: Path) -> None:
    metrics = result(place)["metrics"]
    for name in ("fd_by_steps", "fd_ddim_by_steps", "mse_to_teacher_by_steps", "s_per_image_by_steps"):
        assert metrics[name].keys() == {"8", "4", "2", "1"}
    assert (metrics["network_calls"], metrics["network_calls_teacher"], metrics["fewer_calls"]) == (1, 16, 16)
    assert metrics["fd_features"] == "pixels"
    for file in result(place)["figures"].values():
        assert (place / "run" / file).is_file()


def test_every_term_of_every_round_is_logged(place: Path) -> None:
    terms: dict[str, set[str]] = {}
    for line in read_metrics(place / "run" / "metrics.jsonl"):
        terms.setdefault(line["stage"], set()).update(line)
    common = {"stage", "step", "loss", "pixel", "learning_rate"}
    assert terms == {
        "16-to-8": common,
        **{name: common | {"cfd", "is_p2p", "m_p2p"} for name in ("8-to-4", "4-to-2", "2-to-1")},
    }


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_plain_diffusers_draws_what_we_draw(place: Path, steps: int) -> None:
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline.from_pretrained(place / "run" / "students" / str(steps))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        batch_size=3,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=steps,
        use_clipped_model_output=True,
        output_type="np",
    ).images
    ours = Sampler(place / "run", steps)(3, generator=torch.Generator().manual_seed(0))
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(one) - other[..., 0] * 255).max() <= 0.51


def test_the_last_student_is_the_model(place: Path) -> None:
    weights = "unet/diffusion_pytorch_model.safetensors"
    last, model = (place / "run" / folder / weights for folder in ("students/1", "model"))
    assert last.read_bytes() == model.read_bytes()


def test_the_released_table_in_plain_diffusers(tmp_path: Path) -> None:
    """2^m + 1 levels: the stored timesteps go where diffusers has no spacing of its own for them."""
    from diffusers import DDIMPipeline

    table = SCHEDULER | {"num_train_timesteps": 65, "set_alpha_to_one": False, "prediction_type": "sample"}
    save_pipeline(tmp_path / "model", tiny_unet(), table)
    done = effcli(
        "distill", "model", "--steps", "2", "--teacher-steps", "4", *SMALL, "-o", "run", cwd=tmp_path
    )
    assert done.code == 0, done.stderr
    stored = json.loads((tmp_path / "run" / "model" / "student.json").read_text())["timesteps"]
    assert stored == [64, 32]
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "run" / "model")
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(2)
    scheduler.timesteps = torch.tensor(stored)
    z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        with torch.no_grad():
            z = scheduler.step(
                pipeline.unet(z, t).sample, t, z, eta=0.0, use_clipped_model_output=True
            ).prev_sample
    ours = Sampler(tmp_path / "run")(3, generator=torch.Generator().manual_seed(0))
    for one, other in zip(ours, z.clamp(-1, 1), strict=True):
        assert np.abs(np.asarray(one) - (other[0].numpy() + 1) * 127.5).max() <= 0.51


def test_sample(place: Path, tmp_path: Path) -> None:
    words = ("distill", "sample", place / "run", "-n", "4")
    assert effcli(*words, "-o", "a", cwd=tmp_path).code == 0
    assert effcli(*words, "-o", "b", "--batch-size", "3", cwd=tmp_path).code == 0
    assert effcli(*words, "--steps", "4", "-o", "c", cwd=tmp_path).code == 0
    first, again, four = (
        [np.asarray(Image.open(p)) for p in sorted((tmp_path / d).iterdir())] for d in "abc"
    )
    assert len(first) == 4 and all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(first, four, strict=True))
    wrong = effcli(*words, "--steps", "16", "-o", "d", cwd=tmp_path)
    assert wrong.code == 2 and "available: 8, 4, 2, 1" in wrong.stderr


def test_eval_measures_what_the_run_measured(place: Path) -> None:
    done = effcli("distill", "eval", "run", "-n", "6", "--json", cwd=place)
    assert done.code == 0, done.stderr
    before, now = result(place)["metrics"], done.json["metrics"]
    for name in ("fd_by_steps", "fd_ddim_by_steps", "mse_to_teacher_by_steps"):
        assert now[name] == pytest.approx(before[name], rel=1e-3)


def test_a_one_step_student_in_four_bits(place: Path) -> None:
    small = "--trajectories 1 -s train.batch_size=2 -s calibration.n_images=2 -s eval.n_images=4"
    command = f"echo run | xargs {sys.executable} -m effcli quantize {small} --bits w4a8 -q -o small"
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "small\n"), done.stderr
    facts = effcli("quantize", "inspect", "small", "--json", cwd=place).json
    assert facts["timesteps"] == [63]
    assert effcli("quantize", "sample", "small", "-n", "2", "-o", "s.png", cwd=place).code == 0
    wrong = effcli("quantize", "run", "run/students/2", "--steps", "16", "-o", "no", cwd=place)
    assert wrong.code == 2 and "distilled for 2 steps, not for 16" in wrong.stderr


def refused(place: Path, *words: str) -> Finished:
    done = effcli("distill", "run", *SMALL, *words, "-o", "nothing", cwd=place)
    assert done.code == 2
    assert not (place / "nothing").exists()
    return done


def test_bad_input(place: Path) -> None:
    assert "3 is not a power of two" in refused(place, "model", "--steps", "3", "--teacher-steps", "8").stderr
    assert "more than the teacher's" in refused(place, "model", "--steps", "8", "--teacher-steps", "4").stderr
    assert "already a student of 1 steps" in refused(place, "run").stderr
    (place / "empty").mkdir(exist_ok=True)
    assert "no images in it" in refused(place, "model", "--data", "empty").stderr
    done = refused(place, "model", "--features", "builtin")
    assert "is for images of 1x16x16, the teacher's are 1x8x8" in done.stderr


def test_methods_share_one_recipe(place: Path) -> None:
    for method, keys in (("pd", set()), ("rcfd", {"features"}), ("rdd", {"features", "relations"})):
        done = effcli("distill", "--method", method, "--dry-run", "--json", cwd=place)
        assert done.code == 0, done.stderr
        assert done.json["recipe"]["method"] == method
        assert {"features", "relations"} & done.json["recipe"].keys() == keys
    wrong = effcli("distill", "--method", "pd", "--features", "unet", "--dry-run", cwd=place)
    assert wrong.code == 2 and "features: unknown key" in wrong.stderr


def test_a_folder_of_mixed_sizes_is_resized(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    for n, size in enumerate([(8, 8), (30, 20), (5, 9)]):
        Image.new("L", size, 60 * n).save(tmp_path / "mixed" / f"{n}.png")
    words = ("distill", place / "model", "--data", "mixed", "--method", "pd", "--steps", "2")
    done = effcli(*words, "--teacher-steps", "4", "--dry-run", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.json["plan"]["train_images"] == 3
