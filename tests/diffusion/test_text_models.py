"""Latent, text-conditional models: a tiny Stable Diffusion through conditioning, decoding and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import load_decoder, load_model
from tests.cli.effcli_process import effcli
from tests.diffusion.tiny_models import save_pipeline, tiny_conditional_unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with a text encoder of 8 channels and a decoder to 16x16 RGB, all with random weights."""
    transformers = pytest.importorskip("transformers", reason="the text encoders are in the extra `text`")
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
    (place / "tokenizer").mkdir()
    letters = [chr(c) for c in range(97, 123)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (place / "tokenizer" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (place / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(place / "tokenizer" / "vocab.json"), str(place / "tokenizer" / "merges.txt"), model_max_length=6
    )
    tokenizer.save_pretrained(place / "tokenizer")
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=6,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.CLIPTextModel(config).save_pretrained(place / "text_encoder")
    return place


def test_prompts_become_conditions_and_latents_become_images(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    model = load_model(str(folder))
    guided = Guided(model, model.unet, guidance=2.0, prompts=str(tmp_path / "prompts.txt"))
    condition = guided.draw(3, torch.Generator().manual_seed(0))
    assert condition["encoder_hidden_states"].shape == (3, 6, 8)
    with torch.no_grad():
        latents = guided.predictor(condition)(torch.randn(3, 4, 8, 8), 5)
    assert latents.shape == (3, 4, 8, 8)
    images = load_decoder(model, torch.device("cpu"))(latents)
    assert images.shape == (3, 3, 16, 16)
    assert float(images.abs().max()) <= 1


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
