"""Files that come without a configuration are named for what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from effcli.core.errors import InputError
from effcli.diffusion.models import load_model

ONE, UNET = torch.zeros(1), "model.diffusion_model.input_blocks."
V2 = {f"{UNET}2.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1, 1024)}
XL = {
    f"{UNET}0.0.weight": torch.zeros(1, 4),
    "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": ONE,
}


@pytest.mark.parametrize(
    ("tensors", "message", "hint"),
    [
        (
            V2,
            "a whole model like stabilityai/stable-diffusion-2-1",
            "stabilityai/stable-diffusion-2-1 beside it",
        ),
        (XL, "a whole model like stabilityai/stable-diffusion-xl-base-1.0", "model_index.json"),
        ({"lora_unet_mid_block.lora_down.weight": ONE}, "is a LoRA, not a model", "--lora FILE"),
        ({"decoder.conv_in.weight": ONE}, "is an autoencoder", "the model that it belongs to"),
        ({"layer.weight": ONE}, "the configuration is missing", "config.json"),
    ],
)
def test_weights_are_named_by_what_they_hold(
    tensors: dict[str, torch.Tensor], message: str, hint: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    with pytest.raises(InputError, match=message) as caught:
        load_model(str(file))
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.gguf", b"GGUF\x03\0\0\0", "is a GGUF file"),
        ("model.safetensors", b"GGUF\x03\0\0\0", "is a GGUF file"),
        ("model.ckpt", b"PK\x03\x04", "cannot be read as a checkpoint of tensors only"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{", "is damaged"),
    ],
)
def test_other_kinds_of_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_model(str(tmp_path / name))


def test_files_of_effcli_that_are_no_diffusion_models_are_named(tmp_path: Path) -> None:
    for metadata, message in (
        ({"effcli.mpq": "{}"}, "is a packed model of `effcli quantize`"),
        ({"format": "effcli.walmafa"}, "is a file of the format effcli.walmafa"),
    ):
        save_file({"x": ONE}, tmp_path / "x.safetensors", metadata)
        with pytest.raises(InputError, match=message):
            load_model(str(tmp_path / "x.safetensors"))
