"""A loaded network does what a network of diffusers does, or refuses by name."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effcli.core.errors import EffcliError, NonFiniteError, UsageError
from effcli.quantize.loaded.layer import LoadedConv2d, LoadedLinear
from effcli.quantize.packed_unet import load
from effcli.quantize.weights import FILE_NAME, load_packed, save_packed
from tests.diffusion.tiny_models import SCHEDULER, tiny_unet
from tests.quantize.quantized_tiny import rounded

BACKENDS = ["integer", "simulate"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of eight bits and of three, activations with a scale for each of four steps."""
    place = tmp_path_factory.mktemp("packed")
    save_packed(place, rounded("w3a8"))
    return place


@pytest.fixture(params=BACKENDS)
def network(request: pytest.FixtureRequest, folder: Path) -> Any:
    return load(folder, request.param)


def answer(network: Any, dtype: torch.dtype = torch.float32, t: int = 47) -> Tensor:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out: Tensor = network(x.to(dtype), t).sample
    return out


def test_what_is_saved_is_the_file_it_came_from(network: Any, folder: Path, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "again", safe_serialization=True, max_shard_size="1KB")
    for name in (FILE_NAME, "config.json", "scheduler_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_pipeline_saves_the_packed_network(network: Any, tmp_path: Path) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler

    DDIMPipeline(network, DDIMScheduler.from_config(SCHEDULER)).save_pretrained(tmp_path / "pipeline")
    again = load(tmp_path / "pipeline" / "unet")
    assert load_packed(tmp_path / "pipeline" / "unet").n_parameters() == network.num_parameters()
    assert torch.allclose(answer(again), answer(network), atol=5e-2)


def test_another_pipeline_takes_the_network_over(network: Any) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, UNet2DModel

    pipeline = DDIMPipeline(network, DDIMScheduler.from_config(SCHEDULER))
    assert DDPMPipeline.from_pipe(pipeline).unet is network
    assert type(network) in (UNet2DModel,)
    assert type(network) is not UNet2DModel


@pytest.mark.parametrize(
    "asked",
    [{"variant": "fp16"}, {"safe_serialization": False}, {"push_to_hub": True}, {"use_flashpack": True}],
)
def test_other_ways_of_saving_are_refused(network: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="save_pretrained does not take"):
        network.save_pretrained(tmp_path / "new", **asked)
    assert not (tmp_path / "new").exists()


def test_parameters_are_counted_as_of_the_full_precision_network(network: Any) -> None:
    plain: Any = tiny_unet()
    assert network.num_parameters() == plain.num_parameters()
    assert network.num_parameters(only_trainable=True) == 0
    assert network.get_memory_footprint() > sum(p.nbytes for p in network.parameters())


def test_copies_compute_the_same(network: Any) -> None:
    before = answer(network)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert isinstance(again, type(network))
        assert again.config == network.config
        assert torch.equal(answer(again), before)
        with torch.no_grad():
            again.conv_norm_out.weight.mul_(2)
        assert not torch.equal(answer(again), before)
    assert torch.equal(answer(network), before)


def test_a_state_dict_goes_from_one_network_to_another(network: Any, folder: Path) -> None:
    state = network.state_dict()
    assert {name for name in state if name.startswith("conv_in.")} == {
        f"conv_in.{part}"
        for part in ("qw8", "row_bits", "scale", "zero", "in_scale", "act_scale", "act_zero", "bias")
    }
    changed = {name: value.clone() for name, value in state.items()}
    changed["conv_out.bias"] += 1
    assert network.load_state_dict(changed).missing_keys == []
    torch.testing.assert_close(answer(network), answer(load(folder, "simulate")) + 1, atol=5e-2, rtol=0)
    network.load_state_dict(state)


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_a_full_precision_network_are_refused(network: Any, strict: bool) -> None:
    with pytest.raises(RuntimeError, match=r"conv_in is quantized: it takes no conv_in\.weight"):
        network.load_state_dict(tiny_unet().state_dict(), strict=strict)


def test_a_damaged_state_dict_is_refused(network: Any) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["conv_in.scale"] = state["conv_in.scale"][:-1]
    del state["conv_out.zero"]
    with pytest.raises(RuntimeError, match=r"(?s)conv_out\.zero.*conv_in: scale is not a vector"):
        network.load_state_dict(state)


def test_what_would_need_plain_weights_is_refused_by_name(network: Any) -> None:
    with pytest.raises(UsageError, match="fuse_qkv_projections is not possible"):
        network.fuse_qkv_projections()
    assert not hasattr(network, "fuse_lora")  # as its class of diffusers


def test_gradients_are_refused(network: Any) -> None:
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    with pytest.raises(UsageError, match="gradients do not pass"):
        network(x, 47)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_latents_that_are_not_finite_are_refused(network: Any, value: float) -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 3, 3] = value
    with torch.no_grad(), pytest.raises(NonFiniteError, match="inputs of the quantized network"):
        network(x, 47)


