"""`effcli enhance train` and `eval` in subprocesses: exact resume after kill -9, two processes equal to one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.cli.effcli_process import effcli

pytestmark = pytest.mark.slow

TINY: tuple[str, ...] = (
    "-r",
    "small",
    "-s",
    "network.dim=4",
    "-s",
    "network.d_state=4",
    "-s",
    "data.patch=16",
    "-s",
    "train.batch_size=2",
)
TINY += ("--device", "cpu", "--precision", "fp32")


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "walmafa.safetensors")


def _assert_equal(a: Path, b: Path) -> None:
    first, second = _weights(a), _weights(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_train_then_eval_then_enhance_with_the_new_weights(pairs: Path, tmp_path: Path) -> None:
    done = effcli(
        "enhance",
        "train",
        *TINY,
        "--data",
        pairs,
        "--eval-data",
        pairs,
        "--steps",
        "3",
        "-o",
        "run",
        "--json",
        cwd=tmp_path,
    )
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["eval_pairs"] == 2
    assert {"input", "gamma", "histeq"} <= set(done.json["metrics"]["baselines"])
    for name in (
        "recipe.yaml",
        "result.json",
        "metrics.jsonl",
        "report.html",
        "log.txt",
        "model/walmafa.safetensors",
    ):
        assert (tmp_path / "run" / name).exists(), name
    weights = tmp_path / "run" / "model" / "walmafa.safetensors"
    measured = effcli(
        "enhance",
        "eval",
        "--data",
        pairs,
        "--weights",
        weights,
        "--precision",
        "fp32",
        "--json",
        cwd=tmp_path,
    )
    assert measured.json["metrics"]["psnr"] == pytest.approx(done.json["metrics"]["psnr"], abs=1e-3)
    table = effcli("enhance", "eval", "--data", pairs, "--weights", weights, cwd=tmp_path)
    assert [line.split()[0] for line in table.lines[1:]] == [
        str(weights),
        "input",
        "gamma",
        "histeq",
        "gamma_3_5",
    ]


def test_the_saved_recipe_gives_the_same_weights_again(pairs: Path, tmp_path: Path) -> None:
    one = ("--threads", "1")
    assert (
        effcli("enhance", "train", *TINY, *one, "--data", pairs, "--steps", "4", "-o", "a", cwd=tmp_path).code
        == 0
    )
    assert (
        effcli(
            "enhance", "train", "-r", "a/recipe.yaml", *one, "--device", "cpu", "-o", "b", cwd=tmp_path
        ).code
        == 0
    )
    _assert_equal(tmp_path / "a", tmp_path / "b")


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(pairs: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "effcli",
        "enhance",
        "train",
        *TINY,
        "--data",
        str(pairs),
        "--steps",
        "100000",
    ]
    process = subprocess.Popen(
        [*command, "-o", "run"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == ""
    assert "--resume" in stderr
    assert (tmp_path / "run" / "checkpoints" / "train.pt").exists()


def test_a_directory_of_another_recipe_is_refused(pairs: Path, tmp_path: Path) -> None:
    arguments = ("enhance", "train", *TINY, "--data", pairs, "-o", "run")
    assert effcli(*arguments, "--steps", "2", cwd=tmp_path).code == 0
    for extra in ((), ("--resume",)):
        done = effcli(*arguments, "--steps", "3", *extra, cwd=tmp_path)
        assert done.code == 2
        assert "train.steps: 2 -> 3" in done.stderr


def test_bad_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = effcli("enhance", "train", *TINY, "--data", "nowhere", "-o", "run", cwd=tmp_path)
    assert done.code == 2
    assert "nowhere" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_could_not_start_leaves_nothing_behind(pairs: Path, tmp_path: Path) -> None:
    arguments = ("enhance", "train", *TINY, "--data", pairs, "--steps", "1", "-o", "run")
    done = effcli(*arguments, "-s", "train.init=nowhere.safetensors", cwd=tmp_path)
    assert done.code == 2 and "nowhere.safetensors" in done.stderr
    assert not (tmp_path / "run").exists()
    assert effcli(*arguments, cwd=tmp_path).code == 0


def test_pictures_too_small_to_measure_are_refused_before_training(pairs: Path, tmp_path: Path) -> None:
    for side in ("low", "high"):
        (tmp_path / "tiny" / side).mkdir(parents=True)
        Image.new("RGB", (5, 40)).save(tmp_path / "tiny" / side / "thin.png")
    arguments = (*TINY, "--data", pairs, "--eval-data", "tiny", "--steps", "2", "-o", "run")
    done = effcli("enhance", "train", *arguments, cwd=tmp_path)
    assert done.code == 2 and "thin.png: 5x40 is too small" in done.stderr
    assert not (tmp_path / "run").exists()
    assert effcli("enhance", "eval", "--data", "tiny", cwd=tmp_path).code == 2


def test_weights_of_equal_runs_are_the_same_bytes(pairs: Path, tmp_path: Path) -> None:
    sums = []
    for name in ("a", "b"):
        arguments = (*TINY, "--threads", "1", "--data", pairs, "--steps", "2", "-o", name, "--json")
        sums.append(effcli("enhance", "train", *arguments, cwd=tmp_path).json["metrics"]["weights_sha256"])
    assert sums[0] == sums[1]
