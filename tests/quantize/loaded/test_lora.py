"""LoRAs beside packed layers: what diffusers loads computes as on the full-precision network, within its error."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effcli.core.errors import UsageError
from effcli.quantize.loaded.layer import LoadedLayer
from effcli.quantize.packed_unet import load
from effcli.quantize.weights import FILE_NAME, save_packed
from tests.diffusion.tiny_models import tiny_conditional_unet
from tests.quantize.quantized_tiny import rounded

peft = pytest.importorskip("peft", reason="LoRAs are in the extra `lora`")
BACKENDS = ["integer", "simulate"]
TEXT = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
TARGETS = ["conv1", "conv2", "to_q", "to_k", "to_v", "to_out.0", "proj_in", "linear_1"]


def lora_for(unet: Any, seed: int = 1) -> dict[str, Tensor]:
    """A LoRA of rank 4 on convolutions and projections, named as pipelines save it."""
    unet = copy.deepcopy(unet)
    unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=TARGETS))
    state = peft.get_peft_model_state_dict(unet)
    generator = torch.Generator().manual_seed(seed)
    return {
        f"unet.{name}": torch.randn(value.shape, generator=generator) * 0.15 for name, value in state.items()
    }


@pytest.fixture(scope="module")
def plain() -> Any:
    return tiny_conditional_unet().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, plain: Any) -> Path:
    place = tmp_path_factory.mktemp("packed")
    save_packed(place, rounded("w8a8", plain, encoder_hidden_states=TEXT[:1].expand(4, -1, -1)))
    return place


@pytest.fixture(params=BACKENDS)
def network(request: pytest.FixtureRequest, folder: Path) -> Any:
    return load(folder, request.param)


def answer(network: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out: Tensor = network(x.to(dtype), 47, TEXT.to(dtype)).sample
    return out


def add(unet: Any, state: dict[str, Tensor], name: str = "one") -> None:
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline.load_lora_into_unet(dict(state), None, unet, adapter_name=name)


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs).norm() / theirs.norm())


def test_a_lora_computes_beside_the_packed_layers(network: Any, plain: Any) -> None:
    adapted, state = copy.deepcopy(plain), lora_for(plain)
    add(adapted, state)
    before, expected = error(answer(network), answer(plain)), answer(adapted)
    without = answer(network)
    add(network, state)
    n_layers = sum(isinstance(m, peft.tuners.lora.LoraLayer) for m in network.modules())
    assert n_layers == len(state) // 2
    assert all(
        isinstance(m.get_base_layer(), LoadedLayer)
        for m in network.modules()
        if isinstance(m, peft.tuners.lora.LoraLayer)
    )
    assert error(answer(plain), expected) > 0.3  # it does something
    assert error(answer(network), expected) < 2 * before + 0.05
    network.set_adapters(["one"], [0.0])
    torch.testing.assert_close(answer(network), without, rtol=1e-3, atol=1e-3)
    network.disable_adapters()
    torch.testing.assert_close(answer(network), without, rtol=1e-3, atol=1e-3)
    network.unload_lora()
    assert torch.equal(answer(network), without)


def test_two_loras_with_weights(network: Any, plain: Any) -> None:
    adapted = copy.deepcopy(plain)
    for unet in (adapted, network):
        add(unet, lora_for(plain, 1), "one")
        add(unet, lora_for(plain, 2), "two")
        unet.set_adapters(["one", "two"], [0.7, 0.4])
    assert error(answer(network), answer(adapted)) < 0.15


def test_it_goes_through_casts_and_copies(network: Any, plain: Any) -> None:
    add(network, lora_for(plain))
    expected = answer(network)
    assert torch.equal(answer(copy.deepcopy(network)), expected)
    network.to(torch.bfloat16)
    assert answer(network, torch.bfloat16).dtype == torch.bfloat16
    assert error(answer(network, torch.bfloat16), expected) < 0.1


def test_merging_and_saving_with_it_are_refused(
    network: Any, plain: Any, folder: Path, tmp_path: Path
) -> None:
    add(network, lora_for(plain))
    with pytest.raises(UsageError, match="merging a LoRA is not possible"):
        network.fuse_lora()
    with pytest.raises(UsageError, match="merging a LoRA is not possible"):
        network.down_blocks[0].resnets[0].conv1.merge()
    with pytest.raises(UsageError, match="has a LoRA or another adapter"):
        network.save_pretrained(tmp_path)
    network.unload_lora()
    network.save_pretrained(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == (folder / FILE_NAME).read_bytes()


def test_an_adapter_of_ones_own_is_added_but_not_trained(network: Any) -> None:
    network.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    assert network.num_parameters(only_trainable=True) > 0
    with pytest.raises(UsageError, match="gradients do not pass"):
        network(torch.zeros(1, 4, 8, 8), 47, TEXT[:1])
