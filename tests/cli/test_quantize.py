"""`effcli quantize` in subprocesses: the verbs in a row, exact resume, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.effcli_process import effcli
from tests.diffusion.tiny_models import save_pipeline, tiny_unet

pytestmark = pytest.mark.slow

SMALL: tuple[str, ...] = ("--bits", "w2a4", "--steps", "4", "--trajectories", "2", "-s", "train.batch_size=4")
SMALL += ("-s", "calibration.n_images=4", "-s", "calibration.n_inputs=8", "-s", "eval.n_images=8")
SMALL += ("--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return save_pipeline(place / "model", tiny_unet())


@pytest.fixture(scope="module")
def run(place: Path, model: Path) -> Path:
    done = effcli("quantize", model, *SMALL, "-o", "out", "--save-every", "3steps", "--json", cwd=place)
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    metrics = done.json["metrics"]
    names = {
        "mean_bits_quantized",
        "bits_per_parameter",
        "size_bytes",
        "size_fp32_bytes",
        "fd_fp",
        "mse_to_fp",
    }
    assert names <= metrics.keys()
    assert metrics["fd_features"] == "pixels"
    assert metrics["size_bytes"] < metrics["size_fp32_bytes"] / 2
    return place / "out"


def test_run_leaves_a_packed_model_and_a_report(run: Path) -> None:
    for name in ("recipe.yaml", "result.json", "report.html", "pictures/quantized.png", "model/config.json"):
        assert (run / name).is_file(), name


def test_sample_writes_a_grid_a_folder_or_stdout(run: Path, tmp_path: Path) -> None:
    done = effcli("quantize", "sample", run, "-n", "4", "-o", "grid.png", "--threads", "1", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["grid.png"]), done.stderr
    again = effcli("quantize", "sample", run, "-n", "4", "-o", "-", "--threads", "1", cwd=tmp_path)
    assert again.stdout == (tmp_path / "grid.png").read_bytes()
    refused = effcli("quantize", "sample", run, "-n", "4", "-o", "grid.png", cwd=tmp_path)
    assert refused.code == 2
    assert "--force" in refused.stderr
    done = effcli("quantize", "sample", run, "-n", "3", "-o", "many", "--threads", "1", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert [Image.open(file).size for file in sorted((tmp_path / "many").iterdir())] == [(8, 8)] * 3


def test_eval_measures_the_same_as_the_run(run: Path, place: Path) -> None:
    done = effcli("quantize", "eval", run, "-n", "8", "--threads", "1", "--json", cwd=place)
    assert done.code == 0, done.stderr
    before = json.loads((run / "result.json").read_text())["metrics"]
    assert done.json["metrics"]["mse_to_fp"] == pytest.approx(before["mse_to_fp"], rel=0.2)
    assert done.json["metrics"]["size_bytes"] == before["size_bytes"]


def test_inspect_lists_layers_and_sizes(run: Path, tmp_path: Path) -> None:
    done = effcli("quantize", "inspect", run, cwd=tmp_path)
    assert done.code == 0, done.stderr
    text = done.stdout.decode()
    assert "down_blocks.0.resnets.0.conv1" in text
    assert "bits_per_parameter" in text
    rows = effcli("quantize", "inspect", run, "--json", cwd=tmp_path).json["layers"]
    assert {row["layer"] for row in rows} >= {"conv_in", "conv_out"}


def test_export_gives_a_pipeline_that_diffusers_loads(run: Path, tmp_path: Path) -> None:
    done = effcli("quantize", "export", run, "-o", "plain", "--dtype", "fp32", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["plain"]), done.stderr
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline.from_pretrained(tmp_path / "plain")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline(batch_size=1, num_inference_steps=4, generator=generator, output_type="np").images
    assert images.shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "onnx"), "'onnx' is not one of 'diffusers', 'gguf', 'torchao'"),
        (("--to", "gguf"), "--to gguf: "),
        (("--to", "gguf", "--dtype", "bf16"), "gguf"),
        (("--to", "gguf", "--dtype", "int8"), "'int8' is not one of 'fp32', 'bf16', 'fp16'"),
        (("--to", "torchao", "--model", "nowhere"), "nowhere"),
        (("--to",), "requires an argument"),
    ],
)
def test_mistakes_of_export_leave_one_line(
    run: Path, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = effcli("quantize", "export", run, "-o", "x", *arguments, cwd=tmp_path)
    assert done.code == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("hint:")]
    assert len(errors) == 1
    assert errors[0].startswith("error:")
    assert message in errors[0]
    assert not (tmp_path / "x").exists()


def test_weights_alone_and_the_options_of_the_paper(place: Path, model: Path) -> None:
    for name, options in {
        "w4": ("--bits", "w4"),
        "kurtosis": ("--alloc", "kurtosis", "--search", "tenth", "--profile", "main-path"),
        "plus": ("--plus", "--no-trd"),
    }.items():
        done = effcli("quantize", model, *SMALL, *options, "-o", name, "--json", cwd=place)
        assert done.code == 0, done.stderr
        rows = done.json["metrics"]["allocation"]["rows_by_bits"]
        assert rows["4" if name == "w4" else "2"] > 0
    assert json.loads((place / "w4" / "result.json").read_text())["metrics"]["mse_to_fp"] > 0


def test_dry_run_prints_the_plan_and_writes_nothing(place: Path, model: Path, tmp_path: Path) -> None:
    done = effcli("quantize", model, *SMALL, "--dry-run", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.json["plan"]["fine_tuning_steps"] == 8
    assert not any(tmp_path.iterdir())


def nan_model(folder: Path) -> Path:
    unet = tiny_unet()
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 0, 0] = torch.nan
    return save_pipeline(folder / "nan", unet)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bits", "w9"), "9 bits for weights are not in 1..8"),
        (("--bits", "2a4"), "'2a4' is not of the form w2a4 or w4"),
        (("nowhere",), "nowhere: no such folder"),
        (("builtin:nothing",), "is not in the package"),
        (("--steps", "5000"), "does not convert to DDIM"),
        (("--guidance", "3"), "unconditional model cannot be guided"),
        (("-s", "eval.features=nothing"), "unknown feature space"),
        (("-s", "train.trajectorys=3"), "did you mean 'trajectories'"),
    ],
)
def test_mistakes_leave_one_line_and_nothing_else(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = effcli("quantize", *arguments, "-o", "run", cwd=tmp_path)
    assert done.code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    done = effcli("quantize", nan_model(tmp_path), "-o", "run", cwd=tmp_path)
    assert done.code == 2
    assert "conv_in.weight is not finite" in done.stderr


def test_an_unfinished_run_has_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "recipe.yaml").write_text("task: quantize\n")
    done = effcli("quantize", "sample", "half", cwd=tmp_path)
    assert done.code == 2
    assert "this run is not finished" in done.stderr
