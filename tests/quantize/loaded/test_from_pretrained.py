"""`from_pretrained` of diffusers reads what `quantize` and `save_pretrained` write."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

import effcli.quantize
from effcli.core.errors import InputError
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel
from effcli.quantize.loaded.network import PackedNetwork
from effcli.quantize.weights import FILE_NAME, OLD_FILE_NAME, load_packed, save_packed
from tests.diffusion.tiny_denoisers import save_inputs, tiny_denoiser
from tests.diffusion.tiny_models import SCHEDULER
from tests.quantize.loaded.test_network import answer
from tests.quantize.quantized_tiny import pack_weights_into, rounded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    save_packed(place, rounded("w4a8"))
    return place


@pytest.fixture(scope="module")
def weights_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    save_packed(place, rounded("w4"))
    return place


@pytest.mark.parametrize("fixture", ["folder", "weights_alone"])
def test_it_gives_what_load_gives(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place = request.getfixturevalue(fixture)
    network: Any = UNet2DModel.from_pretrained(place)
    assert isinstance(network, PackedNetwork)
    assert torch.equal(answer(network), answer(effcli.quantize.load(place)))
    network.save_pretrained(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == (place / FILE_NAME).read_bytes()


@pytest.mark.parametrize("name", ["dit", "sd3", "flux", "pixart", "sana"])
def test_transformers_load_too(name: str, tmp_path: Path) -> None:
    network: Any = tiny_denoiser(name)
    pack_weights_into(tmp_path / "transformer", network)
    read: Any = type(network).from_pretrained(tmp_path, subfolder="transformer")
    assert PackedNetwork in type(read).__mro__
    file = save_inputs(tmp_path / "inputs.safetensors", network)
    guided = Guided(DiffusionModel(network, SCHEDULER, name), network, inputs=str(file) if file else None)
    condition = guided.random_condition(2, torch.Generator().manual_seed(0))
    x = torch.randn(2, *guided.sample_shape, generator=torch.Generator().manual_seed(1))
    loaded = effcli.quantize.load(tmp_path)
    with torch.no_grad():
        ours = guided.with_unet(read).call(x, 7.0, condition)
        theirs = guided.with_unet(loaded).call(x, 7.0, condition)
        exact = guided.call(x, 7.0, condition)
    assert torch.equal(ours, theirs)
    assert 0 < float((ours - exact).norm() / exact.norm()) < 0.5
    read.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / FILE_NAME).read_bytes() == (
        tmp_path / "transformer" / FILE_NAME
    ).read_bytes()


def test_a_transformer_with_quantized_activations_loads_too(tmp_path: Path) -> None:
    network: Any = tiny_denoiser("dit")
    labels = torch.tensor([0, 1, 2, 3])
    t = torch.full((4,), 47)
    save_packed(tmp_path, rounded("w4a8", network, class_labels=labels, timestep=t))
    read, loaded = type(network).from_pretrained(tmp_path), effcli.quantize.load(tmp_path)
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = (one(x, t, labels).sample for one in (read, loaded))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_the_type_that_is_asked_for(folder: Path, dtype: torch.dtype) -> None:
    network: Any = UNet2DModel.from_pretrained(folder, torch_dtype=dtype)
    assert network.dtype == dtype
    assert network.conv_norm_out.weight.dtype == dtype
    expected = answer(effcli.quantize.load(folder))
    assert answer(network, dtype).dtype == dtype
    assert float((answer(network, dtype).float() - expected).norm() / expected.norm()) < 0.1
    network.float()
    assert network.dtype == torch.float32


def test_a_saved_pipeline_loads(folder: Path, tmp_path: Path) -> None:
    network = effcli.quantize.load(folder)
    DDIMPipeline(network, DDIMScheduler.from_config(SCHEDULER)).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    pipeline: Any = DDIMPipeline.from_pretrained(tmp_path)
    assert isinstance(pipeline.unet, PackedNetwork)
    assert torch.equal(answer(pipeline.unet), answer(network))
    assert load_packed(tmp_path).about == load_packed(folder).about


def test_a_file_of_the_old_name_is_a_variant(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        name = OLD_FILE_NAME if file.name == FILE_NAME else file.name
        (tmp_path / name).write_bytes(file.read_bytes())
    network: Any = UNet2DModel.from_pretrained(tmp_path, variant="mpq")
    assert torch.equal(answer(network), answer(effcli.quantize.load(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["effcli.quantize", "diffusers"])
def test_importing_effcli_registers_the_format_and_nothing_heavy(first: str, folder: Path) -> None:
    code = f"""
        import {first}, sys
        import effcli.quantize
        assert {first!r} == "diffusers" or not {{"torch", "diffusers"}} & sys.modules.keys()
        from diffusers import UNet2DModel
        network = UNet2DModel.from_pretrained({str(folder)!r})
        assert network.num_parameters() > 10000, network.num_parameters()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())

    def with_config(**changes: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        return tmp_path

    with pytest.raises(InputError, match="does not fit its"):
        UNet2DModel.from_pretrained(with_config(block_out_channels=[16, 48]))
    with pytest.raises(InputError, match="is of version 7"):
        UNet2DModel.from_pretrained(
            with_config(quantization_config={"quant_method": "effcli_mpq", "version": 7})
        )
    with pytest.raises(InputError, match="a packed network is on one device"):
        UNet2DModel.from_pretrained(folder, device_map="auto")


def test_the_scheduler_is_in_the_file_too(folder: Path, tmp_path: Path) -> None:
    for name in (FILE_NAME, "config.json"):  # what `from_pretrained` fetches from the hub
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert load_packed(tmp_path).scheduler_config == load_packed(folder).scheduler_config