def test_dequantized_it_is_an_ordinary_network(network: Any, tmp_path: Path) -> None:
    plain = network.dequantize()
    assert not any(isinstance(module, (LoadedConv2d, LoadedLinear)) for module in plain.modules())
    plain.save_pretrained(tmp_path)
    assert torch.equal(plain.conv_in.weight, network.conv_in.weight)


# --- types ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["load", "to", "method"])
def test_half_precision_comes_and_goes(folder: Path, network: Any, dtype: torch.dtype, how: str) -> None:
    before = answer(network)
    if how == "load":
        network = load(folder, "integer" if network.conv_in.integer else "simulate", dtype=dtype)
    elif how == "to":
        network.to(dtype)
    else:
        network = network.half() if dtype == torch.float16 else network.bfloat16()
    assert network.dtype == dtype
    for given in (torch.float32, torch.float16, torch.bfloat16):
        out = answer(network, given)
        assert out.dtype == given
        assert float((out.float() - before).norm() / before.norm()) < 0.1
    network.to(torch.float32)
    assert network.dtype == torch.float32
    assert network.conv_in.codes.scale.dtype == torch.float32


def test_a_network_of_float32_gives_what_a_half_precision_pipeline_expects(network: Any) -> None:
    assert answer(network, torch.float16).dtype == torch.float16
    assert answer(network, torch.bfloat16).dtype == torch.bfloat16


def test_a_tuple_has_the_type_of_the_input_too(network: Any) -> None:
    with torch.no_grad():
        (out,) = network(torch.zeros(1, 1, 8, 8, dtype=torch.float16), 47, return_dict=False)
    assert out.dtype == torch.float16


def test_a_cast_changes_no_code(network: Any, folder: Path) -> None:
    network.half()
    for name, codes in load_packed(folder).layers.items():
        layer = network.get_submodule(name)
        assert torch.equal(layer.codes.codes, codes.codes)
        assert torch.equal(layer.codes.scale, codes.scale)


# --- padding -------------------------------------------------------------------------------------------------


def circular() -> nn.Module:
    unet = tiny_unet()
    for module in unet.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.padding == (1, 1):
            module.padding_mode = "circular"
    return unet.requires_grad_(False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_is_kept(backend: Any, tmp_path: Path) -> None:
    unet = circular()
    save_packed(tmp_path, rounded("w8a8", unet))
    loaded: Any = load(tmp_path, backend)
    assert loaded.conv_in.padding_mode == "circular"
    expected = answer(unet)
    assert float((answer(loaded) - expected).norm() / expected.norm()) < 0.1
    for module in loaded.modules():
        if isinstance(module, LoadedConv2d):
            module.padding_mode = "zeros"
    assert float((answer(loaded) - expected).norm() / expected.norm()) > 0.2


def test_every_refusal_is_one_line(network: Any) -> None:
    with pytest.raises(EffcliError) as caught:
        network.fuse_qkv_projections()
    assert "\n" not in str(caught.value)
    assert caught.value.hint
