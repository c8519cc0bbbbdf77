"""Latent, text-conditional models: a tiny Stable Diffusion through conditioning, decoding and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from effcli.core.errors import InputError
from effcli.diffusion.autoencoders import load_decoder
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import load_model
from tests.cli.effcli_process import effcli
from tests.diffusion.tiny_models import save_pipeline, tiny_conditional_unet
from tests.diffusion.tiny_text import save_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with a text encoder of 8 channels and a decoder to 16x16 RGB, all with random weights."""
    pytest.importorskip("transformers", reason="the text encoders are in the extra `text`")
    from diffusers import AutoencoderKL

    place = save_pipeline(tmp_path_factory.mktemp("text") / "model", tiny_conditional_unet())
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    )
    vae.save_pretrained(place / "vae")
    save_clip(place, width=8)
    return place


def test_prompts_become_conditions_and_latents_become_images(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    model = load_model(str(folder))
    guided = Guided(model, model.unet, guidance=2.0, prompts=str(tmp_path / "prompts.txt"))
    condition = guided.random_condition(3, torch.Generator().manual_seed(0))
    assert condition["encoder_hidden_states"].shape == (3, 6, 8)
    with torch.no_grad():
        latents = guided.predictor(condition)(torch.randn(3, 4, 8, 8), 5)
    assert latents.shape == (3, 4, 8, 8)
    images = load_decoder(model, torch.device("cpu"))(latents)
    assert images.shape == (3, 3, 16, 16)
    assert float(images.abs().max()) <= 1


@pytest.mark.slow
def test_the_command_takes_it(folder: Path, tmp_path: Path) -> None:
    done = effcli(
        "quantize", folder, "--bits", "w4a8", "--steps", "2", "--guidance", "2", "--trajectories", "1", "-o", "out",
        "-s", "train.batch_size=2", "-s", "calibration.n_images=2", "-s", "eval.n_images=4", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["quantized_layers"] > 40
    assert (tmp_path / "out" / "pictures" / "quantized.png").is_file()
    done = effcli("quantize", "sample", "out", "-n", "2", "-o", "x.png", cwd=tmp_path)
    assert done.code == 0, done.stderr


def embeddings_of(folder: Path) -> torch.Tensor:
    model = load_model(str(folder))
    guided = Guided(model, model.unet)
    return guided.random_condition(8, torch.Generator().manual_seed(0))["encoder_hidden_states"]


def test_a_text_encoder_in_half_precision_computes_in_float32(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    half = shutil.copytree(folder, tmp_path / "half")
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").half()
    (half / "text_encoder" / "model.safetensors").unlink()
    encoder.save_pretrained(half / "text_encoder", variant="fp16")
    assert [file.name for file in (half / "text_encoder").glob("*.safetensors")] == ["model.fp16.safetensors"]
    embeddings = embeddings_of(half)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, embeddings_of(folder), rtol=1e-2, atol=1e-2)


def test_a_text_encoder_that_is_not_understood_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    lacking = next(name for name in tensors if name.endswith("final_layer_norm.weight"))
    save_file({name: value for name, value in tensors.items() if name != lacking}, file, {"format": "pt"})
    with pytest.raises(
        InputError, match=r"the text encoder cannot be loaded: its weights lack .*final_layer_norm\.weight"
    ):
        embeddings_of(broken)
    (broken / "text_encoder" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(InputError, match="is of the model_type 't5', not a CLIP text model"):
        embeddings_of(broken)


@pytest.mark.slow
def test_the_plan_says_what_the_files_hold(folder: Path, tmp_path: Path) -> None:
    half = shutil.copytree(folder, tmp_path / "half")
    shutil.rmtree(half / "unet")
    tiny_conditional_unet().half().save_pretrained(half / "unet", variant="fp16")
    done = effcli("quantize", half, "--dry-run", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.json["plan"]["weights"] == "float16, read as float32"
    assert done.json["plan"]["scheduler"] == "DDIMScheduler, predicts v_prediction, clips x_0"
    assert "its scheduler's clip_sample is true: latents are clipped, as it says" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "clip_sample" in line]) == 1
