"""Prompts through the text encoders of SDXL, PixArt, SD3 and Flux, all tiny: what comes out fits the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.checking import check_forward
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.denoisers.prompts import load_embedder, read_prompts
from effcli.diffusion.models import load_model, save_folder
from tests.diffusion.tiny_denoisers import tiny_denoiser
from tests.diffusion.tiny_models import SCHEDULER
from tests.diffusion.tiny_text import save_clip, save_t5

pytest.importorskip("transformers", reason="the text encoders are in the extra `text`")


def with_text(name: str, folder: Path) -> Path:
    """The tiny network of that name in a folder with its text encoders."""
    save_folder(folder, tiny_denoiser(name), {**SCHEDULER, "clip_sample": False})
    if name == "sdxl":
        save_clip(folder, width=8)
        save_clip(folder, "_2", width=16, projection=16)
    elif name == "sd3":
        save_clip(folder, width=4, projection=4)
        save_clip(folder, "_2", width=8, projection=8)
        save_t5(folder, "_3", width=24)
    elif name == "flux":
        save_clip(folder, width=8)
        save_t5(folder, "_2", width=24)
    else:
        save_t5(folder, width=8)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "pixart", "sd3", "flux"])
def test_prompts_become_what_the_network_is_given(name: str, tmp_path: Path) -> None:
    model = load_model(str(with_text(name, tmp_path / "model")))
    (tmp_path / "prompts.txt").write_text("a cat\na dog\nsea\n")
    guided = Guided(model, model.unet, guidance=2.0, prompts=str(tmp_path / "prompts.txt"))
    check_forward(model, guided)
    condition = guided.random_condition(8, torch.Generator().manual_seed(0))
    assert all(len(value) == 8 for value in condition.values())
    embeddings = condition["encoder_hidden_states"]
    assert len(embeddings.unique(dim=0)) == 3  # a row per prompt
    if name == "sdxl":
        assert not guided._null["encoder_hidden_states"].any()  # force_zeros_for_empty_prompt
        assert condition["added_cond_kwargs.time_ids"][0].tolist() == [64, 64, 0, 0, 64, 64]
    if name == "sd3":
        assert embeddings.shape[1] == 6 + 256  # tokens of CLIP, then those of T5


def test_an_encoder_that_is_not_read_is_named(tmp_path: Path) -> None:
    folder = with_text("flux", tmp_path / "model")
    config = folder / "text_encoder_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "gemma"}))
    model = load_model(str(folder))
    with pytest.raises(InputError, match="is of the model_type 'gemma', not one of clip_text_model and t5"):
        Guided(model, model.unet)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_prompts_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("a cat\r\n\r\n  ünder the sea \n".encode(encoding))
    assert read_prompts(file) == ["a cat", "ünder the sea"]
    file.write_bytes(b"a cat\n\xe4\n")
    with pytest.raises(InputError, match="is not UTF-8") as caught:
        read_prompts(file)
    assert str(caught.value.place) == f"{file}:2"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_prompts_that_are_cut_are_said(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, file = with_text(name, tmp_path / "model"), tmp_path / f"{name}.txt"
    file.write_text("abcd\nabcde\nabcdef\n")  # a token each, and two marks, where CLIP reads six
    model = load_model(str(folder))
    caplog.set_level(0)
    load_embedder(model.unet, model.folder, model.source).embed_file(str(file))
    said = [one for one in caplog.messages if "left out" in one]
    clip = f"{file}: 2 prompts: longer than the 6 tokens of its tokenizer; what is behind them is left out"
    assert said == ([clip, clip.replace("tokenizer;", "tokenizer_2;")] if name == "sdxl" else [clip])
