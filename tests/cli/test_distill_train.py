"""`effcli distill train` in a subprocess: both models, exact resume."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.effcli_process import effcli

pytestmark = pytest.mark.slow

TINY: tuple[str, ...] = (
    "-s",
    "unet.block_out_channels=[8, 8]",
    "-s",
    "unet.attention_levels=[1]",
    "-s",
    "unet.attention_head_dim=8",
)
TINY += (
    "-s",
    "unet.norm_num_groups=4",
    "-s",
    "data.side=8",
    "-s",
    "train.batch_size=4",
    "-s",
    "sampler.steps=2",
)
TINY += ("--device", "cpu", "--precision", "fp32", "--threads", "1")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for name, darkest in (("night", 0), ("day", 128)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            values = draws.integers(darkest, darkest + 128, (8, 8), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def test_teacher_resumes_to_the_same_weights(images: Path, tmp_path: Path) -> None:
    arguments = ("distill", "train", *TINY, "--data", images, "--steps", "4", "--save-every", "2steps")
    whole = effcli(*arguments, "-o", "whole", "--json", cwd=tmp_path)
    assert whole.code == 0, whole.stderr
    assert (tmp_path / "whole" / "pictures" / "samples.png").is_file()
    checkpoints = tmp_path / "whole" / "checkpoints"
    again = tmp_path / "again"
    again.mkdir()
    (again / "checkpoints").mkdir()
    for name in ("recipe.yaml",):
        (again / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    (again / "checkpoints" / "train.pt").write_bytes((checkpoints / "train.previous.pt").read_bytes())
    resumed = effcli(*arguments, "-o", "again", "--resume", "--json", cwd=tmp_path)
    assert resumed.code == 0, resumed.stderr
    assert resumed.json["metrics"]["weights_sha256"] == whole.json["metrics"]["weights_sha256"]


def test_classifier(images: Path, tmp_path: Path) -> None:
    done = effcli(
        "distill", "train", "-r", "fashion-classifier", "--data", images, "--steps", "30", "-o", "run", "--json",
        "-s", "data.side=8", "-s", "train.batch_size=8", "-s", "width=8", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["accuracy_train"] == 1
    assert (tmp_path / "run" / "model" / "classifier.safetensors").is_file()


def test_missing_data_is_said_before_anything_is_written(tmp_path: Path) -> None:
    done = effcli("distill", "train", "--data", "nowhere", "-o", "run", cwd=tmp_path)
    assert done.code == 2
    assert "nowhere: no such file or folder" in done.stderr
    assert not (tmp_path / "run").exists()
