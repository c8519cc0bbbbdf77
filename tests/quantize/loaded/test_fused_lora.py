"""A LoRA fused before quantizing: the weights are those that diffusers fuses; what does not fit is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from effcli.core.errors import InputError
from effcli.diffusion.models import DiffusionModel
from effcli.quantize.loaded.fused_lora import describe_lora, lora_of, with_lora
from effcli.quantize.recipe import LoraSection
from tests.diffusion.tiny_models import SCHEDULER, tiny_conditional_unet, tiny_unet

peft = pytest.importorskip("peft", reason="LoRAs are in the extra `lora`")
KOHYA = {"lora_down": "A", "lora_up": "B"}
CONV, PROJECTION = "down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def model_of(unet: Any) -> DiffusionModel:
    return DiffusionModel(unet.requires_grad_(False), SCHEDULER, "tiny")


def lora(unet: Any, prefix: str = "unet.") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name in (CONV, PROJECTION):
        weight = unet.get_submodule(name).weight
        a = torch.randn(2, *weight.shape[1:], generator=generator)
        b = torch.randn(len(weight), 2, *([1] * (weight.ndim - 2)), generator=generator)
        tensors |= {f"{prefix}{name}.lora_A.weight": a, f"{prefix}{name}.lora_B.weight": b}
    return tensors


@pytest.mark.parametrize("alpha", [None, 4])
def test_the_update_is_in_the_weights(alpha: int | None, tmp_path: Path) -> None:
    unet: Any = tiny_conditional_unet()
    tensors = lora(unet)
    about = {"unet.r": 2, "unet.lora_alpha": alpha, "unet.target_modules": [CONV, PROJECTION]}
    metadata = None if alpha is None else {"lora_adapter_metadata": json.dumps(about)}
    save_file(tensors, tmp_path / "l.safetensors", metadata)
    section = LoraSection(file=str(tmp_path / "l.safetensors"), scale=0.5)
    fused: Any = with_lora(model_of(copy.deepcopy(unet)), section).unet
    a, b = (tensors[f"unet.{PROJECTION}.lora_{part}.weight"] for part in "AB")
    expected = unet.get_submodule(PROJECTION).weight + 0.5 * (1 if alpha is None else alpha / 2) * b @ a
    torch.testing.assert_close(fused.get_submodule(PROJECTION).weight, expected)
    assert fused.state_dict().keys() == unet.state_dict().keys()
    assert not torch.equal(fused.get_submodule(CONV).weight, unet.get_submodule(CONV).weight)
    assert torch.equal(fused.conv_in.weight, unet.conv_in.weight)


@pytest.mark.parametrize("alpha", [2.0, 4.0])
def test_names_of_other_trainers_give_the_same(alpha: float, tmp_path: Path) -> None:
    unet: Any = tiny_conditional_unet()
    tensors = lora(unet, prefix="")
    kohya: dict[str, Tensor] = {}
    for name in (CONV, PROJECTION):
        own = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{own}.{k}.weight": tensors[f"{name}.lora_{p}.weight"] for k, p in KOHYA.items()}
        kohya[f"{own}.alpha"] = torch.tensor(alpha)
    save_file(kohya, tmp_path / "l.safetensors")
    fused: Any = with_lora(
        model_of(copy.deepcopy(unet)), LoraSection(file=str(tmp_path / "l.safetensors"))
    ).unet
    a, b = (tensors[f"{PROJECTION}.lora_{part}.weight"] for part in "AB")
    expected = unet.get_submodule(PROJECTION).weight + alpha / 2 * b @ a
    torch.testing.assert_close(fused.get_submodule(PROJECTION).weight, expected)
    assert not torch.equal(fused.get_submodule(CONV).weight, unet.get_submodule(CONV).weight)


def test_none_is_none() -> None:
    model = model_of(tiny_unet())
    assert with_lora(model, LoraSection()) is model
    assert describe_lora(LoraSection()) is None
    assert lora_of(None) == LoraSection()


def test_what_was_fused_is_found_again_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "l.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    section = LoraSection(file=str(file), scale=0.3)
    about = describe_lora(section)
    assert lora_of(about) == section
    save_file({"x": torch.ones(1)}, file)
    with pytest.raises(InputError, match="is not the LoRA that was fused"):
        lora_of(about)
    file.unlink()
    with pytest.raises(InputError, match="is no longer here"):
        lora_of(about)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k.replace("mid_block", "middle"): v for k, v in t.items()}, "this one has no middle"),
        (
            lambda t: {k.replace("unet.", "text_encoder."): v for k, v in t.items()},
            "holds no LoRA for the network",
        ),
        (
            lambda t: {k.replace("unet.", "base_model.model."): v for k, v in t.items()},
            "has the names of PEFT",
        ),
        (lambda t: t | {f"unet.{CONV}.dora_scale": torch.ones(16)}, "is not a plain LoRA"),
        (lambda t: t | {f"unet.{CONV}.lora_B.weight": torch.full((16, 2, 1, 1), torch.nan)}, "is not finite"),
        (
            lambda t: t | {f"unet.{CONV}.lora_B.weight": torch.ones(9, 2, 1, 1)},
            "conv1 has 9 outputs, this one's 16",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    unet = tiny_conditional_unet()
    file = tmp_path / "l.safetensors"
    save_file(change(lora(unet)), file)
    with pytest.raises(InputError, match=message) as caught:
        with_lora(model_of(unet), LoraSection(file=str(file)))
    assert "\n" not in str(caught.value)


def test_networks_without_loras_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diffusers has no LoRAs for a UNet2DModel"):
        with_lora(model_of(tiny_unet()), LoraSection(file=str(tmp_path / "l.safetensors")))
